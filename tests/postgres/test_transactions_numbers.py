"""The numbers of transactions and of leases rise together: over rollbacks, waits and clocks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tenure.runtimes import native
from tests.faces.watched import Attempt
from tests.postgres.connections import Blocking
from tests.postgres.rig import Shelf, locked, waits_for_a_lock
from tests.servers import clock, postgres
from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing()))


@pytest.fixture(scope="module")
def clocked() -> Iterator[PostgresServer]:
    if reason := clock.missing():
        pytest.skip(reason)
    with PostgresServer(clock=True) as server:
        yield server


def drawn(server: PostgresServer, shelf: Shelf) -> list[int]:
    """Numbers of one name as the clock is set back: rolled back, a transaction's, a lease's, a transaction's."""
    with Blocking(server.url) as own:
        numbers = [shelf.hold(own)]
        own.rollback()
        server.clock.jump(-3600.0)
        try:
            numbers.append(shelf.hold(own))
            own.commit()
            numbers.append(shelf.enter("s", 1, "tenure:n").number)
            shelf.close("s", 1, "tenure:n", numbers[-1])
            numbers.append(shelf.hold(own))
        finally:
            server.clock.jump(3600.0)
    return numbers


def test_numbers_rise_over_rollbacks_and_between_both_kinds(clocked: PostgresServer, schema: str) -> None:
    numbers = drawn(clocked, Shelf(clocked, schema))
    assert numbers == sorted(set(numbers))


def number_from_before(shelf: Shelf) -> bool:
    """Whether a number that was drawn before a wait is below one that a transaction was given during the wait."""
    shelf.close("s", 1, "n", shelf.enter("s", 1, "n").number)
    with ThreadPoolExecutor(1) as pool, locked(shelf.server, shelf.schema, "names", "n"):
        late = pool.submit(shelf.enter, "s", 2, "n", opening=False)
        waits_for_a_lock(shelf.server)
        ((given,),) = shelf.run("SELECT setval('%S.given', %s)", int(native.utc() * 1e6) + 60_000_000)
    return bool(late.result().number < given)


def test_a_number_drawn_before_a_wait_is_drawn_again_if_a_transaction_got_a_larger_one(shelf: Shelf) -> None:
    assert not number_from_before(shelf)


def test_positive_control_without_a_look_at_what_transactions_got_it_is_not(shelf: Shelf) -> None:
    shelf.replace(("greatest(base, pg_sequence_last_value('given'))", "base"))
    assert number_from_before(shelf)


@pytest.mark.parametrize(
    "change",
    [
        ("            PERFORM setval('given', drawn);\n", ""),
        ("g.base + 1, (SELECT last_value FROM given) + 1);\n    IF new", "g.base + 1);\n    IF new"),
        ("drawn := greatest(counter + 1, ", "drawn := greatest("),
    ],
)
def test_positive_control_without_one_of_their_sources_they_fall(
    clocked: PostgresServer, schema: str, change: tuple[str, str]
) -> None:
    shelf = Shelf(clocked, schema)
    shelf.replace(change)
    with Blocking(clocked.url) as own:
        ahead = shelf.enter("s", 9, "tenure:n").number
        shelf.close("s", 9, "tenure:n", ahead)
        if "counter" in change[0]:
            clocked.clock.jump(-3600.0)
            try:
                assert shelf.hold(own) < ahead
            finally:
                clocked.clock.jump(3600.0)
            return
    numbers = drawn(clocked, shelf)
    assert numbers != sorted(set(numbers))


def test_two_transactions_side_by_side_never_set_the_numbers_back(shelf: Shelf) -> None:
    """One draws under another name's lock; what it sets must not be below what the first has set."""

    def many(name: str) -> list[int]:
        found = []
        with Blocking(shelf.server.url) as own:
            for _ in range(60):
                found.append(shelf.hold(own, name, wait=5.0))
                own.rollback()
        return found

    attempts = [Attempt(lambda name=name: many(name)) for name in ("a", "b", "c")]  # type: ignore[misc]
    numbers = [attempt.outcome() for attempt in attempts]
    assert all(each == sorted(set(each)) for each in numbers)
    assert len({number for each in numbers for number in each}) == 180
