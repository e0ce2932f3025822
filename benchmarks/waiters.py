"""256 waiters for one name, each turn holding it for a sleep of 1 ms.

What the sections alone allow is measured in the same run: one process that sleeps in the same loop, without any lock.
The waiters are 256 processes, and 16 processes of 16 threads each, whose threads share a client.
"""

from __future__ import annotations

from benchmarks.rounds import fleets
from benchmarks.table import Row, Samples

SECTION = 0.001


def run(quick: bool) -> list[Row]:
    """Both mixes against the sections alone; flock(2) beside them as a remark."""
    return [*_mix(256, 1, quick), *_mix(16, 16, quick)]


def _mix(processes: int, threads: int, quick: bool) -> list[Row]:
    names: tuple[str, ...] = ("tenure", "sections alone", "ring of pipes")
    if threads == 1 and not quick:
        names = (*names, "flock(2)")
    rounds = fleets(
        names, 2 if quick else 3, processes=processes, threads=threads, seconds=1.5 if quick else 4.0, section=SECTION
    )
    who = f"{processes} processes" + (f" x {threads} threads" if threads > 1 else "")
    ours = rounds.samples("tenure", lambda o: o.handovers)
    rows = [
        Row(
            f"256 waiters ({who}), 1 ms: hand-overs",
            "/s",
            ours,
            bound=rounds.samples("sections alone", lambda o: o.turns),
            judge="bound",
            at_least=0.85,
        ),
        Row(f"256 waiters ({who}): latency p50", "us", rounds.samples("tenure", lambda o: o.p50 * 1e6)),
        Row(f"256 waiters ({who}): latency p99", "us", rounds.samples("tenure", lambda o: o.p99 * 1e6)),
        Row(f"256 waiters ({who}): Jain index", "", rounds.samples("tenure", lambda o: o.fairness)),
        Row(f"256 waiters ({who}): longest wait", "ms", rounds.samples("tenure", lambda o: o.longest * 1e3)),
        Row(f"256 waiters ({who}): two holders seen", "", Samples("all", [float(rounds.overlaps)]), at_most=0.0),
    ]
    rows[1:1] = [
        Row(
            f"256 waiters ({who}), 1 ms: hand-overs",
            "/s",
            ours,
            bound=rounds.samples(bound, lambda o: o.handovers),
            judge="bound",
        )
        for bound in names[2:]
    ]
    return rows
