"""A connection once libpq has made it: one statement out, one answer in; what both transports and mailboxes share.

psycopg's own connections wait without an end for a server that is silent, and a cancelled task waits for its
cancellation to be answered. A renewal may do neither, so libpq is driven here, by psycopg's wrapper of it
(`psycopg.pq`), and nothing here waits but `dial` and `ask`.
"""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tenure.errors import OutcomeUnknown, StoreUnavailable, UnsafeSetup
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenure.model import Seconds

Waiter = Callable[[int, bool, float], bool]
"""Waits for a descriptor, to be written if so and else read, for so many seconds; False if that was in vain."""

STALE_S: Final = 0.1
"""Seconds of idleness after which a look at the socket is worth its time."""

OLDEST: Final = 120_000
"""The oldest server with all that the functions use."""

KEEPALIVES: Final = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3"}
"""Unless the URL says otherwise: a peer that is gone is noticed within half a minute, also while nothing is sent."""

READ_COMMITTED: Final = "-c default_transaction_isolation=read\\ committed"
"""Overrides what the server, the database or the user has as default (C2). A pooler may not let it through."""

_TUPLES_OK: Final = pq.ExecStatus.TUPLES_OK  # Python 3.11 takes 90 ns for an enum's member

_POLLED: Final = re.compile("unsupported startup parameter", re.IGNORECASE)
_WRONG: Final = re.compile(
    "authentication failed|no pg_hba.conf entry|does not exist|no password supplied|permission denied|certificate"
    "|no such database|server does not support SSL|SSL error|no encryption|password authentication|login rejected",
    re.IGNORECASE,
)
"""What a server, or libpq, says of a URL that is wrong; there is no code for it on this way."""


class Answer(NamedTuple):
    """What came of a statement.

    Attributes:
        value: the first column of the first row; empty if there is none.
        state: the SQLSTATE of an error, else empty.
        is_fatal: the error ended the connection, so that a commit may or may not have been before it.
        message: the server's words for the error.
    """

    value: bytes
    state: str = ""
    is_fatal: bool = False
    message: str = ""


class Cut(OSError):
    """The connection is of no use any more; what was asked for may have been done."""


def wait_here(fd: int, write: bool, seconds: Seconds) -> bool:
    """As `Waiter`; under gevent's patches other greenlets run meanwhile."""
    if native.is_patched():
        return _select(select.select, fd, write, seconds)
    return wait_natively(fd, write, seconds)


def wait_natively(fd: int, write: bool, seconds: Seconds) -> bool:
    """As `Waiter`, in the keeper's own thread, whatever gevent has patched."""
    make = native.original("select", "poll")
    if make is None:
        return _select(native.original("select", "select"), fd, write, seconds)
    poll = make()
    poll.register(fd, select.POLLOUT if write else select.POLLIN)
    # Rounded up: a wait of less than a millisecond must not become a turn in circles.
    return bool(poll.poll(int(seconds * 1000) + 1 if seconds > 0 else 0))


def _select(how: Callable[..., tuple[list[int], ...]], fd: int, write: bool, seconds: Seconds) -> bool:
    return any(how([] if write else [fd], [fd] if write else [], [], max(0.0, seconds)))


