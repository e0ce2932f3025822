"""What the guard of sqlite3 rests on: one writer, and a block that is one transaction in every mode."""

from __future__ import annotations

import sqlite3
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tenure import fencing
from tenure.errors import NotRaised, StaleToken, UsageError
from tenure.sql.statements import schema
from tests.fencing.stores import TABLES, split

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RESOURCE: dict[str, Any] = {"resource": "orders"}


@pytest.fixture
def connect(tmp_path: Path) -> Callable[..., sqlite3.Connection]:
    """Makes connections to a file with the tables."""

    def make(**named: Any) -> sqlite3.Connection:
        made: sqlite3.Connection = sqlite3.connect(tmp_path / "store.db", **{"timeout": 0.05, **named})
        return made

    first = make(isolation_level=None)
    first.execute("PRAGMA journal_mode = WAL")
    for statement in [*split(schema("fence", "sqlite")), *TABLES]:
        first.execute(statement)
    first.close()
    return make


MODES: list[dict[str, Any]] = [{}, {"isolation_level": None}, {"isolation_level": "EXCLUSIVE"}]
if sys.version_info >= (3, 12):
    MODES.append({"autocommit": True})


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_the_block_is_one_transaction_in_every_mode(connect: Callable[..., Any], mode: dict[str, Any]) -> None:
    one, two = connect(**mode), connect()
    with pytest.raises(ZeroDivisionError), fencing.sqlite3(one, 7, **RESOURCE):
        one.execute("UPDATE counter SET v = 1")
        _ = 1 / 0
    assert not one.in_transaction
    with fencing.sqlite3(one, 7, **RESOURCE):
        one.execute("UPDATE counter SET v = v + 10")
        assert two.execute("SELECT v FROM counter").fetchone() == (0,)
    assert two.execute("SELECT v FROM counter").fetchone() == (10,)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="autocommit=False is of Python 3.12")
def test_a_connection_that_is_always_in_a_transaction_is_refused(connect: Callable[..., Any]) -> None:
    one = connect(autocommit=False)
    with pytest.raises(UsageError, match="autocommit"), fencing.sqlite3(one, 7, **RESOURCE):
        pass


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_block_that_ends_its_transaction_is_found_out(
    connect: Callable[..., Any], mode: dict[str, Any], end: str
) -> None:
    one, two = connect(**mode), connect()
    with pytest.raises(UsageError, match="inside of its block"), fencing.sqlite3(one, 7, **RESOURCE):
        one.execute("UPDATE counter SET v = 5")
        one.execute(end)
        one.execute("BEGIN")
        one.execute("UPDATE counter SET v = 9")
    assert two.execute("SELECT v FROM counter").fetchone() == (5 if end == "COMMIT" else 0,)
    assert not one.in_transaction


def test_a_transaction_that_has_only_read_becomes_the_writer_or_is_refused(connect: Callable[..., Any]) -> None:
    old, new = connect(), connect()
    fencing.open(old, 7, **RESOURCE)
    old.execute("BEGIN")
    old.execute("SELECT v FROM counter").fetchall()
    with fencing.sqlite3(old, 7, **RESOURCE), pytest.raises(sqlite3.OperationalError, match="locked"):
        fencing.open(new, 9, **RESOURCE)  # from the check to the commit nobody raises
    old.rollback()
    old.execute("BEGIN")
    old.execute("SELECT v FROM counter").fetchall()
    fencing.open(new, 9, **RESOURCE)
    with pytest.raises(sqlite3.OperationalError, match="locked"), fencing.sqlite3(old, 7, **RESOURCE):
        pass  # what it read is out of date
    old.rollback()
    with pytest.raises(StaleToken), fencing.sqlite3(old, 7, **RESOURCE):
        pass


def test_a_transaction_from_before_the_first_raise_does_not_get_in(connect: Callable[..., Any]) -> None:
    old = connect()
    old.execute("BEGIN")
    old.execute("SELECT v FROM counter").fetchall()
    with pytest.raises(NotRaised), fencing.sqlite3(old, 7, **RESOURCE):
        pass


def test_rows_of_any_kind_are_the_users_own(connect: Callable[..., Any]) -> None:
    one = connect()
    one.row_factory = lambda _cursor, row: {"row": row}
    with fencing.sqlite3(one, 7, **RESOURCE):
        assert one.execute("SELECT v FROM counter").fetchone() == {"row": (0,)}


def test_a_commit_that_fails_leaves_no_transaction_behind(connect: Callable[..., Any]) -> None:
    one = connect()
    one.execute("PRAGMA foreign_keys = ON")
    one.execute("CREATE TABLE child (id INTEGER REFERENCES counter (id) DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(sqlite3.IntegrityError), fencing.sqlite3(one, 7, **RESOURCE):
        one.execute("INSERT INTO child VALUES (99)")
    assert not one.in_transaction
