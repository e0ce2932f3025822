"""The ZooKeeper engine: locks between the hosts that share one ensemble.

Status: beta.
Promises: first come, first served; a lease ends at its ttl, a crash included; tokens are ZooKeeper's own transaction
numbers, which a majority of the servers has on disk before they are given. A holder counts only on what its own writes
prove, so that it is told in time also when its server was cut off from the leader.
Does not promise exclusion across a restore of all servers from a backup; nor that a name is free before the session
of a holder that crashed has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenure.engines.zookeeper.url import parse

if TYPE_CHECKING:
    from tenure.engines import Engine


def connect(url: str, namespace: str) -> Engine:
    """Make the engine of a URL of ZooKeeper; no I/O."""
    parsed = parse(url)
    from tenure.engines.zookeeper.dial import Dialer
    from tenure.engines.zookeeper.engine import ZooKeeperEngine

    return ZooKeeperEngine(Dialer(parsed), namespace)