class Link:
    """One connection, for one user at a time."""

    __slots__ = ("_answer", "_conn", "_fd", "_pid", "_prepared", "_used_at")

    def __init__(self, conn: pq.abc.PGconn) -> None:
        self._conn = conn
        # Kept, for libpq closes the socket when it meets its end, and whoever waits for it must still let go of it.
        self._fd = -1
        # An answer comes in pieces: what is known of it is kept until the server says that it is ready again.
        self._answer: Answer | None = None
        self._pid = os.getpid()
        self._prepared: dict[bytes, bytes] = {}
        self._used_at = time.monotonic()

    def fileno(self) -> int:
        """For waiting until there is something to take."""
        return self._fd

    def connected(self) -> None:
        """The server has let us in."""
        self._conn.nonblocking = 1
        self._fd = self._conn.socket

    @property
    def backend_pid(self) -> int:
        """Whom we speak to, as it was told when connecting: of a pooler, a number of its own."""
        return self._conn.backend_pid

    @property
    def is_encrypted(self) -> bool:
        """Whether by TLS."""
        return bool(self._conn.ssl_in_use)

    def send(self, statement: bytes, values: Sequence[bytes | None]) -> bool:
        """Send a statement; True if the kernel took all of it, else call `flush` when it can be written to.

        Raises:
            Cut: perhaps a part of it was sent.
        """
        name = self._prepared.get(statement)
        try:
            if name is None:
                self._conn.send_query_params(statement, values)
            else:
                self._conn.send_query_prepared(name, values)
            return self._conn.flush() == 0
        except psycopg.Error as error:
            raise Cut(_said(error)) from error

    def flush(self) -> bool:
        """Send the rest; True if that was all. Raises as `send`."""
        try:
            return self._conn.flush() == 0
        except psycopg.Error as error:
            raise Cut(_said(error)) from error

    def take(self) -> Answer | None:
        """The answer, if all of it has come.

        Raises:
            Cut: it will not come.
        """
        conn = self._conn
        try:
            conn.consume_input()
            while not conn.is_busy():
                result = conn.get_result()
                if result is None:
                    answer, self._answer = self._answer, None
                    if answer is None:
                        raise Cut("an answer to nothing")
                    self._used_at = time.monotonic()
                    return answer
                # The rows come before the commit. Should that fail, its error comes after them, and is what counts.
                told = _answer(result)
                self._answer = told if self._answer is None or told.state else self._answer
        except psycopg.Error as error:
            raise Cut(_said(error)) from error
        finally:
            fatal = self._answer
        # Nothing follows it but the end of the connection.
        return fatal if fatal is not None and fatal.is_fatal else None

    def notices(self) -> list[tuple[bytes, bytes]]:
        """The notifications that have come, perhaps none: channel and payload.

        Raises:
            Cut: none will come any more.
        """
        found = []
        try:
            self._conn.consume_input()
            while (notice := self._conn.notifies()) is not None:
                found.append((notice.relname, notice.extra))
        except psycopg.Error as error:
            if not found:
                raise Cut(_said(error)) from error
        return found

    def ask(self, statement: bytes, values: Sequence[bytes | None], timeout: Seconds, wait: Waiter) -> Answer:
        """Send a statement and wait for its answer.

        Raises:
            OSError: the connection is of no use any more; also TimeoutError, after `timeout` seconds.
        """
        end = time.monotonic() + timeout
        return self._await(self.send(statement, values), end, wait)

    def prepare(self, statements: Sequence[bytes], timeout: Seconds, wait: Waiter) -> None:
        """Have the server parse statements once; one that it refuses is parsed each time. Raises as `ask`.

        Never through a pooler: the next transaction may be on another connection of its own.
        """
        end = time.monotonic() + timeout
        for statement in statements:
            name = b"tenure_%d" % len(self._prepared)
            try:
                self._conn.send_prepare(name, statement)
            except psycopg.Error as error:
                raise Cut(_said(error)) from error
            if not self._await(self.flush(), end, wait).state:
                self._prepared[statement] = name

    def _await(self, is_sent: bool, end: float, wait: Waiter) -> Answer:
        fd = self.fileno()
        while not is_sent:
            if not wait(fd, True, end - time.monotonic()):
                raise TimeoutError
            is_sent = self.flush()
        while True:
            left = end - time.monotonic()
            if left <= 0 or not wait(fd, False, left):
                raise TimeoutError
            answer = self.take()
            if answer is not None:
                return answer

    def is_stale(self) -> bool:
        """Whether it was idle for a while and the server has closed it, or says what nobody asked for.

        Without this look, the first request after the server's restart has an unknown outcome.
        """
        if time.monotonic() - self._used_at < STALE_S:
            return False
        return wait_natively(self.fileno(), False, 0.0)

    def close(self) -> None:
        """Close it; in a forked child without a word to the server. Never raises; may be repeated."""
        if self._pid == os.getpid():
            self._conn.finish()
            return
        # libpq would say goodbye for the parent. The object stays as it is: it forgets by itself whose it was.
        if self._conn.status == pq.ConnStatus.OK:
            with suppress(OSError):
                os.close(self._fd)


