"""Hand-over: processes that all want one name, with nothing to do in it.

The bound is flock(2) in the same loop. It is a bound of hand-overs in the sense of "no more was seen in this run": the
kernel lets the holder take it again and again, so it has many more turns than hand-overs, and a lock that hands over
at each turn may well have more of these. The bound of strict order is a ring of pipes, one wake-up a hand-over, and
that of two transactions a turn is a bare table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.rounds import fleets
from benchmarks.table import Row, Samples

if TYPE_CHECKING:
    from benchmarks.rounds import Rounds

BOUNDS = ("flock(2)", "ring of pipes", "bare table")
PEERS = ("filelock", "portalocker")


def run(quick: bool) -> list[Row]:
    """8 processes against all, and 64 against the bound as a remark."""
    seconds = 1.0 if quick else 2.0
    few = fleets(("tenure", *BOUNDS, *PEERS), 3 if quick else 5, processes=8, seconds=seconds)
    many = fleets(("tenure", *BOUNDS), 1 if quick else 3, processes=64, seconds=seconds)
    return [*_rows(few, "8 processes", required=True), *_rows(many, "64 processes", required=False)]


def _rows(rounds: Rounds, who: str, *, required: bool) -> list[Row]:
    def need(value: float) -> float | None:
        return value if required else None

    ours = rounds.samples("tenure", lambda o: o.handovers)
    bound = rounds.samples("flock(2)", lambda o: o.handovers)
    return [
        Row(f"hand-over, {who}: hand-overs", "/s", ours, bound=bound, judge="bound", at_least=need(0.9)),
        # The scheduler has two moods with flock(2), an order of magnitude apart: the median may hide the quick one.
        Row(
            f"hand-over, {who}: hand-overs, over the best round of flock(2)",
            "/s",
            ours,
            bound=Samples("flock(2)", [max(bound.values)] * len(bound.values)),
            judge="bound",
        ),
        *(
            Row(
                f"hand-over, {who}: hand-overs",
                "/s",
                ours,
                bound=rounds.samples(at, lambda o: o.handovers),
                judge="bound",
            )
            for at in BOUNDS[1:]
        ),
        *(
            Row(f"hand-over, {who}: hand-overs", "/s", ours, rounds.samples(peer, lambda o: o.handovers), judge="peer")
            for peer in PEERS
            if peer in rounds.outcomes
        ),
        Row(
            f"hand-over, {who}: all turns",
            "/s",
            rounds.samples("tenure", lambda o: o.turns),
            bound=rounds.samples("flock(2)", lambda o: o.turns),
            judge="bound",
        ),
        Row(
            f"hand-over, {who}: latency p50",
            "us",
            rounds.samples("tenure", lambda o: o.p50 * 1e6),
            bound=rounds.samples("flock(2)", lambda o: o.p50 * 1e6),
        ),
        Row(
            f"hand-over, {who}: latency p99",
            "us",
            rounds.samples("tenure", lambda o: o.p99 * 1e6),
            bound=rounds.samples("flock(2)", lambda o: o.p99 * 1e6),
        ),
        Row(
            f"hand-over, {who}: Jain index",
            "",
            rounds.samples("tenure", lambda o: o.fairness),
            bound=rounds.samples("flock(2)", lambda o: o.fairness),
            at_least=need(0.99),
        ),
        Row(
            f"hand-over, {who}: longest wait",
            "ms",
            rounds.samples("tenure", lambda o: o.longest * 1e3),
            bound=rounds.samples("flock(2)", lambda o: o.longest * 1e3),
            at_most=need(50.0),
        ),
        Row(f"hand-over, {who}: two holders seen", "", Samples("all", [float(rounds.overlaps)]), at_most=0.0),
    ]
