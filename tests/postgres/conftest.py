"""A server for each file, a schema for each test."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tenure import Client
from tests.postgres.rig import LONG
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
