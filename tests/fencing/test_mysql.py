"""What the guard of PyMySQL rests on, between real transactions of a real MariaDB."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pymysql
import pytest

from tenure import fencing
from tenure.errors import NotRaised, StaleToken, UsageError
from tests.fencing.conftest import new_url
from tests.fencing.stores import PyMySQLSession
from tests.servers.processes import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.fencing.servers import Servers

RESOURCE: dict[str, Any] = {"resource": "orders"}


@pytest.fixture
def connect(servers: Servers) -> Iterator[Callable[[], Any]]:
    """Makes connections to a database with the tables."""
    url = new_url(servers, "mysql")
    made: list[Any] = []

    def make() -> Any:
        made.append(PyMySQLSession(url).connection)
        return made[-1]

    session = PyMySQLSession(url)
    for coroutine in (session.prepare(), session.close()):
        with pytest.raises(StopIteration):
            coroutine.send(None)
    yield make
    for connection in made:
        connection.close()


def value(connection: Any) -> int:
    cursor = connection.cursor()
    cursor.execute("SELECT v FROM counter WHERE id = 1")
    found: int = cursor.fetchone()[0]
    return found


def is_waited_for(connection: Any) -> bool:
    """Whether somebody waits for a row."""
    # InnoDB shows the same again to whoever asks more often than every 0.1 s.
    time.sleep(0.12)
    cursor = connection.cursor()
    cursor.execute("SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'")
    connection.rollback()
    return bool(cursor.fetchone()[0])


def test_a_take_over_waits_for_the_open_transaction_and_reads_what_it_left(connect: Callable[[], Any]) -> None:
    old, new, looks = connect(), connect(), connect()
    read: list[int] = []

    def take_over() -> None:
        with fencing.pymysql(new, 9, **RESOURCE):
            read.append(value(new))

    thread = threading.Thread(target=take_over)
    with fencing.pymysql(old, 7, **RESOURCE):
        thread.start()
        until(lambda: is_waited_for(looks), "the raise waits")
        old.cursor().execute("UPDATE counter SET v = 41 WHERE id = 1")
        assert not read
    thread.join(PATIENCE)
    assert read == [41]
    with pytest.raises(StaleToken), fencing.pymysql(old, 7, **RESOURCE):
        pass


def test_a_check_that_waited_for_a_raise_shows_what_the_raise_waited_for(connect: Callable[[], Any]) -> None:
    # Two workers of the new holder: one raises, and waits for the old one; the other one's check waits for the raise.
    # Were its snapshot taken before the lock, it would read past the old holder's last write.
    old, raiser, worker, looks = connect(), connect(), connect(), connect()
    fencing.open(old, 7, **RESOURCE)
    cursor = raiser.cursor()
    cursor.execute("UPDATE tenure_fence SET token = 9 WHERE resource = 'orders'")
    read: list[int] = []

    def work() -> None:
        with fencing.pymysql(worker, 9, **RESOURCE):
            read.append(value(worker))

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: is_waited_for(looks), "the check waits")
    old.cursor().execute("UPDATE counter SET v = 41 WHERE id = 1")
    old.commit()
    raiser.commit()
    thread.join(PATIENCE)
    assert read == [41]


@pytest.mark.parametrize("is_first", [True, False], ids=["the first raise", "a later raise"])
def test_a_snapshot_from_before_the_raise_is_not_worked_in(connect: Callable[[], Any], is_first: bool) -> None:
    new, other = connect(), connect()
    if not is_first:
        fencing.open(other, 7, **RESOURCE)
    assert value(new) == 0
    other.cursor().execute("UPDATE counter SET v = 41 WHERE id = 1")
    other.commit()
    fencing.open(other, 9, **RESOURCE)
    assert value(new) == 0, "the control: REPEATABLE READ shows the old state"
    with pytest.raises(NotRaised), fencing.pymysql(new, 9, **RESOURCE):
        pass
    new.rollback()
    with fencing.pymysql(new, 9, **RESOURCE):
        assert value(new) == 41


def test_overlapping_transactions_of_the_old_holder_cannot_starve_the_raise(connect: Callable[[], Any]) -> None:
    old, late, new, looks = connect(), connect(), connect(), connect()
    outcomes: list[str] = []

    def take_over() -> None:
        fencing.open(new, 9, **RESOURCE)
        outcomes.append("raised")

    def come_late() -> None:
        with pytest.raises(StaleToken), fencing.pymysql(late, 7, **RESOURCE):
            outcomes.append("came in")
        outcomes.append("refused")

    raising, worker = threading.Thread(target=take_over), threading.Thread(target=come_late)
    with fencing.pymysql(old, 7, **RESOURCE):
        raising.start()
        until(lambda: is_waited_for(looks), "the raise waits")
        # Unlike with PostgreSQL, whoever comes now stands behind the raise.
        worker.start()
    raising.join(PATIENCE)
    worker.join(PATIENCE)
    assert sorted(outcomes) == ["raised", "refused"]


def test_many_workers_of_one_holder_work_side_by_side(connect: Callable[[], Any]) -> None:
    guards = []
    for at in range(4):
        connection = connect()
        guard = fencing.pymysql(connection, 7, **RESOURCE)
        guard.__enter__()
        connection.cursor().execute(f"INSERT INTO counter VALUES ({at + 10}, 0, 0)")
        guards.append(guard)
    for guard in guards:
        guard.__exit__(None, None, None)


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK", "CREATE TABLE more (id INTEGER)"])
def test_a_block_that_ends_its_transaction_is_found_out(connect: Callable[[], Any], autocommit: bool, end: str) -> None:
    one, two = connect(), connect()
    one.autocommit(autocommit)
    with pytest.raises(UsageError, match="inside of its block"), fencing.pymysql(one, 7, **RESOURCE):
        one.cursor().execute("UPDATE counter SET v = 5")
        one.cursor().execute(end)
        one.begin()
        one.cursor().execute("UPDATE counter SET v = 9")
    assert value(two) == (0 if end == "ROLLBACK" else 5)


def test_rows_of_any_kind_are_the_users_own(connect: Callable[[], Any]) -> None:
    one = connect()
    one.cursorclass = pymysql.cursors.DictCursor
    with fencing.pymysql(one, 7, **RESOURCE), one.cursor() as cursor:
        cursor.execute("SELECT v FROM counter WHERE id = 1")
        assert cursor.fetchone() == {"v": 0}
