"""The simulation is itself tested: every rule that is taken out of the protocol must be missed by some seed."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import pytest

from tests.simulation.killing import kill
from tests.simulation.mutants import MUTANTS, SEEDS

if TYPE_CHECKING:
    from pathlib import Path

TOGETHER: Final = 2
RULES: Final = {"A1", "A2", "A3", "A4", "A5", "B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9", "B10", "B11"}


@pytest.mark.timeout(600)
@pytest.mark.skipif("TENURE_SKIP_MUTANTS" in os.environ, reason="TENURE_SKIP_MUTANTS is set")
def test_every_mutant_dies(tmp_path: Path) -> None:
    def one(index: int) -> str:
        mutant = MUTANTS[index]
        outcome = kill(mutant, tmp_path / str(index), SEEDS)
        return "" if outcome.is_dead else f"{mutant.rule}, {mutant.what}: alive after {outcome.seeds} seeds"

    with ThreadPoolExecutor(TOGETHER) as pool:
        survivors = list(filter(None, pool.map(one, range(len(MUTANTS)))))
    assert survivors == []


def test_every_rule_of_the_protocol_has_a_mutant() -> None:
    assert {mutant.rule for mutant in MUTANTS} == RULES


def test_every_mutant_is_told_apart() -> None:
    assert len({(mutant.rule, mutant.what) for mutant in MUTANTS}) == len(MUTANTS)
