"""No pair of a guard and a store is missing from the drill, and no scenario from a pair."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING

import pytest

from tenure import fencing
from tenure.sql.dialects import DIALECTS
from tests.fencing.drill import DUPLICATES, RESTART, SCENARIOS, playable
from tests.fencing.drivers import every
from tests.fencing.paths import DUPLICATING, NAIVE, PATHS

if TYPE_CHECKING:
    from tests.fencing.session import Driver

NO_GUARDS = {"AsyncGuard", "Guard", "Proof", "Row", "open", "read_s3", "schema"}
"""What `tenure.fencing` offers beside guards."""

SENDERS = {"header", "raise_for_refusal", "shown"}
"""What carries a token by hand to another program, which has one of these guards."""

STORES: dict[str, set[str]] = {
    "sqlite3": {"sqlite"},
    "psycopg": {"postgresql"},
    "asyncpg": {"postgresql"},
    "pymysql": {"mysql"},
    "sqlalchemy": set(DIALECTS),
    "django": set(DIALECTS),
    "redis": {"redis"},
    "file": {"file"},
    "s3": {"s3"},
    "httpx": {"http"},
    "requests": {"http"},
}
"""What each guard can write to."""

WRONG = {
    "unfenced",
    "read before raise",
    "write without raise",
    "check then write",
    "strict comparison",
    "TTL on the fence",
}
"""Wrong ways that every store must show up, whatever they are called further."""


def test_every_guard_is_drilled_over_every_store() -> None:
    guards = set(fencing.__all__) - NO_GUARDS - SENDERS
    assert set(STORES) == guards, "say which stores a new guard has"
    drilled = {(driver.guard, driver.store) for driver in every().values()}
    wanted = {(guard, store) for guard, stores in STORES.items() for store in stores}
    assert drilled == wanted


@pytest.mark.parametrize("driver", every().values(), ids=lambda driver: driver.name)
def test_every_pair_has_right_paths_and_their_controls(driver: Driver) -> None:
    is_numbered = "seq" in signature(getattr(fencing, driver.guard)).parameters
    assert {"guarded", "guarded twice"} <= set(driver.paths)
    assert ("numbered" in driver.paths, "not numbered" in driver.naive) == (is_numbered, is_numbered)
    assert set(driver.naive) >= WRONG
    assert not set(driver.paths) & set(driver.naive)
    assert driver.store not in DIALECTS or (driver.paths, driver.naive) == (PATHS, NAIVE)
    missing = set(SCENARIOS) - set(playable(driver))
    assert missing <= {scenario for scenario in SCENARIOS if scenario.stop == "written" and scenario.then != "resume"}
    assert driver.rolls_back or driver.store in ("redis", "http"), "only there does a write stay whatever comes after"


def test_the_scenarios_are_those_that_are_promised() -> None:
    stops = {scenario.stop for scenario in SCENARIOS if scenario.then == "resume" and not scenario.between}
    assert {"granted", "read", "written"} <= stops, "a stale writer delayed past take-over in three places"
    assert {scenario.then for scenario in SCENARIOS} == {"resume", "kill", "fail"}
    assert any(not scenario.stop for scenario in SCENARIOS), "stopped by a signal, anywhere"
    assert any(s.then == "kill" and s.stop == "read" for s in SCENARIOS), "a crash between raise and write"
    assert RESTART.then == "restart"
    assert {scenario.then for scenario in DUPLICATES} == {"repeat"}
    assert DUPLICATING & set(PATHS)
    assert DUPLICATING & set(NAIVE)
