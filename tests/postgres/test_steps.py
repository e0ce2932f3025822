"""The PL/pgSQL is held to the Python.

Whatever the simulator and its mutants show of the one is thereby shown of the other, and mutants of the SQL die too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tenure.engines.postgres.migrate import steps_text
from tenure.errors import TenureError
from tenure.model import EXCLUSIVE
from tenure.ports import Entry, SessionCard
from tenure.runtimes.blocking import run
from tests.postgres.mutants import MUTANTS, Mutant
from tests.postgres.twins import Desk, Twins
from tests.servers import clock, postgres
from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(
    (postgres.missing() or clock.missing()) is not None, reason=str(postgres.missing() or clock.missing())
)

SEEDS: Final = 160

KILLING_SEEDS: Final = 200
"""How many seeds a mutant may survive."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(clock=True) as server:
        yield server


@pytest.fixture
def desk(server: PostgresServer) -> Iterator[Desk]:
    desk = Desk(server, "twins")
    yield desk
    desk.close()


@pytest.mark.parametrize("start", range(0, SEEDS, 20))
def test_the_same_steps_have_the_same_replies_on_both(desk: Desk, start: int) -> None:
    for seed in range(start, start + 20):
        Twins(desk, seed).live()


def test_every_number_is_larger_than_the_last(desk: Desk) -> None:
    desk.forget()
    last = 0
    try:
        for claim in range(1, 601):
            if claim in (150, 300, 450):
                desk.server.clock.jump(-3600.0)
            card = SessionCard(f"s{claim}", 3600.0 * 24, "", "", "", 1)
            entry = Entry(card, True, False, claim, "rising:name", EXCLUSIVE, 0.0, "", False, False)
            place = run(desk.store.enter(entry, 5.0))
            assert place.number > last
            last = place.number
    finally:
        desk.server.clock.jump(3 * 3600.0)


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_mutant_dies(desk: Desk, mutant: Mutant) -> None:
    text = mutant.applied(steps_text())  # not inside: a line that is gone must not pass for a death
    Twins(desk, 999_999).live()  # the control: unchanged, it lives
    desk.replace(text)
    try:
        for seed in range(KILLING_SEEDS):
            try:
                Twins(desk, 1_000_000 + seed).live()
            except (AssertionError, KeyError, TenureError):
                return
        pytest.fail(f"{mutant.name} ({mutant.rule}) survived {KILLING_SEEDS} seeds")
    finally:
        desk.replace(steps_text())
