"""One file, its steps and its errors: formats (B12), damage, heartbeats (A2, A3), the bound of a sweep (B3)."""

# ruff: noqa: S608 - the statements tamper with files of the tests themselves

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tenure import Client
from tenure.engines.sqlite.tables import APPLICATION_ID
from tenure.errors import IncompatibleStore, LeaseLost, StoreUnavailable, UnsafeSetup
from tenure.model import Kind, LeaseState, LossReason, Mode
from tenure.ports import ClaimRef, Message, Standing
from tests.sqlite.rig import Store, process, sql, until
from tests.timing import Bound

if TYPE_CHECKING:
    from pathlib import Path


def rows(path: Path) -> list[object]:
    return [sql(path, f"SELECT * FROM {table}") for table in ("sessions", "claims")]


# -- formats (B12) ----------------------------------------------------------------------------------------------------


def test_a_newer_format_is_refused_at_open_and_the_file_stays_as_it_is(path: Path) -> None:
    with Store(path) as store:
        store.enter("a")
    sql(path, "UPDATE genesis SET format = 2")
    before = path.read_bytes()
    with pytest.raises(IncompatibleStore, match="format 2") as refused, Client(f"sqlite://{path}"):
        pass
    assert (refused.value.in_force, refused.value.spoken) == (2, (1,))
    assert path.read_bytes() == before
    assert not [name for name in os.listdir(f"{path}-tenure") if not name.startswith("guard")]


RAISE = """
import sqlite3
connection = sqlite3.connect(path, timeout=20)
connection.execute("UPDATE genesis SET format = " + told())
connection.commit()
say("raised")
connection.execute("UPDATE genesis SET format = " + told())
connection.commit()
say("back")
told()
"""


def test_a_format_that_another_process_raises_stops_the_next_step_and_changes_nothing_else(path: Path) -> None:
    with Client(f"sqlite://{path}", ttl=30) as client, process(RAISE, str(path)) as other:
        lease = client.lock("a").acquire()
        assert other.ask("2") == ["raised"]
        before = rows(path)
        with pytest.raises(IncompatibleStore) as refused:
            client.lock("b").acquire()
        assert (refused.value.in_force, refused.value.spoken) == (2, (1,))
        with pytest.raises(IncompatibleStore):
            client.inspect("a")
        assert rows(path) == before
        assert other.ask("1") == ["back"]
        lease.check()
        lease.release()
        assert client.names() == []


def test_a_holder_under_a_newer_format_is_suspect_and_lost_at_its_deadline(path: Path) -> None:
    with Client(f"sqlite://{path}", ttl=0.6) as client:
        lease = client.lock("a").acquire()
        sql(path, "UPDATE genesis SET format = 2")
        until(lambda: lease.state is LeaseState.SUSPECT)
        until(lambda: lease.lost)
        assert lease.lost is LossReason.DEADLINE
        with pytest.raises(LeaseLost):
            lease.release()


@pytest.mark.parametrize("change", ["UPDATE genesis SET id = 'another'", "DELETE FROM genesis"])
def test_another_id_and_a_missing_genesis_stop_the_next_step(path: Path, change: str) -> None:
    with Store(path) as store:
        store.enter("a")
        sql(path, change)
        before = rows(path)
        with pytest.raises(IncompatibleStore):
            store.enter("b", at_once=True)
        with pytest.raises(IncompatibleStore):
            store.do(lambda steps, at: steps.heartbeat(at, "a", 30, False))
        assert rows(path) == before


def test_a_missing_genesis_is_refused_at_open(path: Path) -> None:
    with Store(path) as store:
        store.enter("a")
    sql(path, "DELETE FROM genesis")
    before = path.read_bytes()
    with Store(path) as store, pytest.raises(IncompatibleStore) as refused:
        store.enter("b")
    assert refused.value.in_force is None
    assert path.read_bytes() == before


