"""What a cluster's set-up means for a lock: one function per finding, from facts to a sentence and a grade.

Promises: only `facts` asks the nodes; a finding is computed from that, and none is raised. What a node does not tell is
said to be unknown, never taken for good.
Does not promise that the set-up stays as it was found.
"""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenure.engines import diagnosis
from tenure.engines.etcd.facts import Facts, Node, ask, ask_node
from tenure.engines.etcd.keys import whole_ttl
from tenure.errors import StoreUnavailable, UnsafeSetup
from tenure.findings import Examination, Finding, Grade

if TYPE_CHECKING:
    from tenure.engines.etcd.dial import Dialer
    from tenure.model import Seconds

SIZE_MOST: Final = 1_600_000_000
"""Bytes of a database from which on etcd's default quota of 2 GB is near; full, it refuses every write."""


class Fault(NamedTuple):
    """A fault of old releases that a lock would notice.

    Attributes:
        fixed: in each line of releases that had it, the first without; a later line never had it.
        tokens: tokens may fall.
    """

    fixed: tuple[tuple[int, int, int], ...]
    grade: Grade
    means: str
    tokens: bool = False


FAULTS: Final = (
    Fault(
        ((3, 4, 32), (3, 5, 14)),
        Grade.WARNING,
        "Killed in a compaction, a node may come back with a smaller revision, and tokens repeat (etcd #17780).",
        tokens=True,
    ),
    Fault(
        ((3, 4, 31), (3, 5, 13)),
        Grade.WARNING,
        "A leader that was paused and replaced may, on waking, end leases that its successor keeps (etcd #15247): a "
        "holder is told at its next heartbeat, and another may have been let in before.",
    ),
    Fault(
        ((3, 5, 3),),
        Grade.DANGER,
        "Killed under load, a node may come back with data that differs from the others' (etcd #13766).",
        tokens=True,
    ),
    Fault(
        ((3, 4, 21), (3, 5, 5)),
        Grade.WARNING,
        "A cluster of one node answers before it has written (etcd #14370).",
        tokens=True,
    ),
)
"""A release has a fault if it is older than the fix of its own line, or of an older line than was ever fixed."""

OLDEST: Final = (3, 4, 0)


def examine(dialer: Dialer, namespace: str, ttl: Seconds) -> Examination:
    """Ask the nodes and judge; otherwise as `Engine.examine`."""
    facts = ask(dialer, namespace, ttl)
    found = (
        version(facts),
        members(facts),
        nodes(facts),
        alarms(facts),
        size(facts),
        lease_ttl(facts, ttl),
        round_trip(facts, ttl),
        login(facts),
        transport(facts),
        store(facts),
        Finding("connections", Grade.INFO, "per client: one for its keeper, one while it waits, up to 8 for threads"),
    )
    durable = frozenset({"durable_tokens"}) if not in_the_way_of_durable_tokens(facts.nodes) else frozenset[str]()
    return Examination(durable, found)


def require_durable_tokens(dialer: Dialer) -> None:
    """Ask the nodes whether tokens rise whatever fails.

    Raises:
        UnsafeSetup: they do not, or a node does not tell; says what to change.
        StoreUnavailable: no node answers.
    """
    found = tuple(ask_node(dialer, address) for address in dialer.nodes)
    if all(node.trouble for node in found):
        raise StoreUnavailable(f"no node of etcd answers ({found[0].address}: {found[0].trouble})")
    missing = in_the_way_of_durable_tokens(found)
    if missing:
        raise UnsafeSetup(f"require: {dialer.shown} does not offer durable_tokens: {'; '.join(missing)}")


def in_the_way_of_durable_tokens(found: tuple[Node, ...]) -> list[str]:
    """Why a token could fall, in words."""
    missing: list[str] = []
    for node in found:
        if node.trouble:
            # A minority that is down changes nothing, if it is no older than the rest; nobody can tell.
            continue
        if not node.version:
            missing.append(f"{node.address} does not tell its version")
        missing += [
            f"{node.address} is etcd {node.said_version}, and {_first(fault, node.version)} or newer is needed: "
            f"{fault.means}"
            for fault in FAULTS
            if fault.tokens and node.version and _has(fault, node.version)
        ]
    return missing


def _has(fault: Fault, found: tuple[int, ...]) -> bool:
    line = [fixed for fixed in fault.fixed if fixed[:2] == found[:2]]
    if line:
        return found < line[0]
    # A line before all that were fixed was never fixed, unless it never had the fault: 3.5's own is not 3.4's.
    return found < fault.fixed[0] and len(fault.fixed) > 1


def _first(fault: Fault, found: tuple[int, ...]) -> str:
    fixed = next((fixed for fixed in fault.fixed if fixed[:2] == found[:2]), fault.fixed[-1])
    return ".".join(map(str, fixed))


# -- judging -----------------------------------------------------------------------------------------------------------


def version(facts: Facts) -> Finding:
    """Which releases, and which known faults."""
    known = [node for node in facts.nodes if node.version]
    found = ", ".join(sorted({f"etcd {node.said_version}" for node in known})) or "not known"
    if not known:
        return Finding("version", Grade.INFO, found, "etcd 3.4 or newer is needed.")
    oldest = min(node.version for node in known)
    if oldest < OLDEST:
        change = "Upgrade to etcd 3.5.14 or newer."
        return Finding("version", Grade.DANGER, found, "Not supported: transactions in transactions need 3.4.", change)
    faults = [fault for fault in FAULTS if any(_has(fault, node.version) for node in known)]
    if not faults:
        return Finding("version", Grade.OK, found)
    newest = max(fault.fixed[-1] for fault in faults)
    return Finding(
        "version",
        max(fault.grade for fault in faults),
        found,
        " ".join(fault.means for fault in faults),
        f"Upgrade to {max(_first(fault, oldest) for fault in faults)}, {'.'.join(map(str, newest))} or newer.",
    )


