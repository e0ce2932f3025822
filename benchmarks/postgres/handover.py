"""Hand-over between processes by way of a PostgreSQL server: one name, with nothing to do in it."""

from __future__ import annotations

from benchmarks.postgres.contenders import BOUND, OURS, PEER, UNSYNCED, makers, serving, written
from benchmarks.rounds import fleets
from benchmarks.table import Row, Samples


def run(quick: bool) -> list[Row]:
    """8 processes, with commits that are synced and that are not."""
    with serving() as server:
        rounds = fleets(
            (OURS, BOUND, UNSYNCED, PEER),
            3 if quick else 9,
            processes=8,
            seconds=1.5,
            make=makers(server),
            meter=lambda: written(server),
        )
    what = "postgresql hand-over, 8 processes"

    def samples(who: str, figure: str, scale: float = 1.0) -> Samples:
        return rounds.samples(who, lambda o: scale * getattr(o, figure))

    def beside(name: str, unit: str, figure: str, scale: float = 1.0, at_least: float | None = None) -> Row:
        ours, peer, bound = (samples(who, figure, scale) for who in (OURS, PEER, BOUND))
        return Row(f"{what}: {name}", unit, ours, peer, bound, at_least=at_least)

    ours, unsynced = samples(OURS, "handovers"), samples(UNSYNCED, "handovers")
    bound, peer = samples(BOUND, "handovers"), samples(PEER, "handovers")
    return [
        Row(f"{what}: synced", "/s", ours, bound=bound, judge="bound", at_least=0.7),
        Row(f"{what}: not synced, beside advisory locks", "/s", unsynced, peer, judge="peer", at_least=1.0),
        Row(f"{what}: not synced", "/s", unsynced, bound=bound, judge="bound"),
        beside("latency p50", "us", "p50", 1e6),
        beside("latency p99", "us", "p99", 1e6),
        beside("Jain index", "", "fairness", at_least=0.99),
        beside("longest wait", "ms", "longest", 1e3),
        beside("writing transactions a turn", "", "metered"),
        Row(f"{what}: two holders seen", "", Samples("all", [float(rounds.overlaps)]), at_most=0.0),
    ]
