"""A fixed budget of seeds in both modes, the seeds that ever failed, and proof that they tried something."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from tenure.testing.simulate import run_seed

KEPT: Final = [
    (mode, int(seed))
    for mode, seed, *_ in (
        line.split()
        for line in (Path(__file__).parent / "seeds.txt").read_text("utf-8").splitlines()
        if line[:1] != "#"
    )
]

BUDGET: Final = {"safety": 240, "liveness": 120}
PART: Final = 60

LEAST: Final = {
    "safety": {
        "grants": 2000, "waited": 500, "not granted": 500, "unknown": 500, "cancelled": 100, "vanished": 20,
        "cancelled after the effect": 30, "brought back": 3, "lost: deadline": 10, "lost: session_ended": 1,
        "lost: stolen": 5, "lost: store_lost": 1, "lost: max_hold": 20, "lost: dropped": 20, "fault: crash": 10,
        "fault: cut": 5, "fault: pause": 5, "fault: stall": 5, "fault: skip": 3, "fault: forget": 3,
    },
    "liveness": {"grants": 2000, "waited": 500, "released": 2000, "fault: crash": 60, "lost: deadline": 2},
}  # fmt: skip
"""What each part of the budget must have seen; a run that tried less proves nothing."""


WHOLE: Final = [(mode, first, 1, False) for mode, seeds in BUDGET.items() for first in range(0, seeds, PART)]
IN_PARTS: Final = [(mode, 0, 3, False) for mode in BUDGET]
TOGETHER: Final = [(mode, 0, 3, True) for mode in BUDGET]


@pytest.mark.parametrize(("mode", "first", "parts", "together"), WHOLE + IN_PARTS + TOGETHER)
def test_no_seed_violates_a_rule(mode: str, first: int, parts: int, together: bool) -> None:
    counts: Counter[str] = Counter()
    options = f"--mode {mode} --parts {parts}{' --together' if together else ''}"
    for seed in range(first, first + PART):
        simulation, violations = run_seed(seed, mode, parts=parts, together=together)
        assert violations == [], f"python -m tenure.testing.simulate --seeds {seed} {options}"
        counts.update(simulation.history.counts)
    assert not together or counts["several granted"] > 500
    # Half of the rounds are of several names then, and of another kind.
    share = 2 if together else 1
    short = {what: counts[what] for what, least in LEAST[mode].items() if counts[what] * share < least}
    assert short == {}, "too little happened for this run to prove anything"


@pytest.mark.parametrize(("mode", "seed"), KEPT)
def test_a_seed_that_once_failed_passes(mode: str, seed: int) -> None:
    assert run_seed(seed, mode)[1] == [], f"python -m tenure.testing.simulate --seeds {seed} --mode {mode}"