# -- other people's files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TABLE users (id)",),
        ("CREATE TABLE users (id)", "PRAGMA journal_mode = WAL"),
        ("CREATE TABLE users (id)", f"PRAGMA application_id = {APPLICATION_ID}"),
        ("CREATE TABLE genesis (one, format)", "INSERT INTO genesis VALUES (1, 1)"),
    ],
)
def test_a_database_of_another_program_is_refused_and_stays_as_it_is(path: Path, statements: tuple[str, ...]) -> None:
    sql(path, *statements)
    path.chmod(0o600)
    before = path.read_bytes()
    with pytest.raises(IncompatibleStore, match="another program") as refused, Client(f"sqlite://{path}"):
        pass
    assert refused.value.in_force is None
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_stays_as_it_is(path: Path) -> None:
    path.write_bytes(b"my precious notes\n" * 100)
    path.chmod(0o600)
    before = path.read_bytes()
    with pytest.raises(IncompatibleStore, match="no SQLite database"), Client(f"sqlite://{path}"):
        pass
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    "statements",
    [
        ("ALTER TABLE genesis DROP COLUMN ceiling",),
        ("ALTER TABLE claims ADD COLUMN more",),
        ("ALTER TABLE claims RENAME COLUMN floor TO ceiling",),
        ("DROP TABLE sessions",),
    ],
)
def test_tables_of_other_columns_are_refused(path: Path, statements: tuple[str, ...]) -> None:
    with Store(path) as store:
        store.enter("a")
    sql(path, *statements)
    before = path.read_bytes()
    with Store(path) as store, pytest.raises(IncompatibleStore):
        store.enter("b")
    assert path.read_bytes() == before


# -- damage -----------------------------------------------------------------------------------------------------------


PAGE = 512


@pytest.mark.parametrize(
    ("kept", "length"),
    [(0, None), (100, None), (PAGE, None), (6 * PAGE, None), (None, PAGE), (None, 10 * PAGE), (None, 10 * PAGE + 7)],
)
def test_a_damaged_file_is_an_error_and_stays_as_it_is(path: Path, kept: int | None, length: int | None) -> None:
    with Store(path) as store:
        store.enter("a")
        for claim in range(2, 300):
            store.enter("a", claim)
    whole = path.read_bytes()
    assert len(whole) > 20 * PAGE
    damaged = whole[:length] if kept is None else whole[:kept] + b"\xff" * (len(whole) - kept)
    path.write_bytes(damaged)
    with pytest.raises(IncompatibleStore), Store(path) as store:  # noqa: PT012 - the damage may be found by any step
        store.do(lambda steps, _: list(steps.tables.queue("n")))
        store.enter("b", at_once=True)
        store.do(lambda steps, _: steps.tables.names(""))
    assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    "change",
    [
        "kind = 9",
        'kind = 2, "limit" = 0',
        'kind = 2, permits = 3, "limit" = 2',
        "kind = 2, permits = -1",
        "kind = 2, permits = 'x'",
        "freed_us = 'x'",
        "delay_us = 'x'",
    ],
)
def test_a_damaged_claim_is_an_error_and_never_a_grant(path: Path, change: str) -> None:
    with Store(path) as store:
        assert store.enter("a").standing is Standing.HOLDS
        sql(path, f"UPDATE claims SET {change}")
        before = rows(path)
        for mode in (Mode(Kind.EXCLUSIVE), Mode(Kind.PERMITS, 1, 3)):
            for at_once in (False, True):
                with pytest.raises(IncompatibleStore, match="damaged"):
                    store.enter("b", mode=mode, at_once=at_once)
        assert rows(path) == before


def test_a_damaged_session_never_lets_anybody_in(path: Path) -> None:
    with Store(path) as store:
        assert store.enter("a").standing is Standing.HOLDS
        sql(path, "UPDATE sessions SET until_us = 'x'")
        with pytest.raises(IncompatibleStore, match="a row of sessions"):
            store.enter("b")


