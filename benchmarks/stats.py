"""The few statistics that the table needs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def percentile(values: Sequence[float], part: float) -> float:
    """Give the smallest value that is not exceeded by `part` of them; NaN if there are none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(part * len(ordered)) - 1))]


def jain(turns: Sequence[float]) -> float:
    """Jain's index of fairness: 1 if all got the same, 1/n if one got everything."""
    squares = sum(t * t for t in turns)
    return sum(turns) ** 2 / (len(turns) * squares) if squares else 0.0
