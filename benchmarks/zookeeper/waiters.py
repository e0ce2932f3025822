"""256 waiters for one name on a ZooKeeper server, each turn holding it for a sleep of 1 ms."""

from __future__ import annotations

from benchmarks.rounds import fleets
from benchmarks.table import Row, Samples
from benchmarks.waiters import SECTION
from benchmarks.zookeeper.contenders import PEER, makers, serving


def run(quick: bool) -> list[Row]:
    """Threads that share a client in 4 and in 16 processes; in the full run 256 processes too."""
    rows = [*_mix(4, 64, quick), *_mix(16, 16, quick)]
    return rows if quick else [*rows, *_mix(256, 1, quick)]


def _mix(processes: int, threads: int, quick: bool) -> list[Row]:
    with serving() as server:
        rounds = fleets(
            ("tenure", "sections alone", PEER),
            2 if quick else 3,
            processes=processes,
            threads=threads,
            seconds=3.0,
            section=SECTION,
            make=makers(server),
            meter=lambda: server.received,
        )
    who = f"{processes} processes" + (f" x {threads} threads" if threads > 1 else "")
    what = f"zookeeper, 256 waiters ({who})"

    def samples(name: str, figure: str, scale: float = 1.0) -> Samples:
        return rounds.samples(name, lambda o: scale * getattr(o, figure))

    ours, peer = samples("tenure", "handovers"), samples(PEER, "handovers")
    return [
        Row(f"{what}, 1 ms: hand-overs", "/s", ours, bound=samples("sections alone", "turns"), at_least=450.0),
        Row(f"{what}, 1 ms: hand-overs", "/s", ours, peer, judge="peer"),
        # The two readings cut through some turns.
        Row(
            f"{what}: messages a turn",
            "",
            rounds.samples("tenure", lambda o: round(o.metered, 1)),
            samples(PEER, "metered"),
            at_most=5.0,
        ),
        Row(f"{what}: latency p50", "us", samples("tenure", "p50", 1e6), samples(PEER, "p50", 1e6)),
        Row(f"{what}: Jain index", "", samples("tenure", "fairness"), samples(PEER, "fairness")),
        Row(f"{what}: longest wait", "ms", samples("tenure", "longest", 1e3), samples(PEER, "longest", 1e3)),
        Row(f"{what}: two holders seen", "", Samples("all", [float(rounds.overlaps)]), at_most=0.0),
    ]
