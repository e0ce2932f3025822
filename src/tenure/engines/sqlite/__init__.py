"""The embedded engine: locks between the processes and threads of one host, in one SQLite file.

Status: production, on Linux with a local file system. macOS and Windows: not tested.
Promises: first come, first served; a process that is killed frees its names at once, one that hangs at its ttl; tokens
rise over crashes, power failures and, as long as the clock reads more than the largest token given, over a deleted or
restored file.
Does not promise anything between hosts, nor on a network file system, which it refuses.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

from tenure.engines import Engine
from tenure.engines.sqlite import url as sqlite_url
from tenure.engines.sqlite.database import Database, opening
from tenure.engines.sqlite.endpoint import Endpoint, Sender
from tenure.engines.sqlite.files import Home, open_home
from tenure.engines.sqlite.mailbox import BlockingMailbox
from tenure.engines.sqlite.transport_blocking import BlockingStore
from tenure.errors import TenureError
from tenure.runtimes import native
from tenure.runtimes.blocking import run

if TYPE_CHECKING:
    from tenure.findings import Examination
    from tenure.model import Seconds
    from tenure.ports import Mailbox, QueueStore, Runtime
    from tenure.runtimes.aio import AioRuntime


TIDY_BEATS: Final = 1000
"""Heartbeats between two clean-ups of the companion folder."""

TIDY_MOST: Final = 1.0
"""Seconds that a clean-up waits for the file."""


class SqliteEngine(Engine):
    """One client's access to one file: an endpoint, and a connection each for callers and keeper."""

    kind = "sqlite"
    capabilities = frozenset({"fifo", "shared", "semaphore", "durable_tokens"})

    def __init__(self, parsed: sqlite_url.SqliteUrl) -> None:
        self._parsed = parsed
        self.scope = "this user on this host only" if parsed.path is None else "this host only"
        self._home: Home
        self._endpoint: Endpoint
        self._sender: Sender
        self._keeper_store: BlockingStore
        self._beats = 0
        self._databases: list[Database] = []
        # What was opened closes in the opposite order, also if opening failed half-way.
        self._closing = ExitStack()

    def open(self) -> None:
        with opening:
            self._home = open_home(self._parsed.path, self._parsed.shared)
        self._endpoint = Endpoint.create(self._home, native.new_id())
        self._closing.callback(self._endpoint.close)
        self._sender = Sender(self._home)
        self._closing.callback(self._sender.close)

    @property
    def address(self) -> str:
        return self._endpoint.address

    def _database(self) -> Database:
        database = Database(self._home, self._sender)
        self._databases.append(database)
        return database

    def store(self, runtime: Runtime) -> BlockingStore:  # noqa: ARG002 - its steps read the file's clock
        store = BlockingStore(self._home, self._database(), self.address)
        self._closing.callback(store.shut)
        return store

    def keeper_store(self, runtime: Runtime) -> BlockingStore:
        self._keeper_store = self.store(runtime)
        return self._keeper_store

    def aio_store(self, runtime: AioRuntime) -> QueueStore:
        from tenure.engines.sqlite.transport_aio import BridgeStore

        store = BridgeStore(self._home, self._database(), self.address, runtime.loop)
        self._closing.callback(store.shut)
        return store

    def mailbox(self, runtime: Runtime) -> Mailbox:
        mailbox = BlockingMailbox(self._endpoint, runtime.now)
        self._closing.callback(mailbox.close)
        return mailbox

    def aio_mailbox(self, runtime: AioRuntime) -> Mailbox:
        from tenure.engines.sqlite.mailbox_aio import AioMailbox

        mailbox = AioMailbox(self._endpoint, runtime.now)
        self._closing.callback(mailbox.close)
        return mailbox

    def examine(self, ttl: Seconds) -> Examination:  # noqa: ARG002 - a file's answers take no time to speak of
        from tenure.engines.sqlite.doctor import examine
        from tenure.findings import Examination

        return Examination(self.capabilities, examine(self._parsed, self.scope))

    def tend(self) -> None:
        self._endpoint.sweep()
        if self._beats % TIDY_BEATS == 0:
            # What killed clients left; once soon after the start, then rarely.
            with suppress(TenureError):
                run(self._keeper_store.tidy(TIDY_MOST))
        self._beats += 1

    def descriptors(self) -> tuple[int, ...]:
        return self._endpoint.descriptors()

    def disown(self) -> None:
        for database in self._databases:
            database.disown()
        if hasattr(self, "_sender"):
            self._sender.close()

    def close(self) -> None:
        self._closing.close()


def connect(url: str, namespace: str) -> Engine:  # noqa: ARG001 - its names carry the namespace
    """Make the engine of a `sqlite://` URL; no I/O."""
    return SqliteEngine(sqlite_url.parse(url))
