"""The etcd engine: locks between the hosts that share one cluster of etcd, 3.4 or newer.

Status: beta.
Promises: first come, first served; exclusion and tokens as durable as the cluster's majority; a lease's deadline counts
only renewals that a leader has answered whom a majority still followed; a waiter is woken by the claims in front of it
alone, and handed the lease after the cluster has said that it holds.
Does not promise that a dead holder's name is free at its ttl: after an election etcd gives every lease its whole ttl
anew. Nor that releases with known faults are without them: the doctor names them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenure.engines.etcd.url import parse

if TYPE_CHECKING:
    from tenure.engines import Engine


def connect(url: str, namespace: str) -> Engine:
    """Make the engine of a URL of etcd; no I/O."""
    parsed = parse(url)
    from tenure.engines.etcd.engine import EtcdEngine

    return EtcdEngine(parsed, namespace)
