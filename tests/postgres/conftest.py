"""A server for each file, a schema for each test."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tenure import Client
from tests.postgres.connections import Blocking
from tests.postgres.rig import LONG, Shelf
from tests.servers import postgres
from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

_serial = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    if reason := postgres.missing():
        pytest.skip(reason)
    with PostgresServer() as server:
        yield server


@pytest.fixture
def schema() -> str:
    """A fresh name."""
    return f"s{next(_serial)}"


@pytest.fixture
def url(server: PostgresServer, schema: str) -> str:
    """A fresh store."""
    return f"{server.url}?schema={schema}&create=yes"


@pytest.fixture
def witness(url: str) -> Iterator[Client]:
    """A client whose network is sound."""
    with Client(url, ttl=LONG) as client:
        yield client


@pytest.fixture
def shelf(server: PostgresServer, schema: str) -> Iterator[Shelf]:
    shelf = Shelf(server, schema)
    yield shelf
    shelf.wire.shut()


@pytest.fixture
def own(server: PostgresServer) -> Iterator[Blocking]:
    """A connection of the user's own."""
    with Blocking(server.url) as own:
        yield own


@pytest.fixture
def other(server: PostgresServer) -> Iterator[Blocking]:
    with Blocking(server.url) as other:
        yield other
