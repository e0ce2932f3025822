"""The guards through the drill, and wrong guards that it must find out, over every store in the same rounds.

Five hundred rounds and more for each pair of guard and store; the command `python -m tests.fencing.drill --rounds
10000` plays more. Holders are processes, so that they run at once and can be
stopped and killed; the public drill, which steps through every statement, is in `test_stepped.py`.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.fencing.drill import DUPLICATES, HEADING, UNBLOCKED, Drill, main, prepare, row, share
from tests.fencing.drivers import every, find
from tests.fencing.paths import DUPLICATING
from tests.fencing.servers import missing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fencing.servers import Servers

ROUNDS = 500
"""Of each pair of a guard and a store, over all of its paths and the drivers that reach it."""

DUPLICATE_TIMES = 2
"""How often a duplicate is played of a wrong path; of all else once shows what is wrong with it."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", every())
def test_a_guard_loses_nothing_and_denies_nobody_and_what_looks_right_is_found_out(
    servers: Servers, name: str, record_property: Callable[[str, object], None]
) -> None:
    driver = find(name)
    if reason := missing(driver.store):
        pytest.skip(reason)
    url, server = servers.new(driver.store)
    asyncio.run(prepare(name, url))
    record_property("table", HEADING)
    with Drill(name, url, server=server, seed=1) as drill:
        rounds = share(ROUNDS, driver, every().values())
        for at, path in enumerate(driver.paths):
            # One restart for each driver: a server takes its time to come back.
            tally = drill.run(path, rounds, restarts=int(at == 0))
            record_property("table", row(name, path, tally))
            assert tally.is_safe, (path, tally, drill.notes[:3])
        for path in driver.naive:
            is_waiting = path in DUPLICATING
            scenarios = DUPLICATES * DUPLICATE_TIMES if is_waiting else UNBLOCKED
            tally = drill.play(path, scenarios, is_waiting=is_waiting)
            record_property("table", row(name, path, tally))
            assert tally.is_found_out(path), (path, tally)
            assert not tally.is_safe


def test_the_command_plays_against_a_store_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = str(tmp_path / "there.sqlite")
    assert main(["--driver", "sqlite3", "--url", there, "--path", "guarded", "--rounds", "5", "--restarts", "0"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["sqlite3", "guarded", "5"]
    assert os.path.exists(there)
    with pytest.raises(SystemExit):
        main(["--url", there])


def test_the_pairs_have_their_rounds() -> None:
    played: Counter[tuple[str, str]] = Counter()
    for driver in every().values():
        played[driver.guard, driver.store] += share(ROUNDS, driver, every().values()) * len(driver.paths)
    assert min(played.values()) >= ROUNDS
