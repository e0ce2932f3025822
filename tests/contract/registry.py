"""Where an engine registers itself with the contract suite: one entry of `REGISTRY`, and every test runs over it.

An entry says how to make fresh stores and what the engine can do; nothing else in this folder knows an engine's name.
An engine with a server starts it in `site` and stops it there, once for the whole run.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from tests.servers import certificates, etcd, pgbouncer, postgres, redis, zookeeper
from tests.servers.certificates import make_certificates
from tests.servers.etcd import EtcdCluster, EtcdServer
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer
from tests.servers.redis_cluster import RedisCluster
from tests.servers.redis_sentinels import Sentinels
from tests.servers.zookeeper import ZooKeeperServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers.redis import Program


class Registered(NamedTuple):
    """An engine as the contract suite sees it.

    Attributes:
        example: a URL of its scheme; nobody connects to it.
        site: entered once a run with a folder of its own; gives a function that names a fresh, empty store at each
            call. Leaving it stops whatever it started.
        capabilities: what the engine must declare; a test that needs another one is skipped, and says so.
        multi_process: several processes may share one of its URLs.
        conditional: what it may declare besides, where its server is set up for that.
        missing: why it cannot run here (a server that is not installed), or None.
        ttl_least: seconds of the shortest ttl that its server grants, or in which it is connected to; see `Face.ttl`.
    """

    example: str
    site: Callable[[Path], contextlib.AbstractContextManager[Callable[[], str]]]
    capabilities: frozenset[str]
    multi_process: bool
    conditional: frozenset[str] = frozenset()
    missing: Callable[[], str | None] = lambda: None
    ttl_least: float = 0.1


_SERVER = frozenset({"fifo", "shared", "semaphore", "multi_host"})
_DURABLE = frozenset({"durable_tokens"})
_HANDSHAKES_TTL = 3.0
"""A connection that takes several handshakes must be made within a part of it, on a busy host."""

_ZOOKEEPER_TTL = 1.2
"""A sixth of it is what a request may take, of a virtual machine that collects its garbage."""

DATABASES = ["databases 10000"]
"""A store of its own for each test: a database of one server."""

_serial = itertools.count(1)


def _no_tls() -> str | None:
    return redis.missing() or certificates.missing()


@contextlib.contextmanager
def _memory(folder: Path) -> Iterator[Callable[[], str]]:
    yield lambda: f"memory://contract-{next(_serial)}"


@contextlib.contextmanager
def _sqlite(folder: Path) -> Iterator[Callable[[], str]]:
    yield lambda: f"sqlite://{folder}/{next(_serial)}.db"


@contextlib.contextmanager
def _redis(folder: Path, program: Program = "redis", options: str = "") -> Iterator[Callable[[], str]]:
    with RedisServer(program=program, extra=DATABASES) as server:
        yield lambda: f"{server.url}/{next(_serial)}{options}"


@contextlib.contextmanager
def _redis_tls(folder: Path) -> Iterator[Callable[[], str]]:
    made = make_certificates(folder)
    with RedisServer(certificates=made, password="a:b@c", extra=DATABASES) as server:  # noqa: S106 - a test's
        yield lambda: f"{server.tls_url}/{next(_serial)}?ca={made.authority}"


@contextlib.contextmanager
def _redis_unix(folder: Path) -> Iterator[Callable[[], str]]:
    with RedisServer(extra=DATABASES) as server:
        yield lambda: f"redis+unix://{server.socket_path}?db={next(_serial)}"


@contextlib.contextmanager
def _redis_sentinel(folder: Path) -> Iterator[Callable[[], str]]:
    with Sentinels(extra=DATABASES) as sentinels:
        hosts = ",".join(f"{host}:{port}" for host, port in sentinels.addresses)
        yield lambda: f"redis+sentinel://{hosts}/{sentinels.name}/{next(_serial)}"


@contextlib.contextmanager
def _redis_sentinel_tls(folder: Path) -> Iterator[Callable[[], str]]:
    made = make_certificates(folder)
    with Sentinels(certificates=made, extra=DATABASES) as sentinels:
        hosts = ",".join(f"{host}:{port}" for host, port in sentinels.addresses)
        yield lambda: f"rediss+sentinel://{hosts}/{sentinels.name}/{next(_serial)}?ca={made.authority}"


@contextlib.contextmanager
def _redis_cluster(folder: Path) -> Iterator[Callable[[], str]]:
    with RedisCluster() as cluster:
        yield functools.partial(_emptied, cluster, "redis+cluster://")


@contextlib.contextmanager
def _redis_cluster_tls(folder: Path) -> Iterator[Callable[[], str]]:
    made = make_certificates(folder)
    with RedisCluster(certificates=made, password="a:b@c") as cluster:  # noqa: S106 - a test's
        yield functools.partial(_emptied, cluster, "rediss+cluster://:a%3Ab%40c@", f"?ca={quote(made.authority)}")


def _emptied(cluster: RedisCluster, scheme: str, options: str = "") -> str:
    """A cluster has no databases, so each test has the whole of it."""
    for master in cluster.masters:
        master.cli("FLUSHALL")
    hosts = ",".join(f"{node.host}:{node.tls_port or node.port}" for node in cluster.masters)
    return f"{scheme}{hosts}{options}"


@contextlib.contextmanager
def _postgresql(folder: Path) -> Iterator[Callable[[], str]]:
    with PostgresServer() as server:
        yield lambda: f"{server.url}?schema=contract_{next(_serial)}&create=yes"


@contextlib.contextmanager
def _pgbouncer(folder: Path, listens: bool = False) -> Iterator[Callable[[], str]]:
    with PostgresServer() as server, PgBouncer(server) as pooler:
        beside = f"&listen_url={quote(server.url, safe='')}" if listens else "&poll=0.02"
        yield lambda: f"{pooler.url}?schema=contract_{next(_serial)}&create=yes{beside}"


def _no_etcd_tls() -> str | None:
    return etcd.missing() or certificates.missing()


@contextlib.contextmanager
def _etcd(folder: Path, program: etcd.Program = "etcd") -> Iterator[Callable[[], str]]:
    with EtcdServer(program=program) as server:
        yield lambda: f"{server.url}/contract-{next(_serial)}"


@contextlib.contextmanager
def _etcd_tls(folder: Path) -> Iterator[Callable[[], str]]:
    made = make_certificates(folder)
    with EtcdServer(certificates=made, wants_certificate=True, login="a:b@c", root="contract") as server:
        shown = f"ca={made.authority}&cert={made.client}&key={made.client_key}"
        yield lambda: f"{server.url}/contract-{next(_serial)}?{shown}"


@contextlib.contextmanager
def _etcd_cluster(folder: Path) -> Iterator[Callable[[], str]]:
    with EtcdCluster() as cluster:
        yield lambda: f"{cluster.url}/contract-{next(_serial)}"


@contextlib.contextmanager
def _zookeeper(folder: Path) -> Iterator[Callable[[], str]]:
    with zookeeper.shared() as server:
        # A tree of its own for each test.
        yield lambda: f"{server.url}/contract-{os.getpid()}-{next(_serial)}?{server.options}"


@contextlib.contextmanager
def _zookeeper_tls(folder: Path) -> Iterator[Callable[[], str]]:
    made = make_certificates(folder)
    with ZooKeeperServer(certificates=made) as server:
        where = f"zookeepers://user:a%3Ab%40c@{server.host}:{server.secure_port}"
        yield lambda: f"{where}/contract-{next(_serial)}?{server.options}&ca={made.authority}"


REGISTRY: dict[str, Registered] = {
    "memory": Registered("memory://", _memory, frozenset({"fifo", "shared", "semaphore"}), multi_process=False),
    "sqlite": Registered(
        "sqlite://", _sqlite, frozenset({"fifo", "shared", "semaphore", "durable_tokens"}), multi_process=True
    ),
    "redis": Registered(
        "redis://example", _redis, _SERVER, multi_process=True, conditional=_DURABLE, missing=redis.missing
    ),
    "rediss": Registered(
        "rediss://example",
        _redis_tls,
        _SERVER,
        multi_process=True,
        conditional=_DURABLE,
        missing=_no_tls,
        ttl_least=_HANDSHAKES_TTL,
    ),
    "redis+unix": Registered(
        "redis+unix:///example", _redis_unix, _SERVER, multi_process=True, conditional=_DURABLE, missing=redis.missing
    ),
    "redis+sentinel": Registered(
        "redis+sentinel://example/service",
        _redis_sentinel,
        _SERVER,
        multi_process=True,
        conditional=_DURABLE,
        missing=redis.missing,
    ),
    "rediss+sentinel": Registered(
        "rediss+sentinel://example/service",
        _redis_sentinel_tls,
        _SERVER,
        multi_process=True,
        conditional=_DURABLE,
        missing=_no_tls,
        ttl_least=_HANDSHAKES_TTL,
    ),
    "redis+cluster": Registered(
        "redis+cluster://example",
        _redis_cluster,
        _SERVER,
        multi_process=True,
        conditional=_DURABLE,
        missing=redis.missing,
    ),
    "rediss+cluster": Registered(
        "rediss+cluster://example",
        _redis_cluster_tls,
        _SERVER,
        multi_process=True,
        conditional=_DURABLE,
        missing=_no_tls,
        ttl_least=_HANDSHAKES_TTL,
    ),
    "zookeeper": Registered(
        "zookeeper://example",
        _zookeeper,
        _SERVER | _DURABLE,
        multi_process=True,
        missing=zookeeper.missing,
        ttl_least=_ZOOKEEPER_TTL,
    ),
    "zookeepers": Registered(
        "zookeepers://example",
        _zookeeper_tls,
        _SERVER | _DURABLE,
        multi_process=True,
        missing=lambda: zookeeper.missing() or certificates.missing(),
        ttl_least=_HANDSHAKES_TTL,
    ),
    "redis-resp3": Registered(
        "redis://example",
        functools.partial(_redis, options="?protocol=3"),
        _SERVER,
        multi_process=True,
        conditional=_DURABLE,
        missing=redis.missing,
    ),
    "redis-6.2": Registered(
        "redis://example",
        functools.partial(_redis, program="redis-6.2"),
        _SERVER,
        multi_process=True,
        conditional=_DURABLE,
        missing=functools.partial(redis.missing, "redis-6.2"),
    ),
    "valkey": Registered(
        "redis://example",
        functools.partial(_redis, program="valkey"),
        _SERVER,
        multi_process=True,
        conditional=_DURABLE,
        missing=functools.partial(redis.missing, "valkey"),
    ),
    "postgresql": Registered(
        "postgresql://example/locks",
        _postgresql,
        _SERVER,
        multi_process=True,
        conditional=_DURABLE,
        missing=postgres.missing,
    ),
    "pgbouncer": Registered(
        "postgresql://example/locks",
        _pgbouncer,
        _SERVER,
        multi_process=True,
        conditional=_DURABLE,
        missing=pgbouncer.missing,
    ),
    "pgbouncer-listen": Registered(
        "postgresql://example/locks",
        functools.partial(_pgbouncer, listens=True),
        _SERVER,
        multi_process=True,
        conditional=_DURABLE,
        missing=pgbouncer.missing,
    ),
    "etcd": Registered(
        "etcd://example",
        _etcd,
        _SERVER,
        multi_process=True,
        conditional=_DURABLE,
        missing=etcd.missing,
        ttl_least=1.0,
    ),
    "etcd-3.5": Registered(
        "etcd://example",
        functools.partial(_etcd, program="etcd-3.5"),
        _SERVER,
        multi_process=True,
        conditional=_DURABLE,
        missing=functools.partial(etcd.missing, "etcd-3.5"),
        ttl_least=1.0,
    ),
    "etcds": Registered(
        "etcds://example",
        _etcd_tls,
        _SERVER,
        multi_process=True,
        conditional=_DURABLE,
        missing=_no_etcd_tls,
        ttl_least=_HANDSHAKES_TTL,
    ),
    "etcd-cluster": Registered(
        "etcd://example",
        _etcd_cluster,
        _SERVER,
        multi_process=True,
        conditional=_DURABLE,
        missing=etcd.missing,
        ttl_least=1.0,
    ),
}
"""URL scheme, or which server and how it is spoken to, to entry.

`test_complete` fails if a scheme of `tenure.engines.ENGINES` has no entry.
"""
