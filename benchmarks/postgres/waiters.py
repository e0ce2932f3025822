"""Many waiters for one name on a PostgreSQL server, each turn holding it for a sleep of 1 ms.

What a turn costs the server must not grow with how many wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.postgres.contenders import ALONE, OURS, makers, serving, written
from benchmarks.rounds import fleets
from benchmarks.table import Row, Samples
from benchmarks.waiters import SECTION

if TYPE_CHECKING:
    from benchmarks.rounds import Rounds

CONNECTIONS: Final = 6
"""Of one client at its busiest."""


def run(quick: bool) -> list[Row]:
    """32 and 256 threads of 16 processes; in the full run 256 processes too."""
    few, many = (_mix(16, threads, quick) for threads in (2, 16))
    rows = [
        *_rows(few, "32 waiters (16 processes x 2 threads)"),
        *_rows(many, "256 waiters (16 processes x 16 threads)"),
    ]
    beside = [mix.samples(OURS, lambda o: round(o.metered, 1)) for mix in (many, few)]
    what = "postgresql, 256 waiters: writing transactions a turn, beside 32"
    rows.append(Row(what, "", beside[0], bound=Samples("32 waiters", beside[1].values), judge="bound", at_most=1.1))
    return rows if quick else [*rows, *_rows(_mix(256, 1, quick), "256 waiters (256 processes)")]


def _mix(processes: int, threads: int, quick: bool) -> Rounds:
    with serving(most=processes * CONNECTIONS + 20) as server:
        return fleets(
            (OURS, ALONE),
            2 if quick else 3,
            processes=processes,
            threads=threads,
            # Longer than the first requests of 256 waiters take, which come all at once.
            seconds=5.0,
            section=SECTION,
            make=makers(server),
            meter=lambda: written(server),
        )


def _rows(rounds: Rounds, who: str) -> list[Row]:
    what = f"postgresql, {who}"

    def samples(name: str, figure: str, scale: float = 1.0) -> Samples:
        return rounds.samples(name, lambda o: scale * getattr(o, figure))

    return [
        Row(
            f"{what}, 1 ms: hand-overs", "/s", samples(OURS, "handovers"), bound=samples(ALONE, "turns"), judge="bound"
        ),
        Row(f"{what}: writing transactions a turn", "", samples(OURS, "metered")),
        Row(f"{what}: latency p50", "us", samples(OURS, "p50", 1e6)),
        Row(f"{what}: Jain index", "", samples(OURS, "fairness")),
        Row(f"{what}: longest wait", "ms", samples(OURS, "longest", 1e3)),
        Row(f"{what}: two holders seen", "", Samples("all", [float(rounds.overlaps)]), at_most=0.0),
    ]
