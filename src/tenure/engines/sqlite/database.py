"""One connection to a SQLite file: a step is one transaction behind the write guard, then its mail.

Promises: a step that raises `StoreUnavailable` changed nothing; numbers keep rising over a power failure, because none
is given above a ceiling that was committed with fsync (B7); a file that was deleted or replaced is noticed before the
step runs, and its sessions are over.
Does not promise durable grants: after a power failure the last of them may be forgotten, their numbers never reused.

Never waits in SQLite's busy handler, which starves: one guard in front of all writers is fair and has a timeout.
"""

from __future__ import annotations

import os
import sqlite3
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tenure.engines.diagnosis import refuse_future
from tenure.engines.queue import At, Steps, at_
from tenure.engines.sqlite.clock import boot_ns, boot_us, clock_id, same_boot
from tenure.engines.sqlite.endpoint import Presence, presence
from tenure.engines.sqlite.files import forget_log, restore, restore_guard
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
from tenure.model import NUMBER_MAX
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenure.engines.sqlite.endpoint import Sender
    from tenure.engines.sqlite.files import Home

R = TypeVar("R")

BUSY_PAUSE: Final = 0.001
"""Seconds between tries while a program that knows no guard has the file locked."""

_sleep = native.original("time", "sleep")

SHUT_MOST: Final = 0.25
"""Seconds that closing a connection waits for the write guard."""

FORK_MOST: Final = 0.5
"""Seconds that a fork waits for the steps of other threads."""

opening: Final[Any] = native.mutex()
"""Held by whoever looks at a file before it is opened, or makes a `Database`; a fork waits for that too."""

