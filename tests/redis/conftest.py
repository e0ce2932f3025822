"""What several files of this folder start: one server, and one cluster, for the whole run; each test finds it empty."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tenure import Client
from tests.faces.watched import LONG, Looped, warm
from tests.redis.clusters import flush
from tests.redis.rig import TTL, through
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer
from tests.servers.redis_cluster import RedisCluster
from tests.servers.resp import frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faces.watched import AnyClient


@pytest.fixture(scope="session")
def one_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def server(one_server: RedisServer) -> RedisServer:
    """A server that no test may break."""
    one_server.cli("FLUSHALL")
    return one_server


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    with Proxy(server.address, frame=frame) as proxy:
        yield proxy


@pytest.fixture
def witness(server: RedisServer) -> Iterator[Client]:
    """A client whose network is sound."""
    with Client(server.url, ttl=LONG) as client:
        yield client


@pytest.fixture(params=[Client, Looped])
def client(request: pytest.FixtureRequest, proxy: Proxy) -> Iterator[AnyClient]:
    """A client behind the proxy, blocking or asyncio, with its connections made."""
    with request.param(through(proxy), ttl=TTL) as client:
        warm(client)
        yield client
        proxy.heal()


@pytest.fixture(scope="session")
def one_cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(one_cluster: RedisCluster) -> RedisCluster:
    """A cluster of three masters that no test may break; slots may have moved."""
    flush(one_cluster)
    return one_cluster
