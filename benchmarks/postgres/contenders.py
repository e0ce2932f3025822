"""Ours, the peer and the bound on a PostgreSQL server, behind the interface of `benchmarks.contenders`.

The packages are imported here, before the fleet is forked.
"""

from __future__ import annotations

import os
import select
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pals
import psycopg

import tenure

# Imported by the first use of a client, which in a fleet is that of each process.
import tenure.engines.postgres.engine
from benchmarks.contenders import NAME, Nobody, Tenure, Worker
from tests.servers import postgres
from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.contenders import Contender

OURS: Final = "tenure"
UNSYNCED: Final = "tenure, not synced"
PEER: Final = "pals"
BOUND: Final = "ring of commit + NOTIFY"
ALONE: Final = "sections alone"


GIVE_UP_MS: Final = 10_000


class Pals:
    """Advisory locks of a session: no lease, no token, and nothing is written. A connection for each that waits."""

    def __init__(self, url: str) -> None:
        self._locker = pals.Locker("bench", url.replace("postgresql:", "postgresql+psycopg:"))
        worker = PalsWorker(self._locker, "warm")
        worker.enter()
        worker.leave()

    def worker(self) -> Worker:
        """A lock object of its own."""
        return PalsWorker(self._locker, NAME)

    def close(self) -> None:
        """Close the connections."""
        self._locker.engine.dispose()


class PalsWorker:
    """One lock object."""

    def __init__(self, locker: pals.Locker, name: str) -> None:
        self._lock = locker.lock(name, acquire_timeout=60_000)

    def enter(self) -> None:
        """Wait for it; `acquire` says no more than that it has failed."""
        if not self._lock.acquire():
            raise TimeoutError("pals gave up")

    def leave(self) -> None:
        """Unlock, and give back the connection."""
        self._lock.release()


class Ring:
    """The bound of strict order: each is told by NOTIFY, updates a row, and tells the next in the same commit.

    One synced commit and one wake-up a turn, and as many listeners as there are workers, for a NOTIFY wakes them all.
    No lock: who is not there when its turn comes holds up all the others.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url

    def worker(self) -> Worker:
        """The next place in the ring; the first one has the turn."""
        place = 0
        while True:
            try:
                (self._folder / f"ring-{place}").touch(exist_ok=False)
            except FileExistsError:
                place += 1
                continue
            return RingWorker(self._folder, self._url, place)

    def close(self) -> None:
        """The end of the process closes the connections."""


class RingWorker:
    """One place, with a connection to listen and one to speak."""

    def __init__(self, folder: Path, url: str, place: int) -> None:
        self._folder = folder
        self._place = place
        self._listener = psycopg.connect(url, autocommit=True)
        self._listener.execute(f"LISTEN ring_{place}".encode())
        self._speaker = psycopg.connect(url, autocommit=True)
        self._poll = select.poll()
        self._poll.register(self._listener, select.POLLIN)
        self._has_turn = place == 0
        self._pass = b""

    def enter(self) -> None:
        """Wait for the turn; in vain for some seconds, long after the round, if the one before never took its own."""
        while not self._has_turn:
            if not self._poll.poll(GIVE_UP_MS):
                return
            self._listener.pgconn.consume_input()
            while self._listener.pgconn.notifies() is not None:
                self._has_turn = True
        self._has_turn = False

    def leave(self) -> None:
        """Commit, and pass the turn on."""
        if not self._pass:
            # Everybody has a place before the first turn is over.
            size = sum(name.startswith("ring-") for name in os.listdir(self._folder))
            told = f"ring_{(self._place + 1) % size}"
            self._pass = (
                f"WITH hit AS (UPDATE bare SET value = value + 1 WHERE id = 0) SELECT pg_notify('{told}', '')"  # noqa: S608 - a number
            ).encode()
        self._speaker.execute(self._pass, prepare=True)


@contextmanager
def serving(*, most: int = 100) -> Iterator[PostgresServer]:
    """Start a server with its fsync and with room for so many connections, with tenure's tables and a bare one.

    Raises:
        OSError: there is none on this host.
    """
    if reason := postgres.missing():
        raise OSError(reason)
    with PostgresServer(fsync=True, extra=[f"max_connections={most}"]) as server:
        server.run("CREATE TABLE bare (id integer PRIMARY KEY, value bigint) WITH (fillfactor = 50)")
        server.run("INSERT INTO bare SELECT id, 0 FROM generate_series(0, 1) id")
        tenure.Client(server.url).migrate()
        yield server


def written(server: PostgresServer) -> int:
    """How many transactions have written something, from the server's first on; asking is none."""
    ((count,),) = server.run("SELECT txid_snapshot_xmax(txid_current_snapshot())")
    return int(count)


def makers(server: PostgresServer) -> dict[str, Callable[[Path], Contender]]:
    """All of them, for one server; the folder is of use to the ring alone."""
    url = server.url
    return {
        OURS: lambda folder: Tenure(folder, url),
        UNSYNCED: lambda folder: Tenure(folder, f"{url}?synchronous_commit=off"),
        PEER: lambda _: Pals(url),
        BOUND: lambda folder: Ring(folder, url),
        ALONE: Nobody,
    }