_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_stopped: list[Any] = []
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
        self._logs: tuple[tuple[str, int], ...] = ()
        self._is_shut = False
        self.inside: Any = native.mutex()
        """Held by whoever is inside SQLite, so that a fork can wait for it."""
        with opening:
            _databases.add(self)
        self._setbacks = 0

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
            with self.inside:
                reply = self._guarded(step, timeout)
        finally:
            try:
                guard.release()
            except BaseException:
                # Ctrl-C at its first line: nobody on this host could take another step.
                guard.release()
                raise
            # After the commit, outside the guard: mail sent before a rollback makes two holders (B3). Also if Ctrl-C
            # came right after the commit: whoever was granted would wait for the next heartbeat.
            if self._steps is not None and self._steps.mail:
                for address, message in self._steps.take_mail():
                    self._sender.send(address, message)
        return reply

    def _guarded(self, step: Callable[[Steps, At], R], timeout: float) -> R:
        give_up = 0.0
        home = self._home
        while True:
            steps = self._steps
            try:
                if steps is None or home.inode() != self._inode:
                    steps = self._reconnect(timeout)
                do, tables = self._do, self._tables
                try:
                    # Inside the `try`: Ctrl-C may come as soon as it has begun.
                    do("BEGIN IMMEDIATE")
                    tables.check(self._genesis)
                    if tables.last < home.seen or home.setbacks != self._setbacks:
                        self._set_back(tables)
                    # One clock for all who use the file, this client included: what a session has left counts from now.
                    now_us = boot_ns() // 1000
                    reply = step(steps, at_((now_us, time.time_ns() // 1000, now_us / 1e6)))
                    do("COMMIT")
                    home.seen = tables.last
                except BaseException as error:
                    self._roll_back(steps, error)
                    raise
                return reply
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
            except (TypeError, ValueError) as error:
                table = None if self._connection is None else _wrong_types(self._connection)
                if table is None:
                    raise
                raise IncompatibleStore(
                    f"{self._home.path} is damaged: a row of {table} has a value of a wrong type", spoken=SPOKEN
                ) from error

    def _roll_back(self, steps: Steps, error: BaseException) -> None:
        connection = self._connection
        if connection is None:
            return
        if not isinstance(error, Exception):
            self._tables.renew()
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
            connection.execute("UPDATE genesis SET ceiling = max(ceiling, ?)", (min(number + CEILING_US, NUMBER_MAX),))
        except sqlite3.Error as error:
            raise self._explain(error) from error
        finally:
            connection.execute("PRAGMA synchronous = NORMAL")

    # -- opening ----------------------------------------------------------------------------------------------------

    def _reconnect(self, timeout: float) -> Steps:
        """Open the file at the path, whichever it is by now. Under the guard."""
        if self._is_shut:
            raise StoreUnavailable("this client was closed")
        home = self._home
        if self._guard.is_stale():
            # The folder was deleted too: behind two guards, two processes would make the file at once.
            restore_guard(home)
            self._guard.close()
            self._guard.acquire(timeout)
        inode = home.inode()
        if inode != self._inode:
            forget_log(self._logs)
        self.close()
        if inode is None:
            restore(home)
            inode = home.inode()
        if inode is None:
            raise StoreUnavailable(f"{home.path} vanished twice while it was opened; who deletes it?")
        if home.is_empty():
            # What others still have open of the file that lay here before: its index would be taken for the new one's.
            forget_log(home.logs())
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
        self._logs = home.logs()
        self._setbacks = home.setbacks
        self._tables = SqliteTables(connection, self._life())
        self._steps = Steps(self._tables)
        return self._steps

    def _set_back(self, tables: SqliteTables) -> None:
        """The file has less than this client has seen committed, or another of its connections has noticed that."""
        home = self._home
        if tables.last < home.seen:
            home.setbacks += 1
        self._setbacks = home.setbacks
        tables.life = self._life()

    def _life(self) -> str:
        # A file put in the place of another is another life, and so is one that was restored in place: its counter
        # goes back behind what this client has seen committed (A2).
        assert self._inode is not None  # noqa: S101 - for the type checker; set before
        return f"{self._genesis.id}:{self._inode[0]}:{self._inode[1]}:{self._home.setbacks}"

    def close(self) -> None:
        """Close the connection; the next step opens it again."""
        connection, self._connection, self._steps = self._connection, None, None
        if connection is not None:
            connection.close()

    def shut(self) -> None:
        """Close the connection and the guard.

        The last connection that closes empties the log under an exclusive lock, which a newcomer would meet as
        "database is locked"; so this too is done behind the guard, unless somebody keeps that for long.
        """
        self._is_shut = True
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
                f"{path} is no intact SQLite database ({error}); move it away: a new one is made, and tokens keep "
                "rising as long as the clock does",
                spoken=SPOKEN,
            )
        if primary == sqlite3.SQLITE_ERROR:
            return IncompatibleStore(f"{path} has not the tables of format {FORMAT}: {error}", spoken=SPOKEN)
        if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            return StoreUnavailable(f"{path} cannot be written: {error}")
        if primary == sqlite3.SQLITE_IOERR:
            # The commit may have reached the file, or not.
            self.close()
            return OutcomeUnknown(f"reading or writing {path} failed: {error}")
        return StoreUnavailable(f"{path}: {error}")


def _wrong_types(connection: sqlite3.Connection) -> str | None:
    """Find a table with a value of another type than its column's; SQLite takes any. None if there is none."""
    for table in ("genesis", "sessions", "claims"):
        columns = connection.execute("SELECT name, lower(type) FROM pragma_table_info(?)", (table,)).fetchall()
        right = " AND ".join(f"typeof(\"{name}\") = '{kind}'" for name, kind in columns)
        if connection.execute(f"SELECT 1 FROM {table} WHERE NOT ({right}) LIMIT 1").fetchone() is not None:  # noqa: S608
            return table
    return None


def _prepare(connection: sqlite3.Connection) -> Genesis:
    """Make an empty file a store, or check what is there."""
    do = connection.execute
    tables = {row[0] for row in do("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not tables:
        # The smallest pages: a cycle writes three of them, and with 4,096 bytes each would take 12 us longer of 60.
        do("PRAGMA page_size = 512")
        do("PRAGMA journal_mode = WAL")
        do("PRAGMA synchronous = FULL")
        do("BEGIN IMMEDIATE")
        for statement in schema():
            do(statement)
        do(f"PRAGMA application_id = {APPLICATION_ID}")
        do("INSERT INTO genesis VALUES (1, ?, ?, ?, 0, 0)", (FORMAT, native.new_id(), clock_id()))
        do("COMMIT")
    elif "genesis" not in tables or do("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise IncompatibleStore("the file is a database of another program; name a file of tenure's own", spoken=SPOKEN)
    row = do("SELECT format FROM genesis").fetchone()
    found = None if row is None else row[0]
    if found not in SPOKEN:
        raise IncompatibleStore(
            f"the file has format {found}, and this release speaks {SPOKEN}; use a newer release of tenure",
            in_force=found if isinstance(found, int) else None,
            spoken=SPOKEN,
        )
    # Only now: another format may want another journal.
    do("PRAGMA synchronous = NORMAL")
    do("PRAGMA journal_mode = WAL")
    # A checkpoint waits for the disk, and with it everybody who wants a lock: one in 4 MB of log, not in 1.
    do("PRAGMA wal_autocheckpoint = 4000")
    genesis = Genesis(*do("SELECT format, id, clock, last, ceiling FROM genesis").fetchone())
    if [type(value) for value in genesis] != [int, str, str, int, int]:
        raise IncompatibleStore(f"the file is damaged: its first record is {tuple(genesis)}", spoken=SPOKEN)
    refuse_future(genesis.last, int(native.utc() * 1e6), "move the file away")
    return genesis


def _adopt_clock(home: Home, connection: sqlite3.Connection, genesis: Genesis) -> Genesis:
    """After a reboot nobody of the old boot is alive, and what was not synced may be gone (B7, C1)."""
    mine = clock_id()
    if genesis.clock == mine:
        return genesis
    do = connection.execute
    do("BEGIN IMMEDIATE")
    try:
        seen = [presence(home, row[0]) for row in do("SELECT address FROM sessions WHERE ended = 0").fetchall()]
        same = same_boot(genesis.clock, mine)
        # Some container managers give each container a boot id of its own: whoever holds a presence file is alive,
        # whatever the ids say. Within one boot, only who was found dead is.
        if Presence.HELD in seen or (same and Presence.UNKNOWN in seen):
            raise UnsafeSetup(
                "the file is in use from another "
                + ("time namespace of this boot" if same else "container with a boot id of its own")
                + ", whose clock cannot be compared with this one; run all its users under one, or use an engine with "
                "a server"
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


def _before_fork() -> None:
    """Let no other thread be inside SQLite: a child would inherit SQLite's own mutexes taken, and wait for ever."""
    end = time.monotonic() + FORK_MOST
    for inside in (opening, *(database.inside for database in list(_databases))):
        # Bounded, for a signal handler may fork in the middle of its own thread's step.
        if inside.acquire(timeout=max(0.0, end - time.monotonic())):
            _stopped.append(inside)  # noqa: PERF401 - one by one: an interrupt must find what was taken so far


def _after_fork() -> None:
    while _stopped:
        _stopped.pop().release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
