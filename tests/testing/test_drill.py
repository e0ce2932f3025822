"""The drill finds what is wrong with a write path, wherever it is, and passes what is right."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

import tenure
from tenure import fencing
from tenure.errors import Overtaken, StaleToken, UsageError
from tenure.testing import DrillFailed, drill, point, watch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tenure.testing import Drilled


def connect_to(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path / "store.db")
    connection.execute("PRAGMA synchronous = OFF")
    return connection


@pytest.fixture
def connect(tmp_path: Path) -> Callable[[], sqlite3.Connection]:
    """Connects to a file with a counter."""
    with closing(connect_to(tmp_path)) as made:
        made.executescript(fencing.schema("sqlite"))
        made.executescript(
            "PRAGMA journal_mode = WAL;"
            "CREATE TABLE counter (v INTEGER, fence INTEGER, until REAL); INSERT INTO counter VALUES (0, 0, 0)"
        )
    return lambda: connect_to(tmp_path)


def value(connection: sqlite3.Connection) -> int:
    [found] = connection.execute("SELECT v FROM counter").fetchone()
    assert isinstance(found, int)
    return found


def put(connection: sqlite3.Connection, new: int) -> None:
    connection.execute("UPDATE counter SET v = ?", (new,))


# -- paths ------------------------------------------------------------------------------------------------------------


def guarded(lease: Any, connection: sqlite3.Connection) -> None:
    with fencing.sqlite3(connection, lease):
        put(connection, value(connection) + 1)


def opened(lease: Any, connection: sqlite3.Connection) -> None:
    fencing.open(connection, lease)
    connection.execute("BEGIN")
    with fencing.sqlite3(connection, lease):
        put(connection, value(connection) + 1)
    connection.commit()


def refused_late(lease: Any, connection: sqlite3.Connection) -> None:
    """Right, though it raises after its work is done: that is no update too many."""
    guarded(lease, connection)
    lease.check()


def locked_by_itself(client: tenure.Client, connection: sqlite3.Connection) -> None:
    with client.lock("orders") as lease:
        guarded(lease, connection)


def unfenced(lease: Any, connection: sqlite3.Connection) -> None:
    put(connection, value(connection) + 1)
    connection.commit()


def asked(lease: Any, connection: sqlite3.Connection) -> None:
    found = value(connection)
    lease.check()
    put(connection, found + 1)
    connection.commit()


def read_before_raise(lease: Any, connection: sqlite3.Connection) -> None:
    found = value(connection)
    with fencing.sqlite3(connection, lease):
        put(connection, found + 1)


def compared(connection: sqlite3.Connection, statement: str, values: tuple[Any, ...]) -> None:
    changed = connection.execute(statement, values).rowcount
    connection.commit()
    if not changed:
        raise StaleToken("stale")


def write_without_raise(lease: Any, connection: sqlite3.Connection) -> None:
    found, token = value(connection), lease.token
    compared(connection, "UPDATE counter SET v = ?, fence = ? WHERE fence <= ?", (found + 1, token, token))


def check_then_write(lease: Any, connection: sqlite3.Connection) -> None:
    token = lease.token
    compared(connection, "UPDATE counter SET fence = ? WHERE fence <= ?", (token, token))
    found = value(connection)
    if connection.execute("SELECT fence FROM counter").fetchone() != (token,):
        raise StaleToken("stale")
    put(connection, found + 1)
    connection.commit()


def strict(lease: Any, connection: sqlite3.Connection) -> None:
    token = lease.token
    compared(connection, "UPDATE counter SET fence = ? WHERE fence < ?", (token, token))
    found = value(connection)
    compared(connection, "UPDATE counter SET v = ? WHERE fence = ?", (found + 1, token))


def forgotten(lease: Any, connection: sqlite3.Connection) -> None:
    """The fence has a ttl, by the clock of the leases, and is forgotten after it."""
    token, now = lease.token, lease._core.now()
    values = (token, now + 30, token, now)
    compared(connection, "UPDATE counter SET fence = ?, until = ? WHERE fence <= ? OR until < ?", values)
    found = value(connection)
    point("the rest takes its time")
    compared(
        connection,
        "UPDATE counter SET v = ?, fence = ?, until = ? WHERE fence <= ? OR until <= ?",
        (found + 1, token, now + 30, token, lease._core.now()),
    )


def harmless(lease: Any, connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE counter SET v = v + 1")
    connection.commit()


RIGHT = {guarded: "lease", opened: "lease", refused_late: "lease", locked_by_itself: "client"}
WRONG: dict[Any, str] = {
    unfenced: "lost",
    asked: "lost",
    read_before_raise: "lost",
    write_without_raise: "lost",
    check_then_write: "lost",
    strict: "denied",
    harmless: "void",
}


@pytest.mark.parametrize("path", RIGHT, ids=lambda path: path.__name__)
def test_a_right_path_passes(path: Any, connect: Callable[[], Any]) -> None:
    drilled = drill(path, connect=connect, value=value, takes=RIGHT[path])  # type: ignore[arg-type]
    assert drilled.refused > drilled.schedules // 10
    assert drilled.overtaken > drilled.schedules // 2
    assert "SELECT v FROM counter" in drilled.points
    with closing(connect()) as connection:
        assert value(connection) >= drilled.done


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.__name__)
def test_a_wrong_path_is_found_out(path: Any, connect: Callable[[], Any]) -> None:
    with pytest.raises(DrillFailed) as found:
        drill(path, connect=connect, value=value)
    assert found.value.kind == WRONG[path]
    assert isinstance(found.value, AssertionError)


def test_a_fence_with_a_ttl_is_found_out(connect: Callable[[], Any]) -> None:
    with pytest.raises(DrillFailed) as found:
        drill(forgotten, connect=connect, value=value)
    assert found.value.kind == "lost"


def test_a_failure_shows_the_schedule_and_what_helps(connect: Callable[[], Any]) -> None:
    with pytest.raises(DrillFailed) as found:
        drill(unfenced, connect=connect, value=value)
    message = str(found.value)
    for part in (
        "updates are lost",
        "the first holder is stopped before its point 2",
        "first   is stopped before: BEGIN",
        "first   its lease is over",
        "second  UPDATE counter SET v = ",
        "first   goes on",
        "first   done",
        "what helps: Read and write inside of one guard",
    ):
        assert part in message
    assert [line.what for line in found.value.timeline if line.who == "first"][-1] == "done"


# -- asyncio ----------------------------------------------------------------------------------------------------------


class Service:
    """A resource without a connection that could be watched: its requests are points of their own."""

    def __init__(self) -> None:
        self.v = 0
        self.fence = 0

    async def request(self, token: int, what: str, new: int = 0) -> int:
        point(what)
        await asyncio.sleep(0)
        if token < self.fence:
            raise StaleToken("412")
        self.fence = token
        if what == "PUT":
            self.v = new
        return self.v


async def requested(lease: Any, service: Service) -> None:
    found = await service.request(lease.token, "GET")
    await service.request(lease.token, "PUT", found + 1)


async def read_without_a_token(lease: Any, service: Service) -> None:
    point("GET")
    found = service.v
    await service.request(lease.token, "PUT", found + 1)


async def locked_and_cancelled(client: tenure.AsyncClient, service: Service) -> None:
    async with client.lock("orders") as lease:
        await requested(lease, service)


@pytest.mark.parametrize("path", [requested, locked_and_cancelled], ids=lambda path: path.__name__)
def test_an_asynchronous_path_with_points_of_its_own_passes(path: Any) -> None:
    service = Service()
    takes: Any = "client" if path is locked_and_cancelled else "lease"
    drilled = drill(path, connect=lambda: service, value=lambda service: service.v, takes=takes)
    assert drilled.points == ("GET", "PUT")
    assert drilled.refused


def test_a_drill_may_be_called_under_a_loop() -> None:
    async def main() -> Drilled:
        service = Service()
        return drill(requested, connect=lambda: service, value=lambda service: service.v)

    assert asyncio.run(main()).refused


def test_a_wrong_asynchronous_path_is_found_out() -> None:
    service = Service()
    with pytest.raises(DrillFailed) as found:
        drill(read_without_a_token, connect=lambda: service, value=lambda service: service.v)
    assert found.value.kind == "lost"


# -- void, and wrong --------------------------------------------------------------------------------------------------


def test_a_path_without_points_is_void() -> None:
    service = Service()

    def path(lease: Any, service: Service) -> None:
        service.v += 1

    with pytest.raises(DrillFailed, match="no point") as found:
        drill(path, connect=lambda: service, value=lambda service: service.v)
    assert found.value.kind == "void"


def test_a_value_that_sees_nothing_is_void(connect: Callable[[], Any]) -> None:
    def uncommitted(lease: Any, connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE counter SET v = v + 1")
        connection.rollback()

    with pytest.raises(DrillFailed, match="left the value at 0") as found:
        drill(uncommitted, connect=connect, value=value)
    assert found.value.kind == "void"


def test_runs_that_are_worth_different_things_cannot_be_counted(connect: Callable[[], Any]) -> None:
    def doubled(lease: Any, connection: sqlite3.Connection) -> None:
        put(connection, 2 * value(connection) + 1)
        connection.commit()

    with pytest.raises(DrillFailed, match="worth the same"):
        drill(doubled, connect=connect, value=value)


def test_a_refusal_that_nobody_knows_is_void_and_one_that_is_named_counts(connect: Callable[[], Any]) -> None:
    class ConflictError(Exception):
        pass

    def path(lease: Any, connection: sqlite3.Connection) -> None:
        try:
            guarded(lease, connection)
        except Overtaken:
            raise ConflictError from None

    with pytest.raises(DrillFailed, match="no overtaken holder was refused") as found:
        drill(path, connect=connect, value=value)
    assert found.value.kind == "void"
    assert drill(path, connect=connect, value=value, refusal=ConflictError).refused


def test_a_path_that_fails_by_itself_is_told_so(connect: Callable[[], Any]) -> None:
    def broken(lease: Any, connection: sqlite3.Connection) -> None:
        connection.execute("SELECT * FROM nowhere")

    with pytest.raises(DrillFailed, match="no such table: nowhere") as found:
        drill(broken, connect=connect, value=value)
    assert found.value.kind == "failed"


def test_a_store_that_cannot_be_reached_is_an_error_of_its_own() -> None:
    def connect() -> Any:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        drill(guarded, connect=connect, value=value)


@pytest.mark.parametrize(
    "wrong",
    [{"takes": "both"}, {"connect": None}, {"value": 7}, {"name": ""}, {"schedules_max": 0}, {"refusal": "StaleToken"}],
    ids=str,
)
def test_wrong_arguments_are_refused_before_anything_is_run(wrong: dict[str, Any], connect: Any) -> None:
    ran = []
    arguments = {"connect": lambda: ran.append(1), "value": value, **wrong}
    with pytest.raises(UsageError):
        drill(guarded, **arguments)
    with pytest.raises(UsageError):
        drill(None, connect=connect, value=value)  # type: ignore[arg-type]
    assert not ran


def test_schedules_can_be_fewer(connect: Callable[[], Any]) -> None:
    assert drill(guarded, connect=connect, value=value, schedules_max=20).schedules <= 20


def test_outside_of_a_drill_points_and_watches_do_nothing(connect: Callable[[], Any]) -> None:
    point("nowhere")
    with closing(connect()) as connection:
        assert watch(connection) is connection
    assert watch(None) is None


def test_what_nobody_can_watch_is_refused_in_a_drill() -> None:
    with pytest.raises(DrillFailed, match="nobody knows how to watch Service"):
        drill(requested, connect=lambda: watch(Service()), value=lambda service: 0)
