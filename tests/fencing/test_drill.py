"""The guards through the drill, and wrong guards that it must find out.

Five hundred rounds and more for each guard; `python -m tests.fencing.drill --rounds 10000` plays more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.fencing.drill import DRIVERS as ALL
from tests.fencing.drill import play, prepare
from tests.fencing.objects import OBJECT_PATHS
from tests.fencing.paths import NAIVE, PATHS
from tests.fencing.servers import missing
from tests.fencing.stores import DRIVERS

if TYPE_CHECKING:
    from tests.fencing.drill import Tally
    from tests.fencing.servers import Servers

ROUNDS = {"sqlalchemy": 40, "django": 90}
"""Of each path, with each of the ways to a guard that has more than one; 170 with the others."""

NAIVE_ROUNDS = 40

OBJECT_ROUNDS = {"object guarded": 60, "object guarded twice": 30}
"""Of each path of the object store, of which a round takes longer."""

OBJECT_FOUND = ["object no condition", "object no raise", "object read before raise"]
"""What the tests look for; the command looks for all of `OBJECT_NAIVE`."""


def drilled(servers: Servers, driver: str, path: str, rounds: int) -> tuple[Tally, list[str]]:
    store = ALL[driver].store
    if reason := missing(store):
        pytest.skip(reason)
    url, server = servers.new(store)
    asyncio.run(prepare(driver, url))
    return play(driver, path, rounds, url, server, seed=1)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_guard_loses_nothing_and_denies_nobody(servers: Servers, driver: str, path: str) -> None:
    rounds = ROUNDS.get(driver.partition("-")[0], 170)
    tally, notes = drilled(servers, driver, path, rounds)
    assert tally.is_safe, (tally, notes[:3])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", NAIVE)
@pytest.mark.parametrize("driver", ["sqlite3", "psycopg", "pymysql"])
def test_what_looks_right_and_is_not_is_found_out(servers: Servers, driver: str, path: str) -> None:
    tally, _ = drilled(servers, driver, path, NAIVE_ROUNDS)
    assert not tally.is_safe
    assert tally.denied if path == "strict comparison" else tally.lost, tally


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", OBJECT_PATHS)
def test_the_guard_of_objects_loses_nothing_and_denies_nobody(servers: Servers, path: str) -> None:
    tally, notes = drilled(servers, "boto3", path, OBJECT_ROUNDS[path])
    assert tally.is_safe, (tally, notes[:3])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", OBJECT_FOUND)
def test_what_looks_right_with_objects_and_is_not_is_found_out(servers: Servers, path: str) -> None:
    tally, _ = drilled(servers, "boto3", path, NAIVE_ROUNDS // 2)
    assert tally.lost, tally
