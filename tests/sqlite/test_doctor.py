"""What the doctor finds in a SQLite file."""

from __future__ import annotations

import os
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest

from tenure import Client, Grade, IncompatibleStore, UnsafeSetup
from tenure.engines.sqlite.doctor import Facts, journal

if TYPE_CHECKING:
    from pathlib import Path

    from tenure import Finding


def find(path: Path, name: str) -> Finding:
    [found] = [finding for finding in Client(f"sqlite://{path}").doctor().findings if finding.name == name]
    return found


def test_the_file_with_its_mode_and_the_scope(tmp_path: Path) -> None:
    path = tmp_path / "locks.db"
    found = find(path, "file").found
    assert found.startswith(f"{path}, mode 0600, on ")
    assert "this host only" in find(path, "scope").found
    assert find(path, "journal") == ("journal", Grade.OK, "journal mode wal", "", "")


def test_a_journal_that_is_no_wal() -> None:
    assert journal(Facts(0, 0, "delete")).grade is Grade.WARNING


def test_numbers_that_are_ahead_of_the_clock(tmp_path: Path) -> None:
    path = tmp_path / "locks.db"
    assert find(path, "numbers").grade is Grade.OK
    for ahead, grade in ((30, Grade.INFO), (3600, Grade.WARNING)):
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE genesis SET last = ?", (int((time.time() + ahead) * 1e6),))
        connection.close()
        assert find(path, "numbers").grade is grade
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE genesis SET last = ?", (int((time.time() + 2 * 86_400) * 1e6),))
    connection.close()
    with pytest.raises(UnsafeSetup, match="days ahead"):
        find(path, "numbers")


def test_a_file_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_text("no database at all, and long enough to look like one" * 20)
    path.chmod(0o600)
    before = path.read_bytes()
    with pytest.raises(IncompatibleStore):
        find(path, "file")
    assert path.read_bytes() == before


def test_nothing_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "locks.db"
    find(path, "file")
    before = len(os.listdir("/proc/self/fd"))
    find(path, "file")
    assert len(os.listdir("/proc/self/fd")) == before
