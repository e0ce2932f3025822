"""Hand-over between processes by way of a server: one name, with nothing to do in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.redis.contenders import BOUND, PEER, SLEEPER, makers
from benchmarks.redis.server import asked, serving
from benchmarks.rounds import fleets
from benchmarks.table import Row, Samples

if TYPE_CHECKING:
    from benchmarks.rounds import Rounds


def run(quick: bool) -> list[Row]:
    """8 processes against all, and 64 as a remark."""
    seconds = 1.0
    with serving() as server:
        make = makers(server)

        def contend(names: tuple[str, ...], rounds: int, processes: int) -> Rounds:
            return fleets(
                names,
                rounds,
                processes=processes,
                seconds=seconds,
                make=make,
                fresh=lambda: server.cli("FLUSHALL"),
                meter=lambda: asked(server),
            )

        # As many short rounds as there is time for: the machine's moods outlast a round.
        few = contend(("tenure", BOUND, PEER), 3 if quick else 9, 8)
        slow = contend(("tenure", SLEEPER), 1 if quick else 3, 8)
        many = contend(("tenure", BOUND, PEER), 1 if quick else 3, 64)
    rows = _rows(few, "8 processes", required=True)
    rows.insert(
        2,
        Row(
            "redis hand-over, 8 processes: hand-overs",
            "/s",
            slow.samples("tenure", lambda o: o.handovers),
            slow.samples(SLEEPER, lambda o: o.handovers),
            judge="peer",
        ),
    )
    return [*rows, *_rows(many, "64 processes", required=False)]


def _rows(rounds: Rounds, who: str, *, required: bool) -> list[Row]:
    def need(value: float) -> float | None:
        return value if required else None

    what = f"redis hand-over, {who}"
    ours = rounds.samples("tenure", lambda o: o.handovers)
    peer = rounds.samples(PEER, lambda o: o.handovers)
    bound = rounds.samples(BOUND, lambda o: o.handovers)

    def beside(figure: str, unit: str, scale: float = 1.0, at_least: float | None = None) -> Row:
        def samples(name: str) -> Samples:
            return rounds.samples(name, lambda o: scale * getattr(o, figure))

        names = {"fairness": "Jain index", "longest": "longest wait", "metered": "requests a turn"}
        return Row(
            f"{what}: {names.get(figure, f'latency {figure}')}",
            unit,
            samples("tenure"),
            samples(PEER),
            samples(BOUND),
            at_least=at_least,
        )

    return [
        Row(f"{what}: hand-overs", "/s", ours, peer, judge="peer", at_least=need(3.2)),
        Row(f"{what}: hand-overs", "/s", ours, bound=bound, judge="bound", at_least=need(0.7)),
        # The target, under 90 us, is one of absolute time: a remark, as all of these.
        beside("p50", "us", 1e6),
        beside("p99", "us", 1e6),
        beside("fairness", "", at_least=need(0.99)),
        beside("longest", "ms", 1e3),
        beside("metered", ""),
        Row(f"{what}: two holders seen", "", Samples("all", [float(rounds.overlaps)]), at_most=0.0),
    ]