def dial(conninfo: str, timeout: Seconds, wait: Waiter, options: str = READ_COMMITTED) -> Link:
    """Connect; blocks.

    Args:
        conninfo: a URL for libpq.
        timeout: seconds, over all hosts; the look-up of a host's name may take longer.
        wait: how to wait for a socket.
        options: settings of the session; empty behind a pooler that refuses them.

    Raises:
        Unpassed: a pooler refuses the options.
        StoreUnavailable: nobody there, or nobody who serves.
        UnsafeSetup: the server refuses us: as whom, how guarded, which database.
    """
    wanted = {**KEEPALIVES, "application_name": "tenure", **_given(conninfo)}
    # Notices, such as of a setting that could not be made, are nobody's here.
    wanted |= {"client_encoding": "UTF8"} | ({"options": options} if options else {})
    conn = pq.PGconn.connect_start(make_conninfo(conninfo, **wanted).encode())
    link = Link(conn)
    try:
        _connect(conn, time.monotonic() + timeout, wait)
        link.connected()
    except BaseException:
        link.close()
        raise
    if conn.server_version < OLDEST:
        link.close()
        raise UnsafeSetup(f"the server is PostgreSQL {conn.server_version // 10_000}; 12 or newer is needed")
    return link


def _given(conninfo: str) -> dict[str, str]:
    parsed = conninfo_to_dict(conninfo)
    given = {key: str(value) for key, value in parsed.items() if key in KEEPALIVES or key == "application_name"}
    if "," in str(parsed.get("host", "")) and "target_session_attrs" not in parsed:
        # libpq would take the first that answers, for ever: after a fail-over that may be a standby.
        given["target_session_attrs"] = "read-write"
    return given


class Unpassed(StoreUnavailable):
    """A pooler does not take settings of the session."""


def _connect(conn: pq.abc.PGconn, end: float, wait: Waiter) -> None:
    status = pq.PollingStatus.WRITING
    while status is not pq.PollingStatus.OK:
        if conn.status == pq.ConnStatus.BAD or status is pq.PollingStatus.FAILED:
            raise _refused(conn)
        # A host that does not answer takes all of the time, also that of those behind it.
        if not wait(conn.socket, status is pq.PollingStatus.WRITING, end - time.monotonic()):
            raise StoreUnavailable("PostgreSQL did not answer while connecting")
        status = pq.PollingStatus(conn.connect_poll())


def _refused(conn: pq.abc.PGconn) -> Exception:
    said = conn.get_error_message().strip()
    if _POLLED.search(said):
        return Unpassed(f"a pooler refuses settings of the session: {said}")
    if _WRONG.search(said):
        return UnsafeSetup(f"PostgreSQL refuses the connection: {said}")
    return StoreUnavailable(f"PostgreSQL cannot be reached: {said}")


def _answer(result: pq.abc.PGresult) -> Answer:
    if result.status == _TUPLES_OK:
        return Answer((result.get_value(0, 0) or b"") if result.ntuples else b"")
    if result.status in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY):
        return Answer(b"")
    field = pq.DiagnosticField
    state = result.error_field(field.SQLSTATE)
    if state is None:
        # Made by libpq itself: the connection broke.
        raise Cut(result.get_error_message().strip())
    severity = result.error_field(field.SEVERITY_NONLOCALIZED) or b"FATAL"
    return Answer(
        b"",
        state.decode(),
        severity in (b"FATAL", b"PANIC"),
        (result.error_field(field.MESSAGE_PRIMARY) or b"").decode("utf-8", "replace"),
    )


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())


def unknown(error: OSError, timeout: Seconds) -> OutcomeUnknown:
    """What an error in the middle of a request leaves behind."""
    if isinstance(error, TimeoutError):
        return OutcomeUnknown(f"PostgreSQL did not answer within {timeout:.3g} s")
    return OutcomeUnknown(f"the connection to PostgreSQL broke during a request: {error}")
