"""A server for the tests of a module, and a fresh tree of it for each test."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pytest

from tenure import Client
from tests.servers import zookeeper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.zookeeper import ZooKeeperServer

_serial = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[ZooKeeperServer]:
    if reason := zookeeper.missing():
        pytest.skip(reason)
    with zookeeper.shared() as server:
        yield server


@pytest.fixture
def url(server: ZooKeeperServer) -> str:
    """A fresh store."""
    return f"{server.url}/fresh-{os.getpid()}-{next(_serial)}?{server.options}"


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    """A client with a long ttl: whatever is left behind would stay."""
    with Client(url, ttl=60) as made:
        yield made
