"""The servers to which a network can fail, one of each kind: an engine that comes registers itself here."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from tenure import AsyncClient, Client
from tests.etcd import rig as etcd_rig
from tests.faces.watched import LONG
from tests.postgres import rig as postgres_rig
from tests.redis import rig as redis_rig
from tests.servers import etcd, postgres, redis, zookeeper
from tests.servers.etcd import EtcdServer
from tests.servers.postgres import PostgresServer
from tests.servers.processes import HOST
from tests.servers.redis import RedisServer
from tests.servers.zookeeper import ZooKeeperServer
from tests.zookeeper import rig as zookeeper_rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Place(NamedTuple):
    """One server.

    Attributes:
        address: its own.
        url: as tenure takes it, by way of a host and a port.
        ttl: the shortest that leaves a request some tenths of a second, in seconds.
        patience: seconds in which a request that meets a fault is sent again and answered.
        hears: wait until one waiter hears of its grant by itself.
        for_tasks, for_threads: connections of one client at most: the callers', the keeper's, the mailbox's.
    """

    address: tuple[str, int]
    url: Callable[[str, int], str]
    ttl: float
    patience: float
    hears: Callable[[], None]
    for_tasks: int = 3
    for_threads: int = 10


class Way(NamedTuple):
    """A way to a server that can fail, and one that does not, to a store of the test's own.

    Attributes:
        ttl: seconds; a request without an answer is given up after `patience` of them.
    """

    url: str
    sound: str
    options: dict[str, Any]
    ttl: float
    patience: float

    def client(self, **options: Any) -> Client:
        """Behind the fault."""
        return Client(self.url, **{"ttl": self.ttl, **self.options, **options})

    def async_client(self, **options: Any) -> AsyncClient:
        """The same for asyncio."""
        return AsyncClient(self.url, **{"ttl": self.ttl, **self.options, **options})

    def async_witness(self) -> AsyncClient:
        """One whose network is sound."""
        return AsyncClient(self.sound, ttl=LONG, **self.options)


class Kind(NamedTuple):
    """How a place is made; `missing` says why it cannot be here, or None."""

    enter: Callable[[], contextlib.AbstractContextManager[Place]]
    missing: Callable[[], str | None]


@contextlib.contextmanager
def _redis() -> Iterator[Place]:
    with RedisServer() as server:
        yield Place(
            server.address, lambda host, port: f"redis://{host}:{port}/0", 1.5, 0.25, lambda: redis_rig.listens(server)
        )


@contextlib.contextmanager
def _postgres() -> Iterator[Place]:
    with PostgresServer() as server:

        def url(host: str, port: int) -> str:
            return server.url.replace(f"{HOST}:{server.port}/", f"{host}:{port}/") + "?schema=network&create=yes"

        yield Place(
            (HOST, server.port), url, 1.5, 0.25, lambda: postgres_rig.listens(server), for_tasks=6, for_threads=6
        )


@contextlib.contextmanager
def _etcd() -> Iterator[Place]:
    with EtcdServer() as server:

        def hears() -> None:
            # One watch is of its own session, the other of whoever is in front.
            etcd_rig.hears(server, 2)

        yield Place(server.address, lambda host, port: f"etcd://{host}:{port}", 3.0, 0.5, hears)


@contextlib.contextmanager
def _zookeeper() -> Iterator[Place]:
    with ZooKeeperServer() as server:

        def url(host: str, port: int) -> str:
            return f"zookeeper://{host}:{port}?{server.options}"

        # The connection is made anew, and then the session moved to it: a request more.
        yield Place(server.address, url, 1.8, 0.6, lambda: zookeeper_rig.watch(server, server.url, 1), for_threads=3)


KINDS: dict[str, Kind] = {
    "redis": Kind(_redis, redis.missing),
    "postgresql": Kind(_postgres, postgres.missing),
    "etcd": Kind(_etcd, etcd.missing),
    "zookeeper": Kind(_zookeeper, zookeeper.missing),
}