def members(facts: Facts) -> Finding:
    """How many may fail."""
    if facts.members is None:
        return Finding("members", Grade.INFO, "not known: this user may not list them")
    count = facts.members
    spare = (count - 1) // 2
    found = f"{count}, of which {spare} may fail"
    if spare:
        return Finding("members", Grade.OK, found)
    return Finding(
        "members",
        Grade.WARNING,
        found,
        "While one is down nobody gets a lock, and whoever has one loses it at its deadline.",
        "Run three or five members.",
    )


def nodes(facts: Facts) -> Finding:
    """Whether those that the URL names answer."""
    mute = [node for node in facts.nodes if node.trouble]
    if mute:
        said = "; ".join(f"{node.address}: {node.trouble}" for node in mute)
        return Finding(
            "nodes",
            Grade.WARNING,
            f"{len(mute)} of {len(facts.nodes)} do not answer ({said})",
            "Requests go to the others; each reconnection may lose time here first.",
            "Repair it, or take it out of the URL.",
        )
    if any(not node.leader for node in facts.nodes):
        return Finding(
            "nodes",
            Grade.DANGER,
            "a node has no leader",
            "It serves nobody: a majority of the members cannot be reached from there.",
            "Repair the members, or the network between them.",
        )
    if facts.members is not None and len(facts.nodes) < min(facts.members, 3):
        return Finding(
            "nodes",
            Grade.WARNING,
            f"the URL names {len(facts.nodes)} of {facts.members}",
            "If these are down, the rest of the cluster cannot be found.",
            "Name all members: etcd://a,b,c.",
        )
    return Finding("nodes", Grade.OK, f"all {len(facts.nodes)} that the URL names answer")


def alarms(facts: Facts) -> Finding:
    """Whether the cluster refuses writes."""
    raised = sorted({*facts.alarms, *(error for node in facts.nodes for error in node.errors)})
    if not raised:
        return Finding("alarms", Grade.OK, "none")
    return Finding(
        "alarms",
        Grade.DANGER,
        ", ".join(raised),
        "With NOSPACE nobody gets a lock, and sessions are only renewed; with CORRUPT no answer can be trusted.",
        "Compact and defragment, raise the quota, then `etcdctl alarm disarm`; or restore the member that is corrupt.",
    )


def size(facts: Facts) -> Finding:
    """How near the quota is."""
    largest = max((node.size for node in facts.nodes), default=0)
    found = f"{largest / 1e6:.1f} MB"
    if largest < SIZE_MOST:
        return Finding("size", Grade.OK, found)
    return Finding(
        "size",
        Grade.WARNING,
        found,
        "At its quota (2 GB, if it was not raised) etcd refuses every write.",
        "Set --auto-compaction-retention, defragment, or raise --quota-backend-bytes.",
    )


def lease_ttl(facts: Facts, ttl: Seconds) -> Finding:
    """What is granted for the ttl that was asked for."""
    if not facts.granted:
        return Finding(
            "ttl",
            Grade.DANGER,
            "no lease was granted",
            "Nobody gets a lock.",
            "See the alarms; the user needs write permission for ROOT/NAMESPACE/.",
        )
    found = f"{ttl:g} s asked for, {facts.granted} s granted"
    if facts.granted <= whole_ttl(ttl):
        return Finding("ttl", Grade.OK, found)
    means = "A dead holder's name is free that much later. The least is one and a half election timeouts."
    return Finding("ttl", Grade.INFO, found, means)


def round_trip(facts: Facts, ttl: Seconds) -> Finding:
    """Whether a renewal has time for what networks do."""
    trips = facts.trips
    return diagnosis.round_trip(statistics.median(trips), max(trips), len(trips), max(ttl, facts.granted))


def login(facts: Facts) -> Finding:
    """Whether etcd asks who is there."""
    if facts.has_auth is False and facts.logs_in:
        return Finding(
            "login",
            Grade.WARNING,
            "a user is named, and authentication is not enabled",
            "Anybody who reaches etcd may steal locks or delete them.",
            "`etcdctl auth enable`.",
        )
    words = {None: "not known", True: "authentication is enabled", False: "anybody who reaches etcd may write"}
    return Finding("login", Grade.INFO if facts.has_auth is not True else Grade.OK, words[facts.has_auth])


def transport(facts: Facts) -> Finding:
    """Whether anybody can listen."""
    if facts.is_guarded:
        return Finding("transport", Grade.OK, "TLS")
    if facts.logs_in:
        return Finding(
            "transport",
            Grade.WARNING,
            "a password over a plain connection",
            "Whoever listens can log in.",
            "Use etcds://.",
        )
    return Finding("transport", Grade.INFO, "plain; whoever reaches the network can listen and write")


def store(facts: Facts) -> Finding:
    """What the genesis record says."""
    if not facts.genesis:
        return Finding("store", Grade.OK, "new: nothing was ever locked in this namespace")
    try:
        said: Any = json.loads(facts.genesis)
        return Finding("store", Grade.OK, f"format {said['format']}, id {said['id']}, base {said.get('base', 0)}")
    except (ValueError, KeyError, TypeError):
        return Finding(
            "store",
            Grade.DANGER,
            "the genesis record makes no sense",
            "No client of this namespace opens.",
            "Use another namespace, or find out who has written ROOT/NAMESPACE/genesis.",
        )
