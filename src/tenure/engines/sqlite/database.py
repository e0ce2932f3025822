"""One connection to a SQLite file: a step is one transaction behind the write guard, then its mail.

Promises: a step that raises `StoreUnavailable` changed nothing; numbers keep rising over a power failure, because none
is given above a ceiling that was committed with fsync (B7); a file that was deleted or replaced is noticed before the
step runs, and its sessions are over.
Does not promise durable grants: after a power failure the last of them may be forgotten, their numbers never reused.

Never waits in SQLite's busy handler, which starves: one guard in front of all writers is fair and has a timeout.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from tenure.engines.queue import At, Steps
from tenure.engines.sqlite.clock import boot_us, clock_id, same_boot
from tenure.engines.sqlite.endpoint import Presence, presence
from tenure.engines.sqlite.files import restore
from tenure.engines.sqlite.guard import Guard
from tenure.engines.sqlite.tables import (
    APPLICATION_ID,
    CEILING_US,
    FORMAT,
    SPOKEN,
    Genesis,
    NeedsCeiling,
    SqliteTables,
    schema,
)
from tenure.errors import IncompatibleStore, OutcomeUnknown, StoreUnavailable, TenureError, UnsafeSetup
from tenure.model import NUMBER_MAX, Instant
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenure.engines.sqlite.endpoint import Sender
    from tenure.engines.sqlite.files import Home

R = TypeVar("R")

DAY_US: Final = 86_400_000_000

BUSY_PAUSE: Final = 0.001
"""Seconds between tries while a program that knows no guard has the file locked."""

SHUT_MOST: Final = 1.0
"""Seconds that closing waits for the guard."""

_sleep = native.original("time", "sleep")

SHUT_MOST: Final = 0.25
"""Seconds that closing a connection waits for the write guard."""

_graveyard: list[object] = []
"""Connections that a forked child inherited: never used, never closed, never collected (C1)."""


class Database:
    """One connection to the file. For one thread at a time; the caller serialises."""

    def __init__(self, home: Home, sender: Sender) -> None:
        self._home = home
        self._sender = sender
        self._guard = Guard(home.guard_path)
        self._connection: sqlite3.Connection | None = None
        self._do: Callable[..., sqlite3.Cursor]
        self._steps: Steps | None = None
        self._tables: SqliteTables
        self._genesis: Genesis
        self._inode: tuple[int, int] | None = None

    @property
    def id(self) -> str:
        """The store's random id."""
        return self._genesis.id

    def step(self, step: Callable[[Steps, At], R], timeout: float) -> R:
        """Make one step in one transaction, then send its mail.

        Raises:
            StoreUnavailable: no effect: the guard was not free in time, the disk is full, the file cannot be written.
            OutcomeUnknown: the commit failed half-way; perhaps an effect.
            IncompatibleStore, UnsafeSetup: no effect, and none to come.
        """
        guard = self._guard
        try:
            guard.acquire(timeout)
            reply = self._guarded(step, timeout)
        finally:
            guard.release()
            # After the commit, outside the guard: mail sent before a rollback makes two holders (B3). Also if Ctrl-C
            # came right after the commit: whoever was granted would wait for the next heartbeat.
            if self._steps is not None and self._steps.mail:
                for address, message in self._steps.take_mail():
                    self._sender.send(address, message)
        return reply

    def _guarded(self, step: Callable[[Steps, At], R], timeout: float) -> R:
        give_up = 0.0
        while True:
            try:
                steps = self._steps
                if steps is None or self._home.inode() != self._inode:
                    steps = self._reconnect()
                return self._transaction(step, steps)
            except NeedsCeiling as need:
                self._raise_ceiling(need.number)
            except sqlite3.Error as error:
                # The guard keeps out all of us; what is left is a program of another kind, or one of us that closes
                # its connection this moment. Neither takes long, as a rule.
                if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                    raise self._explain(error) from error
                now = time.monotonic()
                give_up = give_up or now + timeout
                if now >= give_up:
                    raise self._explain(error) from error
                _sleep(BUSY_PAUSE)

    def _transaction(self, step: Callable[[Steps, At], R], steps: Steps) -> R:
        do = self._do
        do("BEGIN IMMEDIATE")
        try:
            self._tables.check(self._genesis)
            # One clock for all who use the file, this client included: what a session has left counts from now.
            now_us = boot_us()
            reply = step(steps, At(now_us, time.time_ns() // 1000, Instant(now_us / 1e6)))
            do("COMMIT")
        except BaseException as error:
            self._roll_back(steps, error)
            raise
        return reply

    def _roll_back(self, steps: Steps, error: BaseException) -> None:
        connection = self._connection
        if connection is None:
            return
        if isinstance(error, sqlite3.Error) or connection.in_transaction:
            steps.take_mail()
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except sqlite3.Error:
                self.close()

    def _raise_ceiling(self, number: int) -> None:
        """Commit a higher ceiling with fsync: only numbers below a durable ceiling survive a power failure (B7)."""
        connection = self._connection
        assert connection is not None  # noqa: S101 - for the type checker; a step needed it
        connection.execute("PRAGMA synchronous = FULL")
        try:
            connection.execute(
                "UPDATE genesis SET ceiling = max(ceiling, ?)", (min(number + CEILING_US, NUMBER_MAX),)
            )
        except sqlite3.Error as error:
            raise self._explain(error) from error
        finally:
            connection.execute("PRAGMA synchronous = NORMAL")

    # -- opening ----------------------------------------------------------------------------------------------------

    def _reconnect(self) -> Steps:
        """Open the file at the path, whichever it is by now. Under the guard."""
        self.close()
        inode = self._home.inode()
        if inode is None:
            restore(self._home)
            inode = self._home.inode()
        if inode is None:
            raise StoreUnavailable(f"{self._home.path} vanished twice while it was opened; who deletes it?")
        connection = sqlite3.connect(
            self._home.path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        try:
            self._genesis = _adopt_clock(self._home, connection, _prepare(connection))
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._do = connection.cursor().execute
        self._inode = inode
        # The device and inode are part of the life: a file put in its place is another life (A2).
        self._tables = SqliteTables(connection, f"{self._genesis.id}:{inode[0]}:{inode[1]}")
        self._steps = Steps(self._tables)
        return self._steps

    def close(self) -> None:
        """Close the connection; the next step opens it again."""
        connection, self._connection, self._steps = self._connection, None, None
        if connection is not None:
            connection.close()

    def shut(self) -> None:
        """Close the connection and the guard.

        The last connection that closes empties the log under an exclusive lock, which a newcomer would meet as "database
        is locked"; so this too is done behind the guard, unless somebody keeps that for long.
        """
        if self._connection is not None:
            with suppress(StoreUnavailable):
                self._guard.acquire(SHUT_MOST)
            self.close()
        self._guard.close()

    def disown(self) -> None:
        """In a forked child: SQLite must never see this connection again, not even to close it (C1)."""
        if self._connection is not None:
            _graveyard.append((self._connection, self._do, self._tables))
        self._connection = self._steps = None

    def _explain(self, error: sqlite3.Error) -> TenureError:
        """What an error of SQLite means for the caller."""
        path, code = self._home.path, getattr(error, "sqlite_errorcode", 0)
        primary = code & 0xFF
        if primary == sqlite3.SQLITE_BUSY:
            return StoreUnavailable(f"{path} is locked by a program that is not tenure: {error}")
        if primary == sqlite3.SQLITE_FULL:
            return StoreUnavailable(f"the disk under {path} is full; nothing was changed")
        if primary in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return IncompatibleStore(
                f"{path} is no intact SQLite database ({error}); move it away: a new one is made, and tokens keep rising "
                "as long as the clock does",
                spoken=SPOKEN,
            )
        if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            return StoreUnavailable(f"{path} cannot be written: {error}")
        if primary == sqlite3.SQLITE_IOERR:
            # The commit may have reached the file, or not.
            self.close()
            return OutcomeUnknown(f"reading or writing {path} failed: {error}")
        return StoreUnavailable(f"{path}: {error}")


def _prepare(connection: sqlite3.Connection) -> Genesis:
    """Make an empty file a store, or check what is there."""
    do = connection.execute
    tables = {row[0] for row in do("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not tables:
        # The smallest pages: a cycle writes three of them, and with 4,096 bytes each would take 12 us longer of 60.
        do("PRAGMA page_size = 512")
        do("PRAGMA journal_mode = WAL")
        do("PRAGMA synchronous = FULL")
        connection.executescript(
            f"BEGIN IMMEDIATE; {schema()}; PRAGMA application_id = {APPLICATION_ID}; "
            f"INSERT INTO genesis VALUES (1, {FORMAT}, '{native.new_id()}', '{clock_id()}', 0, 0); COMMIT;"
        )
    elif "genesis" not in tables or do("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise IncompatibleStore(
            "the file is a database of another program; name a file of tenure's own", spoken=SPOKEN
        )
    do("PRAGMA synchronous = NORMAL")
    do("PRAGMA journal_mode = WAL")
    # A checkpoint waits for the disk, and with it everybody who wants a lock: one in 4 MB of log, not in 1.
    do("PRAGMA wal_autocheckpoint = 4000")
    row = do("SELECT * FROM genesis").fetchone()
    found = None if row is None else row[1]
    if found not in SPOKEN:
        raise IncompatibleStore(
            f"the file has format {found}, and this release speaks {SPOKEN}; use a newer release of tenure",
            in_force=found if isinstance(found, int) else None,
            spoken=SPOKEN,
        )
    genesis = Genesis(*do("SELECT format, id, clock, last, ceiling FROM genesis").fetchone())
    ahead = genesis.last - int(native.utc() * 1e6)
    if ahead > DAY_US:
        raise UnsafeSetup(
            f"the largest token given is {ahead / DAY_US:.1f} days ahead of this host's clock: one of them is wrong. "
            "Set the clock, or move the file away if its numbers came from a wrong one"
        )
    return genesis


def _adopt_clock(home: Home, connection: sqlite3.Connection, genesis: Genesis) -> Genesis:
    """After a reboot nobody of the old boot is alive, and what was not synced may be gone (B7, C1)."""
    mine = clock_id()
    if genesis.clock == mine:
        return genesis
    do = connection.execute
    do("BEGIN IMMEDIATE")
    try:
        living = do("SELECT address FROM sessions WHERE ended = 0").fetchall()
        same = same_boot(genesis.clock, mine)
        # Some container managers give each container a boot id of its own: whoever holds a presence file is alive,
        # whatever the ids say.
        if living and (same or any(presence(home, row[0]) is Presence.HELD for row in living)):
            raise UnsafeSetup(
                "the file is in use from another "
                + ("time namespace of this boot" if same else "container with a boot id of its own")
                + ", whose clock cannot be compared with this one; run all its users under one, or use an engine with a "
                "server"
            )
        do("UPDATE claims SET freed_us = ? + delay_us WHERE delay_us > 0 AND floor > 0", (boot_us(),))
        do("DELETE FROM claims WHERE freed_us = 0")
        do("DELETE FROM sessions")
        do("UPDATE genesis SET clock = ?, last = max(last, ceiling)", (mine,))
        do("COMMIT")
    except BaseException:
        if connection.in_transaction:
            do("ROLLBACK")
        raise
    return Genesis(*do("SELECT format, id, clock, last, ceiling FROM genesis").fetchone())
