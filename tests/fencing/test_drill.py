"""The guards through the drill, and wrong guards that it must find out, over every store in the same rounds.

Five hundred rounds and more for each pair of guard and store; `python -m tests.fencing.drill --rounds 10000` plays
more. Holders are processes, so that they run at once and can be stopped and killed; the public drill, which steps
through every statement, is in `test_stepped.py`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.fencing.drill import HEADING, Drill, prepare, row
from tests.fencing.servers import missing
from tests.fencing.stores import DRIVERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fencing.servers import Servers

ROUNDS = 500
"""Of each driver, over all of its paths."""

NAIVE_ROUNDS = 10
"""Of each wrong path; each of them shows in one round of two or so, and more are played until it has."""

NAIVE_MOST = 60


@pytest.mark.timeout(300)
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_guard_loses_nothing_and_denies_nobody_and_what_looks_right_is_found_out(
    servers: Servers, driver: str, record_property: Callable[[str, object], None]
) -> None:
    known = DRIVERS[driver]
    if reason := missing(known.store):
        pytest.skip(reason)
    url, server = servers.new(known.store)
    asyncio.run(prepare(driver, url))
    record_property("table", HEADING)
    with Drill(driver, url, server=server, seed=1) as drill:
        for at, path in enumerate(known.paths):
            # One restart for each pair: a server takes its time to come back.
            tally = drill.run(path, -(-ROUNDS // len(known.paths)), restarts=int(at == 0))
            record_property("table", row(driver, path, tally))
            assert tally.is_safe, (path, tally, drill.notes[:3])
        for path in known.naive:
            tally = drill.run(path, NAIVE_ROUNDS, restarts=0)
            record_property("table", row(driver, path, tally))
            if not tally.is_found_out(path):
                tally = drill.run(path, NAIVE_MOST, restarts=0)
                record_property("table", row(driver, path, tally))
            assert tally.is_found_out(path), (path, tally)
            assert not tally.is_safe
