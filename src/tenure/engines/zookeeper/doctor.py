"""What an ensemble's set-up means for a lock: one function per finding, from facts to a sentence and a grade.

Promises: only `facts` asks the servers; a finding is computed from that, and none is raised. What the servers do not
tell is said to be unknown, never taken for good.
Does not promise that the set-up stays as it was found.
"""

from __future__ import annotations

import re
import statistics
from typing import TYPE_CHECKING, Final

from tenure.engines import diagnosis
from tenure.engines.zookeeper.facts import Facts, Server, ask_all
from tenure.engines.zookeeper.layout import SPOKEN
from tenure.engines.zookeeper.seat import TICKS_LEAST
from tenure.findings import Examination, Finding, Grade

if TYPE_CHECKING:
    from tenure.engines.zookeeper.dial import Dialer
    from tenure.engines.zookeeper.layout import Layout
    from tenure.model import Seconds

OLDEST: Final = (3, 5, 3)
"""The first with containers."""

LISTS_OWN: Final = (3, 6)
"""The first that tells which nodes are a session's."""

CONNECTIONS_LEAST: Final = 60
"""Per host; a server's default. A client has one, and another for each lock_delay in use."""

_MISMATCHES: Final = "zk_digest_mismatches_count"


def examine(dialer: Dialer, layout: Layout, ttl: Seconds) -> Examination:
    """Ask the servers and judge; otherwise as `Engine.examine`."""
    facts = ask_all(dialer, layout, ttl, TICKS_LEAST)
    found = (
        version(facts),
        servers(facts),
        ensemble(facts),
        tick(facts),
        session(facts),
        lock_delay(facts),
        sync(facts),
        trees(facts),
        store(facts),
        rights(facts),
        transport(facts),
        round_trip(facts, ttl),
        connections(facts),
    )
    return Examination(frozenset(), found)


def _parts(server: Server) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", server.version)[:3]))


def version(facts: Facts) -> Finding:
    """Which versions they are."""
    known = sorted({(_parts(s), s.version) for s in facts.servers if s.version})
    if not known:
        return Finding("version", Grade.INFO, "not known: the word srvr is off", "3.5.3 or newer is needed.")
    found = "ZooKeeper " + ", ".join(text for _, text in known)
    oldest = known[0][0]
    if oldest < OLDEST:
        return Finding(
            "version", Grade.DANGER, found, "It has no container nodes, and refuses every claim.", "Upgrade it."
        )
    if oldest < LISTS_OWN:
        return Finding(
            "version",
            Grade.WARNING,
            found,
            "After a steal, a claim that its client has forgotten is not found before its session ends.",
            "Upgrade to 3.6 or newer.",
        )
    return Finding("version", Grade.OK, found)


def servers(facts: Facts) -> Finding:
    """Whether those that the URL names answer."""
    silent = [f"{s.shown} ({s.trouble})" for s in facts.servers if s.trouble]
    if silent:
        return Finding(
            "servers",
            Grade.WARNING,
            f"no answer from {', '.join(silent)}",
            "One server fewer to go to when another fails.",
            "Start it, or take it out of the URL.",
        )
    return Finding("servers", Grade.OK, f"{len(facts.servers)} of {len(facts.servers)} answer")


def ensemble(facts: Facts) -> Finding:
    """Whether the failure of one server stops all locks."""
    modes = [s.mode for s in facts.servers if s.mode]
    found = ", ".join(f"{s.shown} {s.mode}" for s in facts.servers if s.mode) or "not known: the word srvr is off"
    if not modes:
        return Finding("ensemble", Grade.INFO, found)
    if "standalone" in modes:
        return Finding(
            "ensemble",
            Grade.WARNING,
            found,
            "When it is down nobody gets a lock, and its disk is the only place of the tokens.",
            "Run three servers or five.",
        )
    if len(facts.servers) == 1:
        return Finding(
            "ensemble",
            Grade.WARNING,
            f"{found}, and the URL names no other",
            "When it is down, this client has nowhere to go though the ensemble works.",
            "Name more of its servers in the URL.",
        )
    return Finding("ensemble", Grade.OK, found)


def tick(facts: Facts) -> Finding:
    """Whether the option says what the servers have."""
    said = facts.setting("tickTime")
    if said is None or not said.isdigit():
        return Finding(
            "tick",
            Grade.INFO,
            f"not known: the word conf is off; option tick says {facts.tick:g} s",
            "A holder's deadline rests on it: heartbeats are half a tick apart at least.",
        )
    real = int(said) / 1000
    if real > facts.tick * 1.001:
        return Finding(
            "tick",
            Grade.DANGER,
            f"tickTime {real:g} s, and option tick says {facts.tick:g} s",
            "Heartbeats may prove less than they seem to: two holders are possible when a follower is cut off.",
            f"Say tick={real:g} in the URL of every client.",
        )
    if real < facts.tick * 0.999:
        return Finding(
            "tick",
            Grade.INFO,
            f"tickTime {real:g} s, and option tick says {facts.tick:g} s",
            f"Sessions may be as short as {TICKS_LEAST * real:g} s with tick={real:g}.",
        )
    return Finding("tick", Grade.OK, f"tickTime {real:g} s, as option tick says")


