"""One client's access to a PostgreSQL database.

All of this engine is imported with it, and so before any thread of a client runs: what is imported later may be caught
half-way by a fork, and the child would wait for ever for a thread that it does not have.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - getaddrinfo imports it late, perhaps while another thread forks
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tenure.engines import Engine
from tenure.engines.postgres.doctor import examine, require_durable_tokens
from tenure.engines.postgres.link import READ_COMMITTED, Link, Unpassed, dial, unknown, wait_here, wait_natively
from tenure.engines.postgres.mailbox import LISTENS, POLLS
from tenure.engines.postgres.migrate import migrate
from tenure.engines.postgres.store import Known, PostgresStore
from tenure.engines.postgres.transport_aio import AioListener, AioPoller, AioWire
from tenure.engines.postgres.transport_blocking import CONNECTIONS_MOST, BlockingListener, BlockingPoller, BlockingWire
from tenure.errors import StoreUnavailable, TenureError, UsageError
from tenure.runtimes import native
from tenure.runtimes.blocking import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenure.engines.postgres.link import Waiter
    from tenure.engines.postgres.url import PostgresUrl
    from tenure.findings import Examination
    from tenure.model import Seconds
    from tenure.ports import Mailbox, QueueStore, Runtime
    from tenure.runtimes.aio import AioRuntime

OPEN_MOST: Final = 5.0
"""Seconds that the first connection may take."""

COLLECT_BEATS: Final = 100
"""Heartbeats between two collections of idle names' rows."""

COLLECT_MOST: Final = 1.0
"""Seconds that a collection may take."""


