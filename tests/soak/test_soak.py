"""Real processes on real servers, stopped, killed and cut off: nobody believes what another does, all are served.

A short run of each engine; `python -m tests.soak` runs longer ones.
"""

from __future__ import annotations

import pytest

from tenure.engines import ENGINES
from tests.soak.conductor import soak
from tests.soak.places import KINDS
from tests.timing import in_time

SECONDS = 10.0


@pytest.mark.parametrize("engine", KINDS)
def test_no_two_believe_tokens_rise_and_all_are_served(engine: str) -> None:
    if reason := KINDS[engine].missing():
        pytest.skip(reason)
    outcome = soak(engine, SECONDS, seed=1)
    assert not outcome.wrong
    in_time(outcome.leases > 15, f"{outcome.leases} leases are worth nothing")
    assert sum(outcome.faults.values()) > 10, outcome.faults


def test_those_who_do_not_ask_their_lease_are_found_out() -> None:
    outcomes = (soak("sqlite", SECONDS, seed=seed, naive=True) for seed in range(1, 7))
    assert any(" and " in wrong for outcome in outcomes for wrong in outcome.wrong)


def test_each_engine_that_processes_share_is_soaked() -> None:
    soaked = {ENGINES[kind.partition("-")[0]] for kind in KINDS}
    assert set(ENGINES.values()) - soaked == {ENGINES["memory"]}
