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

from tenure.engines.redis.url import CLUSTER, parse
from tenure.errors import UsageError

if TYPE_CHECKING:
    from tenure.engines import Engine


def connect(url: str, namespace: str) -> Engine:
    """Make the engine of a URL of Redis; no I/O. Only a URL that is right imports redis-py."""
    parsed = parse(url)
    try:
        import_module("redis.connection")
    except ImportError as missing:
        raise UsageError("url: Redis needs redis-py 8 or later: pip install 'tenure[redis]'") from missing
    if parsed.kind == CLUSTER:
        from tenure.engines.redis.cluster import Cluster
        from tenure.engines.redis.dial import access
        from tenure.engines.redis.engine_cluster import ClusterEngine

        return ClusterEngine(Cluster(access(parsed), parsed.hosts), namespace, parsed.partitions, parsed.acknowledge)
    from tenure.engines.redis.dial import dialer
    from tenure.engines.redis.engine import RedisEngine

    return RedisEngine(dialer(parsed), namespace, parsed.plain_key, parsed.acknowledge)


def connect_like(client: object, namespace: str) -> Engine:
    """Make the engine of the server that a client object talks to; no I/O."""
    from tenure.engines.redis.clients import cluster_of, from_client

    nodes = cluster_of(client)
    if nodes is not None:
        from tenure.engines.redis.cluster import Cluster
        from tenure.engines.redis.engine_cluster import ClusterEngine

        return ClusterEngine(Cluster(*nodes), namespace, None)
    from tenure.engines.redis.engine import RedisEngine

    return RedisEngine(from_client(client), namespace)