@pytest.mark.parametrize("change", ["last = 'x'", "ceiling = 'x'", "last = x'00'"])
def test_a_damaged_counter_is_an_error(path: Path, change: str) -> None:
    with Store(path) as store:
        store.enter("a")
        sql(path, f"UPDATE genesis SET {change}")
        with pytest.raises(IncompatibleStore, match="damaged"):
            store.enter("b", name="other")
    with Store(path) as store, pytest.raises(IncompatibleStore, match="damaged"):
        store.enter("b", name="other")


# -- the file is deleted, replaced or restored while clients live (A2) ------------------------------------------------


def life(store: Store, session: str) -> str | None:
    beat = store.do(lambda steps, at: steps.heartbeat(at, session, 30, False))
    return None if beat.over else beat.facts.life


def test_a_file_put_in_the_place_of_another_is_another_life(path: Path) -> None:
    with Store(path) as store:
        store.enter("a")
        before = life(store, "a")
        copy = path.with_name("copy.db")
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        copy.chmod(0o600)
        copy.replace(path)
        after = life(store, "a")
        assert after is not None
        assert after != before
        assert after == life(store, "a")


def test_a_file_restored_in_place_is_another_life_for_every_connection(path: Path) -> None:
    with Store(path) as store:
        store.enter("a", name="early")
        before = life(store, "a")
        with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(":memory:")) as kept:
            live.backup(kept)
            late = store.enter("a", 2, name="late")
            kept.backup(live)
        assert not store.do(lambda steps, _: steps.standing([ClaimRef("a", 2, "late", late.number)]))[0]
        after = life(store, "a")
        assert after is not None
        assert after != before
        assert after == life(store, "a")


def test_a_claim_that_a_restore_in_place_lost_is_a_lost_lease(path: Path) -> None:
    with Client(f"sqlite://{path}", ttl=1.5) as client:
        early = client.lock("early").acquire()
        with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(":memory:")) as kept:
            live.backup(kept)
            late = client.lock("late").acquire()
            kept.backup(live)
        until(lambda: late.lost)
        assert late.lost is LossReason.STORE_LOST
        assert early.held
        again = client.lock("late").acquire()
        assert again.token > late.token
        again.release()
        early.release()


def test_a_release_that_a_restore_undid_is_made_again(path: Path) -> None:
    with Client(f"sqlite://{path}", ttl=1.5) as client, client.lock("kept"):
        first = client.lock("n").acquire()
        with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(":memory:")) as kept:
            live.backup(kept)
            first.release()
            client.lock("other").acquire().release()
            kept.backup(live)
        with client.lock("n", wait=20) as lease:
            assert lease.token > first.token


def test_a_log_left_by_a_deleted_file_is_not_read_as_that_of_the_new_one(path: Path) -> None:
    with Store(path) as old, Store(path) as other:
        for claim in range(50):
            old.enter("a", claim)
        other.enter("b")
        path.unlink()
        assert os.path.exists(f"{path}-wal")
        with Store(path) as new:
            assert new.enter("c").standing is Standing.HOLDS
            assert old.enter("d").standing is Standing.WAITS
            assert other.enter("e").standing is Standing.WAITS
            assert sql(path, "PRAGMA integrity_check") == [("ok",)]
            assert sql(path, "SELECT session FROM claims ORDER BY number") == [("c",), ("d",), ("e",)]


def test_everything_deleted_is_made_anew_behind_one_guard(path: Path) -> None:
    with Store(path) as old, Store(path) as other:
        old.enter("a")
        other.enter("b")
        path.unlink()
        shutil.rmtree(f"{path}-tenure")
        assert old.enter("c").standing is Standing.HOLDS
        assert other.enter("d").standing is Standing.WAITS
        guards = {os.fstat(store.database._guard._fd).st_ino for store in (old, other)}
        assert guards == {os.stat(old.home.guard_path).st_ino}


# -- heartbeats (A2, A3) ----------------------------------------------------------------------------------------------