def session(facts: Facts) -> Finding:
    """What is granted of the ttl."""
    found = f"a ttl of {facts.asked:g} s is asked for and {facts.granted:g} s are granted"
    if facts.granted < TICKS_LEAST * facts.tick - 0.001:
        return Finding(
            "session",
            Grade.DANGER,
            found,
            f"Less than {TICKS_LEAST} ticks are refused: a lease could not keep half of its time ahead.",
            "Raise the servers' maxSessionTimeout.",
        )
    if facts.granted < facts.asked - 0.001:
        return Finding(
            "session",
            Grade.WARNING,
            found,
            "Leases are shorter than asked for: what is granted counts.",
            f"Raise the servers' maxSessionTimeout to {facts.asked * 1000:.0f} ms, or ask for less.",
        )
    return Finding("session", Grade.INFO if facts.granted > facts.asked + 0.001 else Grade.OK, found)


def lock_delay(facts: Facts) -> Finding:
    """How much lock_delay there is room for."""
    said = facts.setting("maxSessionTimeout")
    if said is None or not said.isdigit():
        return Finding("lock_delay", Grade.INFO, "not known how much there is room for: the word conf is off")
    room = max(0.0, int(said) / 1000 - facts.granted)
    return Finding(
        "lock_delay",
        Grade.INFO,
        f"up to {room:g} s",
        "ttl and lock_delay together are a session's timeout, of which the servers' maxSessionTimeout is the most.",
    )


def sync(facts: Facts) -> Finding:
    """Whether what is granted is on disk."""
    counts = [s.mntr["zk_cnt_fsynctime"] for s in facts.servers if "zk_cnt_fsynctime" in s.mntr]
    if not counts:
        return Finding(
            "sync",
            Grade.INFO,
            "not known: the word mntr is off, or has no count of syncs",
            "Tokens rise over every crash unless a server runs with zookeeper.forceSync=no.",
        )
    if any(count == "0" for count in counts):
        return Finding(
            "sync",
            Grade.INFO,
            "a server has synced nothing since it was started",
            "It was just started, or it runs with zookeeper.forceSync=no: then tokens may fall after a power loss.",
        )
    return Finding("sync", Grade.OK, "writes are synced to disk before they are answered")


def trees(facts: Facts) -> Finding:
    """Whether the servers hold the same: each compares what a transaction made of its tree with the leader's."""
    counts = {s.shown: s.mntr[_MISMATCHES] for s in facts.servers if s.mntr.get(_MISMATCHES, "").isdigit()}
    if not counts:
        return Finding("trees", Grade.INFO, "not known: the word mntr is off, or this is older than 3.6")
    if differ := [f"{count} times on {shown}" for shown, count in counts.items() if count != "0"]:
        return Finding(
            "trees",
            Grade.WARNING,
            f"after a transaction another tree than the leader's, {', '.join(differ)}",
            "If the servers no longer hold the same, two holders are possible: what a client is told depends on where "
            "it asks.",
            "Compare zk_znode_count of all servers while nothing is written. Stop a server that differs, empty its "
            "dataDir but for myid, and start it: it takes all from the leader.",
        )
    return Finding("trees", Grade.OK, "every transaction left the leader's tree")


def store(facts: Facts) -> Finding:
    """The genesis record."""
    if not facts.is_ours:
        return Finding(
            "store",
            Grade.DANGER,
            "the namespace's node holds something else",
            "Every request is refused.",
            "Use another namespace or chroot.",
        )
    if facts.record is None:
        return Finding("store", Grade.OK, "none yet" if facts.may_read else "not known: this login may not read it")
    found = f"format {facts.record.format}, id {facts.record.id}"
    if facts.record.format not in SPOKEN:
        return Finding(
            "store",
            Grade.DANGER,
            found,
            f"This release speaks {SPOKEN}; every request is refused.",
            "Use a newer release of tenure.",
        )
    return Finding("store", Grade.OK, found)


def rights(facts: Facts) -> Finding:
    """Whether this login may use the namespace."""
    if not facts.may_read:
        return Finding(
            "rights",
            Grade.DANGER,
            "this login may not read the namespace",
            "Its nodes are for whoever made them.",
            "Use the same user and password everywhere.",
        )
    return Finding("rights", Grade.OK, "the namespace can be read")


def transport(facts: Facts) -> Finding:
    """How the connection is guarded."""
    found = f"{'TLS' if facts.is_encrypted else 'no TLS'}, {'a login' if facts.has_login else 'no login'}"
    if facts.is_local or (facts.is_encrypted and facts.has_login):
        return Finding("transport", Grade.OK, found)
    if facts.has_login and not facts.is_encrypted:
        return Finding(
            "transport",
            Grade.WARNING,
            found,
            "Whoever is on the way reads the password, and with it releases any lock.",
            "Use zookeepers://.",
        )
    return Finding(
        "transport",
        Grade.WARNING,
        found,
        "Whoever reaches the servers removes any claim.",
        "Use zookeepers:// with a user and a password, or a network of trusted hosts.",
    )


def round_trip(facts: Facts, ttl: Seconds) -> Finding:
    """Whether a renewal has time for what networks do."""
    trips = facts.trips
    return diagnosis.round_trip(statistics.median(trips), max(trips), len(trips), max(ttl, facts.granted))


def connections(facts: Facts) -> Finding:
    """How many connections a host may have."""
    said = facts.setting("maxClientCnxns")
    means = "A client needs one, another for each lock_delay in use, and for a moment one more."
    if said is None or not said.isdigit():
        return Finding("connections", Grade.INFO, "not known how many a host may have: the word conf is off", means)
    most = int(said)
    found = "any number for a host" if most == 0 else f"up to {most} for a host"
    if 0 < most < CONNECTIONS_LEAST:
        return Finding("connections", Grade.WARNING, found, means, "Raise the servers' maxClientCnxns.")
    return Finding("connections", Grade.OK, found, means)
