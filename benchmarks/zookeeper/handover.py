"""Hand-over between processes by way of a ZooKeeper server, which syncs each change: one name, nothing to do in it."""

from __future__ import annotations

from benchmarks.rounds import fleets
from benchmarks.table import Row, Samples
from benchmarks.zookeeper.contenders import PEER, makers, serving


def run(quick: bool) -> list[Row]:
    """8 processes."""
    with serving() as server:
        rounds = fleets(
            ("tenure", PEER),
            3 if quick else 9,
            processes=8,
            seconds=2.0,
            make=makers(server),
            meter=lambda: server.received,
        )
    what = "zookeeper hand-over, 8 processes"

    def beside(name: str, unit: str, figure: str, scale: float = 1.0, at_least: float | None = None) -> Row:
        def samples(who: str) -> Samples:
            return rounds.samples(who, lambda o: scale * getattr(o, figure))

        return Row(f"{what}: {name}", unit, samples("tenure"), samples(PEER), at_least=at_least)

    ours = rounds.samples("tenure", lambda o: o.handovers)
    return [
        Row(f"{what}: hand-overs", "/s", ours, rounds.samples(PEER, lambda o: o.handovers), judge="peer", at_least=1.5),
        beside("latency p50", "us", "p50", 1e6),
        beside("Jain index", "", "fairness", at_least=0.99),
        beside("longest wait", "ms", "longest", 1e3),
        beside("messages a turn", "", "metered"),
        Row(f"{what}: two holders seen", "", Samples("all", [float(rounds.overlaps)]), at_most=0.0),
    ]
