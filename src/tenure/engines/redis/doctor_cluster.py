"""What a cluster's set-up means for a lock: the cluster as a whole, and the worst of the masters that keep names.

Promises: as `doctor`, whose findings of single servers are made of each master that has a partition of the namespace.
Does not promise: that masters which have none are looked at, or replicas.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from tenure.engines.redis.cluster import SLOTS, Partition
from tenure.engines.redis.doctor import CONDITIONAL, of_server, store
from tenure.engines.redis.facts import ASK_MOST, Questions, ask_all
from tenure.engines.redis.losses import in_the_way_of_durable_tokens, number
from tenure.engines.redis.partitions import PARTITIONS
from tenure.errors import StoreUnavailable, UnsafeSetup
from tenure.findings import Examination, Finding, Grade

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tenure.engines.redis.cluster import Cluster, Node
    from tenure.engines.redis.facts import Facts, Server
    from tenure.model import Seconds

ELECTION_S: Final = 2.0
"""Seconds beyond the node timeout that a fail-over takes: gossip, a delayed vote, the news of it."""

_OPEN: Final = re.compile(r"\[(\d+)-[<>]-")


class _Whole(NamedTuple):
    """The cluster as one of its masters sees it."""

    told: Mapping[str, str]
    nodes: str
    partitions: Sequence[Partition]
    unserved: int
    used: int


def examine_cluster(cluster: Cluster, namespace: str, ttl: Seconds) -> Examination:
    """Ask the masters and judge; otherwise as `Engine.examine`."""
    cluster.learn(ASK_MOST)
    whole, facts = _ask(cluster, namespace)
    first = next(iter(facts.values()))
    servers = [found.server for found in facts.values()]
    of_each = [of_server(found, ttl) for found in facts.values()]
    found = (
        *(_worst(same, list(facts)) for same in zip(*of_each, strict=True)),
        state(whole),
        moves(whole),
        coverage(first.server),
        failover(whole, first.server, ttl),
        store(first, on_cluster=True),
    )
    return Examination(CONDITIONAL if not _in_the_way(whole, servers) else frozenset[str](), found)


def require_durable_tokens_of(cluster: Cluster) -> None:
    """Ask the masters whether tokens rise whatever fails.

    Raises:
        UnsafeSetup: they do not, or somebody does not tell; says what to change.
        StoreUnavailable, IncompatibleStore: somebody cannot be asked.
    """
    cluster.learn(ASK_MOST)
    servers, nodes = [], ""
    for node in cluster.nodes:
        questions = Questions(node.dialer)
        try:
            servers.append(questions.server())
            nodes = questions.cluster()[1]
        finally:
            questions.close()
    missing = _in_the_way(_Whole({}, nodes, (), 0, 0), servers)
    if missing:
        raise UnsafeSetup(f"require: the {cluster.shown} does not offer durable_tokens: {'; '.join(missing)}")


def _in_the_way(whole: _Whole, servers: Sequence[Server]) -> list[str]:
    missing = [f"{server.shown}: {what}" for server in servers for what in in_the_way_of_durable_tokens(server)]
    if not whole.nodes:
        missing.append("whether there are replicas is not known; let this user ask (+cluster|nodes)")
    elif _followed(whole.nodes):
        missing.append("a fail-over may lose the last numbers; use masters without replicas, or a single server")
    return missing


def _followed(nodes: str) -> set[str]:
    """The ids of the masters that have replicas."""
    return {row[3] for row in (line.split(" ") for line in nodes.splitlines()) if len(row) > 3 and row[3] != "-"}


def _ask(cluster: Cluster, namespace: str) -> tuple[_Whole, dict[Node, Facts]]:
    first = Partition(namespace, 0)
    node = cluster.owner(first.slot)
    if node is None:
        raise StoreUnavailable(f"no master of the {cluster.shown} serves slot {first.slot}")
    facts = {node: ask_all(node.dialer, namespace)}
    record = facts[node].record
    count = (number(record.partitions) if record else None) or PARTITIONS
    partitions = [Partition(namespace, index) for index in range(count)]
    unserved = 0
    for partition in partitions:
        owner = cluster.owner(partition.slot)
        if owner is None:
            unserved += 1
        elif owner not in facts:
            facts[owner] = ask_all(owner.dialer, namespace, partition.index)
    questions = Questions(node.dialer)
    try:
        told, nodes = questions.cluster()
    finally:
        questions.close()
    return _Whole(told, nodes, partitions, unserved, len(facts)), facts


def _worst(same: Sequence[Finding], nodes: Sequence[Node]) -> Finding:
    """One finding of all masters: the worst, and of whom it is."""
    worst = max(same, key=lambda finding: finding.grade)
    equals = sum(finding.grade is worst.grade for finding in same)
    if equals == len(same):
        return worst._replace(found=f"{worst.found} (all {len(same)} masters)") if len(same) > 1 else worst
    where = nodes[list(same).index(worst)].address
    return worst._replace(found=f"{worst.found} (at {where}; {equals} of {len(same)} masters)")


def state(whole: _Whole) -> Finding:
    """Whether every slot is served."""
    if not whole.told:
        means = "Requests are refused (CLUSTERDOWN) where a slot is not served."
        return Finding("cluster", Grade.INFO, "not known: this user may not use CLUSTER INFO", means)
    said, served = whole.told.get("cluster_state", "?"), number(whole.told.get("cluster_slots_ok")) or 0
    found = (
        f"state {said}, {whole.told.get('cluster_size', '?')} masters, {served} of {SLOTS} slots served; "
        f"{len(whole.partitions)} partitions on {whole.used} masters"
    )
    if said == "ok" and served == SLOTS and not whole.unserved:
        return Finding("cluster", Grade.OK, found)
    return Finding(
        "cluster",
        Grade.DANGER,
        found,
        f"{whole.unserved} partitions have no master, and their names cannot be locked; nor can a new namespace begin.",
        "Bring the lost masters back, or give their slots to others (redis-cli --cluster fix).",
    )


def moves(whole: _Whole) -> Finding:
    """Whether slots are on the move."""
    if not whole.nodes:
        return Finding("moves", Grade.INFO, "not known: this user may not use CLUSTER NODES")
    moving = {int(slot) for slot in _OPEN.findall(whole.nodes)}
    ours = [partition for partition in whole.partitions if partition.slot in moving]
    if not ours:
        return Finding("moves", Grade.OK, f"{len(moving)} slots are on the move, none of them of this namespace")
    return Finding(
        "moves",
        Grade.DANGER,
        f"slots {', '.join(str(partition.slot) for partition in ours)} of this namespace are on the move",
        "Their names can neither be locked nor renewed until the move is closed; leases end at their deadlines.",
        "Wait for its end, or close it: redis-cli --cluster fix.",
    )


def coverage(server: Server) -> Finding:
    """Whether one lost part stops the whole."""
    setting = server.config.get("cluster-require-full-coverage")
    if setting is None:
        return Finding("coverage", Grade.INFO, "cluster-require-full-coverage is not known")
    if setting != "yes":
        return Finding(
            "coverage", Grade.OK, "a lost master without a replica stops the names of its own partitions only"
        )
    return Finding(
        "coverage",
        Grade.INFO,
        "cluster-require-full-coverage yes",
        "When a master is lost and no replica takes over, all masters refuse requests: no lock is granted or renewed.",
        "CONFIG SET cluster-require-full-coverage no, on each node: the other partitions go on then.",
    )


def failover(whole: _Whole, server: Server, ttl: Seconds) -> Finding:
    """Whether each master can be replaced, and in time."""
    if not whole.nodes:
        return Finding("failover", Grade.INFO, "not known: this user may not use CLUSTER NODES")
    followed = _followed(whole.nodes)
    # id address@bus flags master ping pong epoch link slots...; masters without slots have nothing to lose
    rows = [line.split(" ") for line in whole.nodes.splitlines()]
    alone = [row[1].partition("@")[0] for row in rows if len(row) > 8 and row[0] not in followed]
    if alone:
        return Finding(
            "failover",
            Grade.WARNING,
            f"without a replica: {', '.join(sorted(alone))}",
            "When such a master is lost, the names of its partitions cannot be locked until it is back.",
            "Give each master a replica.",
        )
    timeout_ms = number(server.config.get("cluster-node-timeout"))
    if timeout_ms is None:
        return Finding("failover", Grade.INFO, "each master has a replica; cluster-node-timeout is not known")
    found = f"each master has a replica; cluster-node-timeout {timeout_ms} ms, ttl {ttl:g} s"
    if timeout_ms / 1000 + ELECTION_S <= ttl * 2 / 3:
        return Finding("failover", Grade.OK, found)
    return Finding(
        "failover",
        Grade.WARNING,
        found,
        "A fail-over may take longer than the time that is left of a lease: leases on a lost master end.",
        "A shorter cluster-node-timeout, or a longer ttl.",
    )