class PostgresEngine(Engine):
    """One client's access to one database: connections for callers, keeper and mailbox, made when needed."""

    kind = "postgresql"
    capabilities = frozenset({"fifo", "shared", "semaphore", "multi_host"})
    conditional = frozenset({"durable_tokens"})
    scope = "all hosts that use this database and schema"

    def __init__(self, parsed: PostgresUrl) -> None:
        for conninfo in (parsed.conninfo, parsed.listen_conninfo):
            if conninfo is not None:
                try:
                    conninfo_to_dict(conninfo)
                except psycopg.Error:
                    # libpq's words would repeat pieces of what stood there.
                    raise UsageError("url: libpq does not understand it: a port, a host or an option") from None
        self._parsed = parsed
        self._known = Known(parsed.schema, parsed.commits)
        self._address = ""
        self._options = READ_COMMITTED
        self._is_pooled = False
        self._keeper_store: PostgresStore
        self._beats = 0
        # What was opened closes in the opposite order, also if opening failed half-way.
        self._closing = ExitStack()
        self._disowning = ExitStack()
        # The connection of `open`, ready for the first request: to connect takes time, which a short ttl has not.
        self._spare: list[Link] = []

    def open(self) -> None:
        link = self._dial(OPEN_MOST, wait_here)
        try:
            # A pooler makes up a number of its own, since it does not know yet whom it will ask.
            try:
                answer = link.ask(b"SELECT pg_backend_pid()", (), OPEN_MOST, wait_here)
            except OSError as error:
                raise StoreUnavailable(str(unknown(error, OPEN_MOST))) from error
            self._is_pooled = self._is_pooled or answer.value != b"%d" % link.backend_pid
            if self._parsed.create:
                migrate(link, self._parsed.schema)
            self._prepare(link, OPEN_MOST, wait_here)
        except BaseException:
            link.close()
            raise
        self._spare.append(link)
        is_deaf = self._is_pooled and self._parsed.listen_conninfo is None
        self._address = (POLLS if is_deaf else LISTENS) + native.new_id()

    def _dial(self, timeout: Seconds, wait: Waiter) -> Link:
        try:
            return dial(self._parsed.conninfo, timeout, wait, self._options)
        except Unpassed:
            self._is_pooled, self._options = True, ""
            return dial(self._parsed.conninfo, timeout, wait, "")

    def _dial_for_steps(self, timeout: Seconds, wait: Waiter) -> Link:
        """Connect, for requests of locks."""
        end = time.monotonic() + timeout
        with suppress(IndexError):
            spare = self._spare.pop()
            if not spare.is_stale():
                return spare
            spare.close()
        link = self._dial(timeout, wait)
        try:
            self._prepare(link, max(0.001, end - time.monotonic()), wait)
        except BaseException:
            link.close()
            raise
        return link

    def _prepare(self, link: Link, timeout: Seconds, wait: Waiter) -> None:
        if not self._is_pooled:
            try:
                link.prepare(self._known.hot, timeout, wait)
            except OSError as error:
                raise StoreUnavailable(str(unknown(error, timeout))) from error

    def _listen(self, timeout: Seconds) -> Link:
        """Connect, past a pooler if need be, and listen."""
        if self._parsed.listen_conninfo is None:
            link = self._dial(timeout, wait_here)
        else:
            link = dial(self._parsed.listen_conninfo, timeout, wait_here, "")
        try:
            answer = link.ask(f'LISTEN "{self._address}"'.encode(), (), timeout, wait_here)
            if answer.state:
                raise StoreUnavailable(f"PostgreSQL refuses to let us listen: {answer.message}")
        except OSError as error:
            link.close()
            raise StoreUnavailable(str(unknown(error, timeout))) from error
        except BaseException:
            link.close()
            raise
        return link

    def verify(self, wanted: frozenset[str]) -> None:  # noqa: ARG002 - there is only the one that is conditional
        require_durable_tokens(self._dial, self._parsed)

    def examine(self, ttl: Seconds) -> Examination:
        found = examine(self._dial, self._parsed, ttl)
        return found._replace(capabilities=self.capabilities | found.capabilities)

    def migrate(self) -> list[str]:
        link = self._dial(OPEN_MOST, wait_here)
        try:
            return migrate(link, self._parsed.schema)
        finally:
            link.close()

    @property
    def address(self) -> str:
        return self._address

    def _wire(self, most: int = CONNECTIONS_MOST) -> BlockingWire:
        wire = BlockingWire(self._dial_for_steps, wait_here, most)
        self._closing.callback(wire.shut)
        self._disowning.callback(wire.disown)
        return wire

    def _aio_wire(self, runtime: AioRuntime, most: int = CONNECTIONS_MOST) -> AioWire:
        wire = AioWire(self._dial_for_steps, runtime.loop, most)
        self._closing.callback(wire.shut)
        self._disowning.callback(wire.disown)
        return wire

    def store(self, runtime: Runtime) -> QueueStore:
        return PostgresStore(self._wire(), self._known, runtime.now)

    def keeper_store(self, runtime: Runtime) -> QueueStore:
        # Nothing is prepared here: a renewal that has to connect anew has a sixth of its ttl for all of it (A4).
        wire = BlockingWire(self._dial, wait_natively, 1)
        self._closing.callback(wire.shut)
        self._disowning.callback(wire.disown)
        self._keeper_store = PostgresStore(wire, self._known, runtime.now)
        return self._keeper_store

    def aio_store(self, runtime: AioRuntime) -> QueueStore:
        return PostgresStore(self._aio_wire(runtime), self._known, runtime.now)

    @property
    def _take_mail(self) -> bytes:
        return self._known.statement("take_mail", 1)

    def mailbox(self, runtime: Runtime) -> Mailbox:
        if self._address.startswith(POLLS):
            poller = BlockingPoller(self._address, self._take_mail, self._parsed.poll_s, self._wire(most=1), runtime)
            return self._kept(poller, poller.close, poller.disown)
        listener = BlockingListener(self._address, runtime, self._known, self._listen)
        return self._kept(listener, listener.close, listener.disown)

    def aio_mailbox(self, runtime: AioRuntime) -> Mailbox:
        if self._address.startswith(POLLS):
            wire = self._aio_wire(runtime, 1)
            poller = AioPoller(self._address, self._take_mail, self._parsed.poll_s, wire, runtime)
            return self._kept(poller, poller.close, poller.disown)
        listener = AioListener(self._address, runtime, self._known, self._listen)
        return self._kept(listener, listener.close, listener.disown)

    def _kept(self, mailbox: Mailbox, close: Callable[[], None], disown: Callable[[], None]) -> Mailbox:
        self._closing.callback(close)
        self._disowning.callback(disown)
        return mailbox

    def tend(self) -> None:
        if self._beats % COLLECT_BEATS == COLLECT_BEATS - 1:
            with suppress(TenureError):
                run(self._keeper_store.collect(COLLECT_MOST))
        self._beats += 1

    def disown(self) -> None:
        self._disowning.close()
        self._let_go()

    def close(self) -> None:
        self._closing.close()
        self._let_go()

    def _let_go(self) -> None:
        while self._spare:
            self._spare.pop().close()
