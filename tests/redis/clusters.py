"""What tests of a cluster share: its URL, and names that live where a test wants them."""

from __future__ import annotations

import itertools
import zlib
from typing import TYPE_CHECKING

from tenure.engines.redis.store import genesis_key

if TYPE_CHECKING:
    from tests.servers.redis import RedisServer
    from tests.servers.redis_cluster import RedisCluster

PARTITIONS = 16


def url_of(cluster: RedisCluster, options: str = "") -> str:
    hosts = ",".join(f"{host}:{port}" for host, port in cluster.addresses)
    return f"redis+cluster://{hosts}{options}"


def names_in(partition: int, count: int = 1, partitions: int = PARTITIONS) -> list[str]:
    """Names of a partition, found by the rule that other implementations would have to follow."""
    names = map("n{}".format, itertools.count())
    return list(itertools.islice((n for n in names if zlib.crc32(n.encode()) % partitions == partition), count))


def name_in(partition: int) -> str:
    return names_in(partition)[0]


def slot_of(cluster: RedisCluster, partition: int) -> int:
    return cluster.slot_of(genesis_key("tenure", partition))


def master_of(cluster: RedisCluster, partition: int) -> RedisServer:
    return cluster.master_of(slot_of(cluster, partition))


def other_than(cluster: RedisCluster, master: RedisServer) -> RedisServer:
    """Another master."""
    return next(node for node in cluster.masters if node is not master)


def partitions_on(cluster: RedisCluster, master: RedisServer) -> list[int]:
    return [index for index in range(PARTITIONS) if master_of(cluster, index) is master]


def partition_off(cluster: RedisCluster, master: RedisServer) -> int:
    """A partition that another master has."""
    return next(index for index in range(PARTITIONS) if master_of(cluster, index) is not master)


def flush(cluster: RedisCluster) -> None:
    for master in cluster.masters:
        master.cli("FLUSHALL")
