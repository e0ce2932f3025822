"""256 waiters for one name on etcd, each turn holding it for a sleep of 1 ms; a tenth of them for comparison.

What a hand-over costs must not grow with how many wait.
"""

from __future__ import annotations

from benchmarks.etcd.contenders import asked, makers, serving
from benchmarks.rounds import fleets
from benchmarks.table import Row
from benchmarks.waiters import SECTION


def run(quick: bool) -> list[Row]:
    """Threads that share a client in 16 processes."""
    few, many = _mix(16, 2, quick), _mix(16, 16, quick)
    return [*few, *many]


def _mix(processes: int, threads: int, quick: bool) -> list[Row]:
    with serving() as server:
        rounds = fleets(
            ("tenure", "sections alone"),
            2 if quick else 3,
            processes=processes,
            threads=threads,
            # All queue up first, while etcd writes each claim down.
            seconds=4.0,
            section=SECTION,
            make=makers(server),
            meter=lambda: asked(server),
        )
    what = f"etcd, {processes * threads} waiters ({processes} processes x {threads} threads)"
    ours = rounds.samples("tenure", lambda o: o.handovers)
    return [
        Row(f"{what}, 1 ms: hand-overs", "/s", ours, bound=rounds.samples("sections alone", lambda o: o.turns)),
        Row(f"{what}: messages a turn", "", rounds.samples("tenure", lambda o: round(o.metered, 1)), at_most=14.0),
        Row(f"{what}: latency p50", "us", rounds.samples("tenure", lambda o: o.p50 * 1e6)),
        Row(f"{what}: Jain index", "", rounds.samples("tenure", lambda o: o.fairness)),
        Row(f"{what}: longest wait", "ms", rounds.samples("tenure", lambda o: o.longest * 1e3)),
    ]