def test_a_steal_is_counted_in_the_heartbeat(path: Path) -> None:
    with Store(path) as store:
        place = store.enter("a")
        before = store.do(lambda steps, at: steps.heartbeat(at, "a", 30, False)).facts.stolen
        assert store.do(lambda steps, at: steps.steal(at, "n", place.number))
        assert store.do(lambda steps, at: steps.heartbeat(at, "a", 30, False)).facts.stolen == before + 1
        assert not store.do(lambda steps, at: steps.steal(at, "n", place.number))
        assert store.do(lambda steps, at: steps.heartbeat(at, "a", 30, False)).facts.stolen == before + 1


def pass_over(store: Store, session: str) -> None:
    """Let a session's time be over, and somebody else find that."""
    sql(store.home.path, f"UPDATE sessions SET until_us = 1 WHERE id = '{session}'")
    assert store.enter("next", 7).standing is Standing.HOLDS


def test_a_late_heartbeat_revives_nothing(path: Path) -> None:
    with Store(path) as store:
        first = store.enter("a")
        pass_over(store, "a")
        assert life(store, "a") is None
        assert store.do(lambda steps, at: steps.look(at, ClaimRef("a", 1, "n", first.number))).standing is Standing.GONE
        assert not store.release("a", 1, first.number)


def test_a_clock_set_back_revives_nothing(path: Path) -> None:
    with Store(path) as store:
        first = store.enter("a")
        store.enter("b", delay=5)
        sql(path, "UPDATE sessions SET ended = 1 WHERE id = 'a'", "UPDATE sessions SET until_us = until_us + 99000000")
        assert life(store, "a") is None
        assert store.do(lambda steps, at: steps.look(at, ClaimRef("a", 1, "n", first.number))).standing is Standing.GONE
        assert [c.token for c in store.do(lambda steps, _: steps.inspect("n")).holders] == [first.number]
        assert store.enter("c", at_once=True).standing is Standing.BUSY
        assert [c.client for c in store.do(lambda steps, _: steps.inspect("n")).waiters] == []


def test_a_heartbeat_sweeps_names_that_nobody_asks_for(path: Path) -> None:
    with Store(path) as store:
        store.enter("alive", name="mine")
        for index in range(5):
            store.enter(f"dead{index}", name=f"forgotten{index}")
        sql(path, "UPDATE sessions SET until_us = 1 WHERE id LIKE 'dead%'")
        life(store, "alive")
        assert sql(path, "SELECT name FROM claims") == [("mine",)]
        assert sql(path, "SELECT id FROM sessions") == [("alive",)]


def test_three_hundred_dead_waiters_do_not_keep_the_living_one_waiting(path: Path) -> None:
    with Client(f"sqlite://{path}", ttl=30) as client, Store(path) as store:
        name = "tenure:n"
        holder = store.enter("holder", name=name)
        for index in range(300):
            store.enter(f"dead{index}", name=name)
        with process(WAIT, str(path)) as waiter:
            assert waiter.hear() == ["waiting"]
            until(lambda: sql(path, "SELECT count(*) FROM claims") == [(302,)])
            sql(path, "UPDATE sessions SET until_us = 1, ended = 1 WHERE id LIKE 'dead%'")
            began = time.monotonic()
            assert store.release("holder", 1, holder.number, name)
            left = sql(path, "SELECT count(*) FROM claims")[0][0]
            assert waiter.hear()[0] == "granted"
            assert time.monotonic() - began < Bound(5)
            # One step removes a hundred, as rule B3 wants it; the living one is told to go on.
            assert left >= 1
        assert client.names() == ["n"]


WAIT = """
client = tenure.Client(url, ttl=30).open()
say("waiting")
lease = client.lock("n", wait=60).acquire()
say("granted", lease.token)
told()
"""


def test_one_step_removes_a_hundred_dead_and_hints_the_next_that_lives(path: Path) -> None:
    with Store(path) as store:
        holder = store.enter("holder")
        for index in range(300):
            store.enter(f"dead{index}")
        store.enter("alive", address="somewhere")
        sql(path, "UPDATE sessions SET until_us = 1, ended = 1 WHERE id LIKE 'dead%'")
        ear = Ear(path)
        store.database._sender = ear  # type: ignore[assignment]
        assert store.release("holder", 1, holder.number)
        assert sql(path, "SELECT count(*) FROM claims") == [(201,)]
        assert [heard[:3] for heard in ear.heard] == [("somewhere", "alive", 0)]


