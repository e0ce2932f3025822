"""The least that hands over in order by SQLite: a table of two columns, a datagram to the next, and no lock.

It has no session, no number that outlives the file, no timeout, no deadline, and a process that is killed blocks all:
what it does faster than ours is what these cost, in Python.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.contenders import Worker


class BareTable:
    """The table, and the guard in front of its transactions."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._workers: list[BareWorker] = []
        guard = _guard(folder)
        fcntl.flock(guard, fcntl.LOCK_EX)
        connection = _connection(folder)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS queue (n INTEGER PRIMARY KEY AUTOINCREMENT, address TEXT)")
        connection.close()
        os.close(guard)

    def worker(self) -> Worker:
        """A connection and a mailbox of its own."""
        self._workers.append(BareWorker(self._folder, f"{os.getpid()}-{len(self._workers)}"))
        return self._workers[-1]

    def close(self) -> None:
        """Close them all."""
        for worker in self._workers:
            worker.close()


class BareWorker:
    """Two short transactions a turn."""

    def __init__(self, folder: Path, name: str) -> None:
        self._address = os.fspath(folder / name)
        self._mailbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._mailbox.bind(self._address)
        self._guard = _guard(folder)
        self._connection = _connection(folder)
        self._n = 0

    def enter(self) -> None:
        """Enter the queue, and wait unless it was empty."""
        execute = self._connection.execute
        fcntl.flock(self._guard, fcntl.LOCK_EX)
        execute("BEGIN IMMEDIATE")
        self._n = execute("INSERT INTO queue (address) VALUES (?)", (self._address,)).lastrowid or 0
        (first,) = execute("SELECT n FROM queue ORDER BY n LIMIT 1").fetchone()
        execute("COMMIT")
        fcntl.flock(self._guard, fcntl.LOCK_UN)
        if first != self._n:
            self._mailbox.recv(1)

    def leave(self) -> None:
        """Leave the queue, and wake the next."""
        execute = self._connection.execute
        fcntl.flock(self._guard, fcntl.LOCK_EX)
        execute("BEGIN IMMEDIATE")
        execute("DELETE FROM queue WHERE n = ?", (self._n,))
        heir = execute("SELECT address FROM queue ORDER BY n LIMIT 1").fetchone()
        execute("COMMIT")
        fcntl.flock(self._guard, fcntl.LOCK_UN)
        if heir is not None:
            self._mailbox.sendto(b"x", heir[0])

    def close(self) -> None:
        """Close what it has."""
        self._connection.close()
        self._mailbox.close()
        os.close(self._guard)


def _guard(folder: Path) -> int:
    return os.open(folder / "guard", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)


def _connection(folder: Path) -> sqlite3.Connection:
    made = sqlite3.connect(folder / "queue.db", isolation_level=None, check_same_thread=False)
    made.execute("PRAGMA synchronous = NORMAL")
    return made
