"""The holders of the drill: processes of their own with real leases, which can be stopped, killed and made anew.

A process is made by forking a server that has imported everything already, so that one which was killed is replaced at
once. Locks are kept in memory where the host has a file system for that: a lease's own commit is none of the drill's.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import tempfile
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import tenure
from tenure.observe.log import silence
from tests.fencing.drivers import MODULES, find
from tests.fencing.mutating import changed
from tests.fencing.paths import Fault
from tests.servers.processes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from tenure.model import Grant
    from tests.fencing.mutating import Change
    from tests.fencing.session import Session

SHM = "/dev/shm"  # noqa: S108 - a folder of its own is made there

_context = multiprocessing.get_context("forkserver")
_LOCKS = [
    "tests.fencing.actors",
    "tenure.client",
    "tenure.engines.sqlite.database",
    "tenure.engines.sqlite.endpoint",
    "tenure.engines.sqlite.mailbox_blocking",
]
"""What every holder needs."""

_context.set_forkserver_preload(
    [
        *_LOCKS,
        "tests.fencing.warm",
        *(f"tests.fencing.{module}" for module in MODULES),
        *(
            f"tenure.sql.drivers.{guard}"
            for guard in ("sqlite3", "psycopg", "asyncpg", "pymysql", "sqlalchemy", "django")
        ),
        *(f"tenure.fencing.{store}.guard" for store in ("keyspace", "files", "objects")),
        *(f"tenure.fencing.web.for_{library}" for library in ("httpx", "requests")),
    ]
)


def expect_one_driver() -> None:
    """Before the first holder: no other drivers are imported for it than its own."""
    _context.set_forkserver_preload([*_LOCKS, *(name for name in sys.modules if name.startswith("tests.fencing."))])


def memory_folder() -> str | None:
    """Where a temporary folder costs no disk; None where the host has no such place."""
    return SHM if os.access(SHM, os.W_OK) else None


def new_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for the locks of one drill."""
    return tempfile.TemporaryDirectory(prefix="tn-drill-", dir=memory_folder())


class Setting(NamedTuple):
    """Where a holder lives.

    Attributes:
        driver: the name of the driver through which it reaches the store.
        url: the store.
        locks: the engine of its leases.
        change: made in tenure before it lives, to see whether the drill notices.
    """

    driver: str
    url: str
    locks: str
    change: Change | None = None


class Run(NamedTuple):
    """One run of a path.

    Attributes:
        path: its name.
        seq: its number among the holder's own.
        stop: where it is stopped, once; empty: nowhere.
        is_failing: whether it ends there by an error instead.
    """

    path: str
    seq: int
    stop: str = ""
    is_failing: bool = False


# -- in a process of its own -----------------------------------------------------------------------------------------


def act(pipe: Connection, setting: Setting) -> None:
    """The life of a holder."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence()
    change = changed(setting.change) if setting.change else nullcontext()
    with change, tenure.Client(setting.locks, ttl=600) as client, suppress(EOFError, BrokenPipeError):
        asyncio.run(_Holder(pipe, setting, client).live())


class _Holder:
    def __init__(self, pipe: Connection, setting: Setting, client: tenure.Client) -> None:
        self._pipe = pipe
        self._setting = setting
        self._client = client
        self._lease: tenure.Lease | Grant | None = None
        self._session: Session

    async def live(self) -> None:
        """Do what is asked for, one thing after the other."""
        await self._connect()
        self._pipe.send("ready")
        while True:
            what, argument = self._pipe.recv()
            if what == "take":
                self._pipe.send(self._take(argument))
            elif what == "borrow":
                self._lease = argument
                self._pipe.send("borrowed")
            elif what == "drop":
                self._drop()
                self._pipe.send("dropped")
            else:
                self._pipe.send(await self._run(argument))

    async def _connect(self) -> None:
        self._session = await find(self._setting.driver).session(self._setting.url)

    def _take(self, token: int | None) -> Grant | None:
        """Take the name, from a holder of that token if there is one; None if nobody could be asked."""
        try:
            if token:
                self._client.steal("orders", token)
            self._lease = self._client.lock("orders", wait=PATIENCE).acquire()
        except tenure.StoreUnavailable:
            return None
        return self._lease.grant

    def _drop(self) -> None:
        if isinstance(self._lease, tenure.Lease):
            with suppress(tenure.LeaseLost):
                self._lease.release()
        self._lease = None

    async def _run(self, run: Run) -> str:
        """Run a path; "done", or why not."""
        driver = find(self._setting.driver)
        self._session.seq = run.seq
        outcome = "done"
        try:
            await {**driver.paths, **driver.naive}[run.path](self._session, self._lease, self._pauses(run))
        except (tenure.StoreUnavailable, tenure.OutcomeUnknown) as error:
            outcome = f"failed: {error!r}"
        except tenure.TenureError as error:
            outcome = f"refused: {error!r}"
        except Exception as error:  # noqa: BLE001 - whatever a driver says of a server that has gone
            outcome = f"failed: {error!r}"
        if outcome != "done":
            with suppress(Exception):
                await self._session.close()
            with suppress(Exception):
                await self._connect()
        return outcome

    def _pauses(self, run: Run) -> Callable[[str], Any]:
        """What a path calls where it can be stopped; it is stopped at one place, once."""
        is_due = True

        async def pause(place: str) -> None:
            nonlocal is_due
            if is_due and place == run.stop:
                is_due = False
                if run.is_failing:
                    raise Fault
                self._pipe.send(f"at {place}")
                self._pipe.recv()

        return pause


# -- for the one who plays with it -----------------------------------------------------------------------------------


class Actor:
    """A holder, as the one sees who plays with it."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.seq = 0
        self.start()

    def start(self) -> None:
        self._pipe, theirs = _context.Pipe()
        self._process = _context.Process(target=act, args=(theirs, self._setting), daemon=True)
        self._process.start()
        theirs.close()
        assert self.hear() == "ready"

    def call(self, what: str, argument: Any = None) -> Any:
        self.send(what, argument)
        return self.hear()

    def send(self, what: str, argument: Any = None) -> None:
        self._pipe.send((what, argument))

    def take(self, token: int | None = None) -> Grant | None:
        """Take the name, from the holder of that token; None if the locks were out of reach."""
        self.seq = 0
        taken: Grant | None = self.call("take", token)
        return taken

    def run(self, path: str, stop: str = "", *, seq: int | None = None, is_failing: bool = False) -> None:
        """Begin a run; listen for what comes of it."""
        if seq is None:
            self.seq += 1
        self.send("run", Run(path, self.seq if seq is None else seq, stop, is_failing))

    def hear(self, seconds: float = PATIENCE) -> Any:
        assert self._pipe.poll(seconds), "a holder hangs"
        return self._pipe.recv()

    def has_news(self, seconds: float) -> bool:
        return self._pipe.poll(seconds)

    def signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()