# -- mail -------------------------------------------------------------------------------------------------------------


class Ear:
    """A sender that sends nothing: it looks at the file when it is asked to."""

    def __init__(self, path: Path) -> None:
        self.heard: list[tuple[str, str, int, list[object]]] = []
        self._path = path

    def send(self, address: str, message: Message) -> bool:
        left = sql(self._path, "SELECT session FROM claims ORDER BY number")
        self.heard.append((address, message.session, message.number, left))
        return True

    def close(self) -> None:
        pass


def test_mail_is_sent_after_the_commit(path: Path) -> None:
    with Store(path) as store:
        ear = Ear(path)
        store.database._sender = ear  # type: ignore[assignment]
        first = store.enter("a")
        second = store.enter("b", address="there")
        assert store.release("a", 1, first.number)
        assert ear.heard == [("there", "b", second.number, [("b",)])]


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), KeyboardInterrupt()])
def test_no_mail_of_a_step_that_was_not_committed_is_ever_sent(path: Path, error: BaseException) -> None:
    with Store(path) as store:
        ear = Ear(path)
        store.database._sender = ear  # type: ignore[assignment]
        first = store.enter("a")
        store.enter("b", address="there")
        do = store.database._do

        def fail(statement: str, *args: object) -> object:
            if statement == "COMMIT":
                raise error
            return do(statement, *args)

        store.database._do = fail  # type: ignore[assignment]
        with pytest.raises((StoreUnavailable, KeyboardInterrupt)):
            store.release("a", 1, first.number)
        store.database._do = do
        assert life(store, "a") is not None
        assert ear.heard == []
        assert sql(path, "SELECT session FROM claims ORDER BY number") == [("a",), ("b",)]


# -- strangers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_stranger_in_a_write_transaction_costs_the_timeout_and_no_more(path: Path, how: str) -> None:
    with Store(path) as store, closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        store.enter("a")
        stranger.execute(f"BEGIN {how}")
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="not tenure"):
            store.do(lambda steps, at: steps.heartbeat(at, "a", 30, False), 0.2)
        assert 0.2 <= time.monotonic() - began < Bound(5)
        stranger.execute("ROLLBACK")
        assert life(store, "a") is not None


def test_a_stranger_that_goes_in_time_is_waited_for(path: Path) -> None:
    with Store(path) as store, process(STRANGER, str(path)) as stranger:
        store.enter("a")
        assert stranger.ask("go") == ["locked"]
        stranger.tell("0.3")
        assert store.enter("b").standing is Standing.WAITS


STRANGER = """
import sqlite3
told()
connection = sqlite3.connect(path, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
say("locked")
time.sleep(float(told()))
connection.execute("ROLLBACK")
told()
"""


def test_a_clock_that_is_not_comparable_stops_the_next_step(path: Path) -> None:
    with Store(path) as store:
        store.enter("a")
        sql(path, "UPDATE genesis SET clock = 'another/1'")
        with pytest.raises(UnsafeSetup, match="clock"):
            store.enter("b")


def test_a_reconciliation_that_meets_a_foreign_schema_does_not_end_the_keeper(tmp_path: Path) -> None:
    path = tmp_path / "locks.db"
    with Client(f"sqlite://{path}", ttl=1.5) as client:
        lease = client.lock("n").acquire()
        sql(path, "BEGIN IMMEDIATE", "ALTER TABLE claims RENAME TO gone", "UPDATE sessions SET stolen = 1", "COMMIT")
        until(lambda: lease.state is LeaseState.SUSPECT)
        sql(path, "ALTER TABLE gone RENAME TO claims")
        until(lambda: lease.state is LeaseState.HELD)
        lease.release()
