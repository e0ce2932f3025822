"""A server for the tests of a module, and a fresh tree of it for each test."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tenure import Client
from tests.servers import zookeeper
from tests.servers.zookeeper import ZooKeeperServer

if TYPE_CHECKING:
    from collections.abc import Iterator

_serial = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[ZooKeeperServer]:
    if reason := zookeeper.missing():
        pytest.skip(reason)
    with ZooKeeperServer() as server:
        yield server


@pytest.fixture
def url(server: ZooKeeperServer) -> str:
    """A fresh store."""
    return f"{server.url}/fresh-{next(_serial)}?{server.options}"


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    """A client with a long ttl: whatever is left behind would stay."""
    with Client(url, ttl=60) as made:
        yield made
