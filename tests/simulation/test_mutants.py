"""The simulation is itself tested: every rule that is taken out of the protocol must be missed by some seed."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

import pytest

from tests.simulation.killing import kill
from tests.simulation.mutants import MUTANTS, SEEDS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulation.mutants import Mutant

RULES: Final = {"A1", "A2", "A3", "A4", "A5", "B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9", "B10", "B11"}


@pytest.mark.timeout(600)  # one whose seed finds it no longer runs through all of them
@pytest.mark.skipif("TENURE_SKIP_MUTANTS" in os.environ, reason="TENURE_SKIP_MUTANTS is set")
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.rule}-{re.sub('[^a-z]+', '-', mutant.what)}")
def test_a_mutant_dies(tmp_path: Path, mutant: Mutant) -> None:
    outcome = kill(mutant, tmp_path, SEEDS)
    print(f"{mutant.rule}, {mutant.what}: {outcome.seeds} seeds, {outcome.cause}")
    assert outcome.is_dead


def test_every_rule_of_the_protocol_has_a_mutant() -> None:
    assert {mutant.rule for mutant in MUTANTS} == RULES


def test_every_mutant_is_told_apart() -> None:
    assert len({(mutant.rule, mutant.what) for mutant in MUTANTS}) == len(MUTANTS)
