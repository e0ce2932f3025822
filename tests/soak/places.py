"""The engines as a soak sees them: real servers that keep what they acknowledge, each worker behind proxies of its own.

What an engine does not promise is not asked of it here: its servers lose no data, and no clock is moved.
"""

from __future__ import annotations

import contextlib
import tempfile
from typing import TYPE_CHECKING, NamedTuple

from tenure import Client
from tests.servers import etcd, postgres, redis, zookeeper
from tests.servers.etcd import EtcdCluster, EtcdServer
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer
from tests.servers.zookeeper import Ensemble

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.servers.processes import Server
    from tests.servers.proxy import Proxy


class Place(NamedTuple):
    """One store.

    Attributes:
        url: of the store, by way of a proxy for each of `targets`.
        targets: the servers' addresses.
        servers: what may be stopped and killed.
        spare: how many of them may be away at once; a lone server may be, for a while.
        is_patient: they may stand still, and go on, and not only be killed.
    """

    url: Callable[[Sequence[Proxy]], str]
    targets: Sequence[tuple[str, int]] = ()
    servers: Sequence[Server] = ()
    spare: int = 1
    is_patient: bool = True


class Kind(NamedTuple):
    """How a place is made; `missing` says why it cannot be here, or None."""

    enter: Callable[[], contextlib.AbstractContextManager[Place]]
    missing: Callable[[], str | None] = lambda: None


def _hosts(proxies: Sequence[Proxy]) -> str:
    return ",".join(f"{proxy.host}:{proxy.port}" for proxy in proxies)


@contextlib.contextmanager
def _sqlite() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="tenure-soak-") as folder:
        yield Place(lambda _: f"sqlite://{folder}/locks.db")


@contextlib.contextmanager
def _redis() -> Iterator[Place]:
    with RedisServer(extra=["appendonly yes", "appendfsync always", "no-appendfsync-on-rewrite no"]) as server:
        yield Place(lambda proxies: f"redis://{_hosts(proxies)}/0", [server.address], [server])


@contextlib.contextmanager
def _postgres() -> Iterator[Place]:
    with PostgresServer() as server:
        address = ("127.0.0.1", server.port)
        yield Place(
            lambda proxies: server.url.replace(f":{server.port}/", f":{proxies[0].port}/") + "?schema=soak&create=yes",
            [address],
            [server],
        )


@contextlib.contextmanager
def _etcd() -> Iterator[Place]:
    with EtcdServer() as server:
        yield Place(lambda proxies: f"etcd://{_hosts(proxies)}/soak", [server.address], [server])


@contextlib.contextmanager
def _etcd_cluster() -> Iterator[Place]:
    with EtcdCluster() as cluster:
        addresses = [node.address for node in cluster.nodes]
        # In old releases a leader that stood still and was replaced ends leases that its successor keeps, of all
        # sessions at once: stopped as often as others are, it made two believe in one run of five.
        (version,) = [found for found in Client(cluster.url).doctor().findings if found.name == "version"]
        is_patient = "etcd #15247" not in version.means
        yield Place(lambda proxies: f"etcd://{_hosts(proxies)}/soak", addresses, cluster.nodes, is_patient=is_patient)


@contextlib.contextmanager
def _zookeeper() -> Iterator[Place]:
    with Ensemble() as ensemble:
        addresses = [server.address for server in ensemble.servers]
        yield Place(
            lambda proxies: f"zookeeper://{_hosts(proxies)}/soak?{ensemble.options}", addresses, ensemble.servers
        )


KINDS: dict[str, Kind] = {
    "sqlite": Kind(_sqlite),
    "redis": Kind(_redis, redis.missing),
    "postgresql": Kind(_postgres, postgres.missing),
    "etcd": Kind(_etcd, etcd.missing),
    "etcd-cluster": Kind(_etcd_cluster, etcd.missing),
    "zookeeper": Kind(_zookeeper, zookeeper.missing),
}
