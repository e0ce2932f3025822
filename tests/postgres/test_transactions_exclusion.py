"""What a claim does while a transaction holds its name, and a transaction while a claim does."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tenure import AcquireTimeout, Client, StoreUnavailable
from tenure.ports import ClaimRef, Standing
from tenure.runtimes import native
from tenure.runtimes.blocking import run
from tests.faces.watched import Attempt, waits
from tests.postgres.blind import GRANTS_WHATEVER, SEES_NO_CLAIM
from tests.postgres.rig import LONG, locked
from tests.servers import postgres
from tests.servers.processes import until
from tests.timing import SLACK

if TYPE_CHECKING:
    from tests.postgres.connections import Blocking
    from tests.postgres.rig import Shelf
    from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing()))


# -- what a claim does while a transaction holds ----------------------------------------------------------------------


def intruders(shelf: Shelf, own: Blocking) -> set[str]:
    """By which of the steps a claim is granted while a transaction holds its name."""
    shelf.hold(own)
    name, granted = "tenure:n", set()
    if shelf.enter("s", 1, name, at_once=True).standing is Standing.HOLDS:
        return {"a try"}
    first, second = (shelf.enter("s", claim, name) for claim in (2, 3))
    if Standing.HOLDS in (first.standing, second.standing):
        granted.add("an enqueue")
    shelf.close("s", 2, name, first.number)
    if shelf.run("SELECT floor > 0 FROM %S.claims") != [(False,)]:
        granted.add("a release of the place in front")
    if run(shelf.store.look(ClaimRef("s", 3, name, second.number), 5.0)).standing is Standing.HOLDS:
        granted.add("a look")
    empty = "tenure:empty"
    shelf.close(
        "s", 9, empty, shelf.enter("s", 9, empty).number
    )  # from now on the name has a row, and its case is usual
    shelf.hold(own, "empty")
    if shelf.enter("s", 10, empty, opening=False).standing is Standing.HOLDS:
        granted.add("an enqueue as usual")
    own.rollback()
    assert run(shelf.store.look(ClaimRef("s", 3, name, second.number), 5.0)).standing is Standing.HOLDS
    return granted


def test_no_step_grants_a_name_that_a_transaction_holds(shelf: Shelf, own: Blocking) -> None:
    assert intruders(shelf, own) == set()


@pytest.mark.parametrize(
    ("changes", "by"),
    [
        ([GRANTS_WHATEVER], "a try"),
        ([("cardinality(needed) > 0 OR NOT is_open(p_name);", "cardinality(needed) > 0;")], "a try"),
        ([("IF NOT is_queued AND is_open(p_name) THEN", "IF NOT is_queued THEN")], "an enqueue as usual"),
        ([("coalesce(is_free, is_open(p_name))", "true")], "a release of the place in front"),
        ([("IF told = 0 AND NOT is_open(p_name) THEN", "IF false THEN")], "a look"),
    ],
)
def test_positive_control_a_step_that_does_not_ask_grants_it(
    shelf: Shelf, own: Blocking, changes: list[tuple[str, str]], by: str
) -> None:
    shelf.replace(*changes)
    assert by in intruders(shelf, own)


def test_a_lease_waits_for_a_transaction_no_longer_than_it_was_told_and_says_for_whom(
    url: str, schema: str, own: Blocking
) -> None:
    with Client(url, ttl=LONG) as client:
        client.open()
        own.hold("n", schema=schema)
        begun = native.now()
        with pytest.raises(AcquireTimeout, match="a transaction") as caught:
            client.lock("n").acquire(wait=0.4)
        assert 0.4 <= native.now() - begun < 0.4 + SLACK
        (holder,) = caught.value.queue.holders if caught.value.queue else ()
        assert holder.pid == own.connection.info.backend_pid
        until(lambda: client.inspect("n").waiters == (), "what was given up is closed")
        other = client.lock("other").acquire()
        assert other.held
        own.commit()
        assert client.inspect("n").holders == ()


def test_positive_control_a_locked_row_would_be_an_error_long_before(
    server: PostgresServer, url: str, schema: str
) -> None:
    with Client(url, ttl=1.2) as client:
        client.lock("n").acquire().release()
        with locked(server, schema, "names", "tenure:n"), pytest.raises(StoreUnavailable):
            client.lock("n", wait=20).acquire()


def test_a_transaction_that_waits_keeps_no_claim_from_its_turn(url: str, schema: str, own: Blocking) -> None:
    """Claims go first, however long a transaction has waited; it gets the name when nobody is left."""
    with Client(url) as client, Client(url) as second:
        lease = client.lock("n").acquire()
        holding = Attempt(lambda: own.hold("n", wait=20, schema=schema))
        waiting: Attempt[Any] = Attempt(second.lock("n", wait=20).acquire)
        waits(client, "n")
        lease.release()
        successor = waiting.outcome()
        assert not holding.ended_at
        successor.release()
        assert holding.outcome().token > successor.token


# -- what a transaction does while a claim holds ----------------------------------------------------------------------


def test_positive_control_a_transaction_that_does_not_look_holds_beside_a_lease(shelf: Shelf, own: Blocking) -> None:
    shelf.enter("s", 1, "tenure:n")
    with pytest.raises(AcquireTimeout):
        shelf.hold(own)
    own.rollback()
    shelf.replace(*SEES_NO_CLAIM)
    assert shelf.hold(own)


def test_after_a_wait_in_vain_the_transaction_is_as_it_was(
    server: PostgresServer, shelf: Shelf, own: Blocking, other: Blocking
) -> None:
    own.connection.execute("CREATE TEMP TABLE kept AS SELECT 1 AS one")
    own.connection.execute("SET LOCAL lock_timeout = '7s'")
    shelf.hold(other)
    begun = native.now()
    with pytest.raises(AcquireTimeout):
        shelf.hold(own, wait=0.3)
    assert 0.3 <= native.now() - begun < 0.3 + SLACK
    assert own.connection.execute("SELECT one, current_setting('lock_timeout') FROM kept").fetchone() == (1, "7s")
    ours = own.connection.info.backend_pid
    assert server.run("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = %s", ours) == [(0,)]
    other.commit()
    assert shelf.hold(own)
    assert own.connection.execute("SELECT current_setting('lock_timeout')").fetchone() == ("7s",)


def test_a_savepoint_lets_go_of_what_was_held_since(shelf: Shelf, own: Blocking, other: Blocking) -> None:
    own.connection.execute("SAVEPOINT before")
    first = shelf.hold(own)
    with pytest.raises(AcquireTimeout, match=f"pid {own.connection.info.backend_pid} \\(a transaction;"):
        shelf.hold(other)
    own.connection.execute("ROLLBACK TO before")
    assert shelf.hold(other) > first


def buried(shelf: Shelf, own: Blocking) -> tuple[bool, bool]:
    """A dead client has two names, and a transaction takes one of them.

    Returns:
        Whether it gets it, and whether somebody else gets the other one meanwhile.
    """
    for claim, name in ((1, "tenure:n"), (2, "tenure:m")):
        shelf.enter("dead", claim, name, ttl=0.05)
    threading.Event().wait(0.1)
    token = shelf.hold(own, wait=5.0)
    return token > 0, shelf.enter("alive", 1, "tenure:m", at_once=True).standing is Standing.HOLDS


def test_the_dead_are_passed_over_and_nobody_else_waits_for_that(shelf: Shelf, own: Blocking) -> None:
    assert buried(shelf, own) == (True, True)
    own.commit()
    # Whoever comes next removes what was passed over.
    assert shelf.enter("alive", 2, "tenure:n").standing is Standing.HOLDS


def test_positive_control_a_death_that_is_latched_until_the_commit_keeps_others_waiting(
    shelf: Shelf, own: Blocking
) -> None:
    shelf.replace(("        RAISE SQLSTATE 'TN003';\n", "        RETURN drawn;\n"))
    assert buried(shelf, own) == (True, False)


def beaten(shelf: Shelf, own: Blocking) -> bool:
    """Whether a transaction gets a name whose holder seems dead while its heartbeat is in mid-commit."""
    shelf.enter("holder", 1, "tenure:n", ttl=0.3)
    with psycopg.connect(shelf.server.url) as beating:
        query = f'SELECT "{shelf.schema}".heartbeat(1, %s, %s, 9000, %s, 60000000, false)'
        beating.execute(query.encode(), [shelf.store._known.id, "", "holder"])
        threading.Event().wait(0.4)
        holding = Attempt(lambda: shelf.hold(own, wait=0.8))
        threading.Event().wait(0.2)
        beating.commit()
    error = holding.end()
    assert error is None or isinstance(error, AcquireTimeout)
    return error is None


def test_a_holder_whose_heartbeat_is_in_mid_commit_is_not_taken_for_dead(shelf: Shelf, own: Blocking) -> None:
    assert not beaten(shelf, own)


def test_positive_control_by_a_plain_read_it_is(shelf: Shelf, own: Blocking) -> None:
    shelf.replace(("ELSE 0 END <= at\n        FOR UPDATE SKIP LOCKED;", "ELSE 0 END <= at;"))
    assert beaten(shelf, own)
