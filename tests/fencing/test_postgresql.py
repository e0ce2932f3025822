"""What the guards of PostgreSQL rest on, between real transactions of a real server."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import IsolationLevel

from tenure import fencing
from tenure.errors import NotRaised, StaleOperation, StaleToken, UsageError
from tenure.fencing import doors
from tenure.fencing.database import places
from tenure.sql.dialects import POSTGRESQL
from tests.servers.processes import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Callable


from tests.fencing.connections import RESOURCE, blocked, connect

__all__ = ["connect"]

HOLD = 0.3
"""Seconds that a transaction of the old holder is open."""

STRICT = (IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE)


def test_many_workers_of_one_holder_work_side_by_side(connect: Callable[[], Any]) -> None:
    guards = [fencing.psycopg(connect(), 7, **RESOURCE) for _ in range(4)]
    for at, guard in enumerate(guards):
        connection = guard.__enter__()
        connection.execute("INSERT INTO counter VALUES (%s, 0, 0)", (at + 10,))
    for guard in guards:
        guard.__exit__(None, None, None)


def test_a_take_over_waits_for_the_open_transaction_and_then_shuts_the_holder_out(connect: Callable[[], Any]) -> None:
    old, second, new, looks = connect(), connect(), connect(), connect()
    read: list[int] = []

    def take_over() -> None:
        with fencing.psycopg(new, 9, **RESOURCE):
            read.append(new.execute("SELECT v FROM counter WHERE id = 1").fetchone()[0])

    thread = threading.Thread(target=take_over)
    with fencing.psycopg(old, 7, **RESOURCE):
        thread.start()
        until(lambda: blocked(looks), "the raise waits")
        # Announced already: a worker that begins now would make it wait longer.
        with pytest.raises(StaleToken), fencing.psycopg(second, 7, **RESOURCE):
            pass
        old.execute("UPDATE counter SET v = 41 WHERE id = 1")
        assert not read
    thread.join(PATIENCE)
    assert read == [41]
    with pytest.raises(StaleToken), fencing.psycopg(old, 7, **RESOURCE):
        pass


def overlap(connect: Callable[[], Any], stop: threading.Event) -> list[threading.Thread]:
    """Workers of the old holder, whose transactions overlap so that one is always open, until each is refused."""
    count = 6
    begun = threading.Barrier(count + 1)

    def work(connection: psycopg.Connection[Any], at: int) -> None:
        begun.wait(PATIENCE)
        time.sleep(at * HOLD / count)
        try:
            while not stop.is_set():
                with fencing.psycopg(connection, 7, **RESOURCE):
                    connection.execute("SELECT pg_sleep(%s)", (HOLD,))
        except StaleToken:
            pass

    threads = [threading.Thread(target=work, args=(connect(), at)) for at in range(count)]
    for thread in threads:
        thread.start()
    begun.wait(PATIENCE)
    time.sleep(HOLD)
    return threads


@pytest.mark.parametrize("is_announced", [True, False], ids=["announced", "the control: a raise that tells nobody"])
def test_overlapping_transactions_of_the_old_holder_cannot_starve_the_raise(
    connect: Callable[[], Any], is_announced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fencing.open(connect(), 7, **RESOURCE)
    if not is_announced:
        place = places._table(POSTGRESQL)
        monkeypatch.setattr(places, "_table", lambda _: place._replace(raising=place.raising[-1:]))
        monkeypatch.setattr(doors, "table", places.table.__wrapped__)
    stop = threading.Event()
    threads = overlap(connect, stop)
    took: list[float] = []

    def take_over(connection: Any, began: float) -> None:
        fencing.open(connection, 9, **RESOURCE)
        took.append(time.monotonic() - began)

    raising = threading.Thread(target=take_over, args=(connect(), time.monotonic()))
    raising.start()
    # One round of transactions that had begun, and not a second one.
    raising.join(5 * HOLD)
    was_done = bool(took)
    stop.set()
    for thread in [*threads, raising]:
        thread.join(PATIENCE)
    assert was_done is is_announced
    assert took


@pytest.mark.parametrize("level", STRICT, ids=lambda level: level.name)
def test_under_a_snapshot_the_work_sees_what_was_there_when_the_fence_rose(
    connect: Callable[[], Any], level: IsolationLevel
) -> None:
    old, new = connect(), connect()
    new.isolation_level = level
    with fencing.psycopg(old, 7, **RESOURCE):
        old.execute("UPDATE counter SET v = 41 WHERE id = 1")
    with fencing.psycopg(new, 9, **RESOURCE):
        assert new.execute("SELECT v FROM counter WHERE id = 1").fetchone() == (41,)
        assert new.execute("SHOW transaction_isolation").fetchone() == (level.name.lower().replace("_", " "),)


@pytest.mark.parametrize("level", STRICT, ids=lambda level: level.name)
def test_a_snapshot_from_before_the_raise_is_40001_and_the_next_try_tells(
    connect: Callable[[], Any], level: IsolationLevel
) -> None:
    old, new = connect(), connect()
    fencing.open(new, 7, **RESOURCE)
    old.isolation_level = level
    old.execute("SELECT v FROM counter")
    fencing.open(new, 9, **RESOURCE)
    with pytest.raises(psycopg.errors.SerializationFailure), fencing.psycopg(old, 7, **RESOURCE):
        pass
    old.rollback()
    with pytest.raises(StaleToken), fencing.psycopg(old, 7, **RESOURCE):
        pass


@pytest.mark.parametrize("level", STRICT, ids=lambda level: level.name)
def test_a_snapshot_from_before_the_first_raise_does_not_know_the_fence(
    connect: Callable[[], Any], level: IsolationLevel
) -> None:
    one = connect()
    one.isolation_level = level
    one.execute("SELECT v FROM counter")
    fencing.open(connect(), 7, **RESOURCE)
    with pytest.raises(NotRaised), fencing.psycopg(one, 7, **RESOURCE):
        pass


def test_two_holders_that_raise_for_the_first_time_at_once_end_up_in_order(connect: Callable[[], Any]) -> None:
    for attempt in range(20):
        name = f"r{attempt}"
        refused: list[int] = []
        start = threading.Barrier(2)

        def come(
            connection: Any, token: int, name: str = name, start: Any = start, refused: list[int] = refused
        ) -> None:
            start.wait(PATIENCE)
            try:
                fencing.open(connection, token, resource=name)
            except StaleToken:
                refused.append(token)

        threads = [threading.Thread(target=come, args=(connect(), token)) for token in (7, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert refused in ([], [7])
        with pytest.raises(StaleToken), fencing.psycopg(connect(), 7, resource=name):
            pass
        fencing.open(connect(), 9, resource=name)


@pytest.mark.parametrize("seq", [1, None], ids=["numbered", "the control: not numbered"])
def test_of_many_copies_of_one_operation_that_race_one_is_done(connect: Callable[[], Any], seq: int | None) -> None:
    outcomes: list[str] = []
    start = threading.Barrier(6)

    def send(connection: Any) -> None:
        start.wait(PATIENCE)
        try:
            with fencing.psycopg(connection, 7, seq=seq, **RESOURCE):
                connection.execute("UPDATE counter SET v = v + 1 WHERE id = 1")
            outcomes.append("done")
        except StaleOperation:
            outcomes.append("refused")

    threads = [threading.Thread(target=send, args=(connect(),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    done = 6 if seq is None else 1
    assert (outcomes.count("done"), len(outcomes)) == (done, 6)
    assert connect().execute("SELECT v FROM counter WHERE id = 1").fetchone() == (done,)


def test_under_autocommit_the_block_is_a_transaction_all_the_same(connect: Callable[[], Any]) -> None:
    one, two = connect(), connect()
    one.autocommit = True
    with pytest.raises(ZeroDivisionError), fencing.psycopg(one, 7, **RESOURCE):
        one.execute("UPDATE counter SET v = 1")
        assert two.execute("SELECT MAX(v) FROM counter").fetchone() == (0,)
        _ = 1 / 0
    assert two.execute("SELECT MAX(v) FROM counter").fetchone() == (0,)


def test_a_commit_inside_of_the_block_is_refused(connect: Callable[[], Any]) -> None:
    one = connect()
    with pytest.raises(psycopg.ProgrammingError, match="commit"), fencing.psycopg(one, 7, **RESOURCE):
        one.commit()


def test_savepoints_and_rows_of_any_kind_are_the_users_own(connect: Callable[[], Any]) -> None:
    one = connect()
    one.row_factory = psycopg.rows.dict_row
    with fencing.psycopg(one, 7, **RESOURCE):
        with pytest.raises(psycopg.errors.UniqueViolation), one.transaction():
            one.execute("INSERT INTO counter VALUES (1, 0, 0)")
        one.execute("UPDATE counter SET v = 5 WHERE id = 1")
    assert one.execute("SELECT v FROM counter WHERE id = 1").fetchone() == {"v": 5}


def test_a_rollback_by_the_drivers_own_signal_passes(connect: Callable[[], Any]) -> None:
    one = connect()
    with fencing.psycopg(one, 7, **RESOURCE):
        one.execute("UPDATE counter SET v = 5")
        raise psycopg.Rollback
    assert one.execute("SELECT MAX(v) FROM counter").fetchone() == (0,)


def test_a_failed_transaction_is_not_worked_in(connect: Callable[[], Any]) -> None:
    one = connect()
    with pytest.raises(psycopg.errors.UndefinedTable):
        one.execute("SELECT * FROM nowhere")
    with pytest.raises(psycopg.errors.InFailedSqlTransaction), fencing.psycopg(one, 7, **RESOURCE):
        pass
    with pytest.raises(UsageError):
        fencing.open(one, 7, **RESOURCE)
