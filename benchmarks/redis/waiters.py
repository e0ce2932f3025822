"""256 waiters for one name on a server, each turn holding it for a sleep of 1 ms.

What the sections alone allow is measured in the same run: one process that sleeps in the same loop, without any lock.
"""

from __future__ import annotations

from benchmarks.redis.contenders import BOUND, PEER, makers
from benchmarks.redis.server import asked, serving
from benchmarks.rounds import fleets
from benchmarks.table import Row, Samples
from benchmarks.waiters import SECTION


def run(quick: bool) -> list[Row]:
    """Threads that share a client in 4 and in 16 processes; in the full run 256 processes too."""
    rows = [*_mix(4, 64, quick), *_mix(16, 16, quick)]
    return rows if quick else [*rows, *_mix(256, 1, quick)]


def _mix(processes: int, threads: int, quick: bool) -> list[Row]:
    # A server for each mix: 256 processes leave many closed connections behind.
    with serving() as server:
        rounds = fleets(
            ("tenure", "sections alone", BOUND, PEER),
            2 if quick else 3,
            processes=processes,
            threads=threads,
            # The first wait of a process connects its mailbox: 256 of these take a while.
            seconds=1.5 if quick else 4.0 if processes == 256 else 2.0,
            section=SECTION,
            make=makers(server),
            fresh=lambda: server.cli("FLUSHALL"),
            meter=lambda: asked(server),
        )
    who = f"{processes} processes" + (f" x {threads} threads" if threads > 1 else "")
    what = f"redis, 256 waiters ({who})"

    def requests(name: str) -> Samples:
        # The two readings cut through some turns.
        return rounds.samples(name, lambda o: round(o.metered, 1))

    ours = rounds.samples("tenure", lambda o: o.handovers)
    sections = rounds.samples("sections alone", lambda o: o.turns)
    peer = rounds.samples(PEER, lambda o: o.handovers)
    bare = rounds.samples(BOUND, lambda o: o.handovers)
    return [
        Row(f"{what}, 1 ms: hand-overs", "/s", ours, bound=sections, at_least=800.0),
        Row(f"{what}, 1 ms: hand-overs", "/s", ours, bound=sections, judge="bound"),
        Row(f"{what}, 1 ms: hand-overs", "/s", ours, bound=bare, judge="bound"),
        Row(f"{what}, 1 ms: hand-overs", "/s", ours, peer, judge="peer"),
        Row(
            f"{what}: requests a turn",
            "",
            requests("tenure"),
            requests(PEER),
            requests(BOUND),
            at_most=3.0,
        ),
        Row(
            f"{what}: latency p50",
            "us",
            rounds.samples("tenure", lambda o: o.p50 * 1e6),
            rounds.samples(PEER, lambda o: o.p50 * 1e6),
            rounds.samples(BOUND, lambda o: o.p50 * 1e6),
        ),
        Row(
            f"{what}: Jain index",
            "",
            rounds.samples("tenure", lambda o: o.fairness),
            rounds.samples(PEER, lambda o: o.fairness),
        ),
        Row(
            f"{what}: longest wait",
            "ms",
            rounds.samples("tenure", lambda o: o.longest * 1e3),
            rounds.samples(PEER, lambda o: o.longest * 1e3),
        ),
        Row(f"{what}: two holders seen", "", Samples("all", [float(rounds.overlaps)]), at_most=0.0),
    ]
