"""The Redis engine: locks between the hosts that share one Redis, Valkey or compatible server.

Status: production, on a single server, behind Sentinel and on a cluster.
Promises: first come, first served; one request to acquire, one to release, one push to hand over; a lease ends at its
ttl, a crash included; whatever the server forgets, its holders are told at their next contact with it, and tokens keep
rising as long as its clock then reads more than the largest token given.
Does not promise exclusion over a fail-over: replication is asynchronous, and a promoted replica may lack the last
writes. The token protects.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from tenure.engines.redis.url import CLUSTER, TCP, choices, parse
from tenure.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tenure.engines import Engine
    from tenure.engines.address import Address
    from tenure.engines.redis.dial import Access, Dialer
    from tenure.engines.redis.url import Choices


def connect(url: str, namespace: str) -> Engine:
    """Make the engine of a URL of Redis; no I/O. Only a URL that is right imports redis-py."""
    parsed = parse(url)
    _need_redis_py()
    from tenure.engines.redis.dial import access, dialer

    if parsed.kind == CLUSTER:
        return _of_cluster(access(parsed), parsed.hosts, namespace, parsed.choices)
    return _of_server(dialer(parsed), namespace, parsed.choices)


def connect_like(client: object, namespace: str, options: Mapping[str, str]) -> Engine:
    """Make the engine of the server that a client object talks to; no I/O."""
    _need_redis_py()  # a client of valkey-py brings none along
    from tenure.engines.redis.clients import cluster_of, from_client

    try:
        nodes = cluster_of(client)
        if nodes is not None:
            return _of_cluster(*nodes, namespace, choices(options, CLUSTER))
        return _of_server(from_client(client), namespace, choices(options, TCP))
    except UsageError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as odd:
        raise UsageError("client: its settings are not as redis-py or valkey-py have them; give a URL") from odd


def _need_redis_py() -> None:
    try:
        import_module("redis.connection")
    except ImportError as missing:
        raise UsageError("url: Redis needs redis-py 8 or later: pip install 'tenure[redis]'") from missing


def _of_cluster(access: Access, nodes: Sequence[Address], namespace: str, chosen: Choices) -> Engine:
    from tenure.engines.redis.cluster import Cluster
    from tenure.engines.redis.engine_cluster import ClusterEngine

    return ClusterEngine(Cluster(access, nodes), namespace, chosen.partitions, chosen.acknowledge)


def _of_server(dialer: Dialer, namespace: str, chosen: Choices) -> Engine:
    from tenure.engines.redis.engine import RedisEngine

    return RedisEngine(dialer, namespace, chosen.plain_key, chosen.acknowledge)
