"""The guards through the drill, and wrong guards that it must find out.

Five hundred rounds and more for each guard; `python -m tests.fencing.drill --rounds 10000` plays more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.fencing.drill import play, prepare
from tests.fencing.drivers import every, find
from tests.fencing.paths import NAIVE, paths_of
from tests.fencing.servers import missing

if TYPE_CHECKING:
    from tests.fencing.drill import Tally
    from tests.fencing.servers import Servers

ROUNDS = {"sqlalchemy": 40, "django": 90, "redis": 130, "file": 250}
"""Of each path, with each of the ways to a guard that has more than one; 170 with the others."""

NAIVE_ROUNDS = {"redis": 25, "file": 25}
"""Of each wrong path; 40 with the others."""

FOUND_OUT = {
    **dict.fromkeys(("sqlite3", "psycopg", "pymysql"), tuple(path for path in NAIVE if path != "TTL on the fence")),
    "redis": ("unfenced", "read before raise", "write without raise", "check then write", "TTL on the fence"),
    "file": ("unfenced", "read before raise", "check then write"),
}
"""What is tried with which driver; the command tries all of it."""


def drilled(servers: Servers, driver: str, path: str, rounds: int) -> tuple[Tally, list[str]]:
    store = find(driver).store
    if reason := missing(store):
        pytest.skip(reason)
    url, server = servers.new(store)
    asyncio.run(prepare(driver, url))
    return play(driver, path, rounds, url, server, seed=1)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("driver", "path"), [(name, path) for name in every() for path in paths_of(find(name))])
def test_a_guard_loses_nothing_and_denies_nobody(servers: Servers, driver: str, path: str) -> None:
    rounds = ROUNDS.get(driver.partition("-")[0], 170)
    tally, notes = drilled(servers, driver, path, rounds)
    assert tally.is_safe, (tally, notes[:3])


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("driver", "path"),
    [(name, path) for name, paths in FOUND_OUT.items() for path in paths],
)
def test_what_looks_right_and_is_not_is_found_out(servers: Servers, driver: str, path: str) -> None:
    tally, _ = drilled(servers, driver, path, NAIVE_ROUNDS.get(driver, 40))
    assert not tally.is_safe
    assert tally.denied if path == "strict comparison" else tally.lost, tally
