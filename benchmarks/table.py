"""One row of the table: what was measured, next to a peer and to what the machine allows.

A row keeps the samples of all rounds. Round n of ours is compared with round n of the other, which ran just before or
after it, so that a machine that slows down slows both. The verdict is the median's; the extremes are printed beside it.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any, Final, Literal

HEAD: Final = (
    "| what | ours | peer | bound | ratio or value: median (min .. max) | required | |\n|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Samples:
    """The figures of one contender, one a round."""

    name: str
    values: list[float]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values) if self.values else math.nan


@dataclass(frozen=True)
class Row:
    """One figure and what is required of it.

    Attributes:
        what: the figure, in words.
        unit: "/s", "us", "ms", "" and the like.
        ours: tenure's samples.
        peer: another library's.
        bound: what the machine allows, or what costs nothing to compare with.
        judge: what is compared with the requirement: ours over the peer's, over the bound, less the bound, or itself.
        at_least: the least that is required, if any.
        at_most: the most that is allowed, if any. Without either the row is a remark.
    """

    what: str
    unit: str
    ours: Samples
    peer: Samples | None = None
    bound: Samples | None = None
    judge: Literal["peer", "bound", "over", "self"] = "self"
    at_least: float | None = None
    at_most: float | None = None

    @property
    def judged(self) -> list[float]:
        """What the requirement is about, one value a round."""
        other = self.peer if self.judge == "peer" else self.bound
        if self.judge == "self" or other is None:
            return self.ours.values
        pairs = zip(self.ours.values, other.values, strict=True)
        if self.judge == "over":
            return [a - b for a, b in pairs]
        return [a / b if b else math.nan for a, b in pairs]

    @property
    def met(self) -> bool | None:
        """Whether the median is as required; None if nothing is."""
        median = statistics.median(self.judged) if self.judged else math.nan
        if self.at_least is not None:
            return median >= self.at_least
        if self.at_most is not None:
            return median <= self.at_most
        return None

    def plain(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "what": self.what,
            "unit": self.unit,
            "samples": {s.name: s.values for s in (self.ours, self.peer, self.bound) if s is not None},
            "judge": self.judge,
            "judged": self.judged,
            "at_least": self.at_least,
            "at_most": self.at_most,
            "met": self.met,
        }


def line(row: Row) -> str:
    """Write a row."""
    judged = row.judged
    unit = "" if row.judge in ("peer", "bound") else row.unit
    seen = f"{number(statistics.median(judged))}{unit} ({number(min(judged))} .. {number(max(judged))})"
    sign, wanted = (">=", row.at_least) if row.at_least is not None else ("<=", row.at_most)
    needs = "remark" if wanted is None else f"{sign} {wanted:g}{unit}{' more' if row.judge == 'over' else ''}"
    verdict = {True: "ok", False: "MISS", None: ""}[row.met]
    cells = [
        row.what,
        _cell(row.ours, row.unit, named=False),
        _cell(row.peer, row.unit),
        _cell(row.bound, row.unit),
        seen,
        needs,
        verdict,
    ]
    return f"| {' | '.join(cells)} |"


def _cell(samples: Samples | None, unit: str, *, named: bool = True) -> str:
    if samples is None:
        return "-"
    figure = f"{number(samples.median)}{unit}"
    return f"{samples.name} {figure}" if named else figure


def number(value: float) -> str:
    """Three figures are all that such a machine gives."""
    if math.isnan(value):
        return "none"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
