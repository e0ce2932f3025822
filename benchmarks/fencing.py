"""What a fence costs: a transaction of PostgreSQL with a guard, and the same one without.

One connection, one row, a server that waits for its disk as in earnest (`fsync = on`); and, as a remark, one that does
not, where the round trips are all there is. The turns go in batches, A B A B ..., each batch a sample.

The guard is one statement more, whatever the rest of the transaction is. What that costs in parts of it depends on what
else there is to wait for, so the disk's own sync stands beside it, and a statement that does nothing.
"""

from __future__ import annotations

import os
import tempfile
import time
from typing import TYPE_CHECKING, Any

import psycopg

from benchmarks.table import Row, Samples
from tenure import fencing
from tests.servers import postgres
from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable

WARM_UP = 2
PAGE = 8192
SYNCS = 200


def run(quick: bool) -> list[Row]:
    """Each on a server of its own.

    Raises:
        OSError: there is none on this host.
    """
    if reason := postgres.missing():
        raise OSError(reason)
    # Many short ones, so that what else the machine does falls on both sides alike.
    batches, turns = (50, 20) if quick else (200, 30)
    return [*_rows(batches, turns, fsync=True), *_rows(batches, turns, fsync=False)]


def _rows(batches: int, turns: int, *, fsync: bool) -> list[Row]:
    with PostgresServer(fsync=fsync) as server, psycopg.connect(server.url) as connection:
        connection.execute(fencing.schema("postgresql").encode())
        connection.execute("CREATE TABLE counter (id integer PRIMARY KEY, v bigint NOT NULL)")
        connection.execute("INSERT INTO counter VALUES (1, 0)")
        connection.commit()

        def bare() -> None:
            with connection.transaction():
                work(connection)

        def fenced() -> None:
            with fencing.psycopg(connection, 7, resource="orders"):
                work(connection)

        def longer() -> None:
            with connection.transaction():
                connection.execute("SELECT %s::text", ["orders"]).fetchone()
                work(connection)

        times: dict[Callable[[], None], list[float]] = {fenced: [], bare: [], longer: []}
        for batch in range(WARM_UP + batches):
            for turn, found in times.items():
                taken = _time(turn, turns)
                if batch >= WARM_UP:
                    found.append(taken)
        synced = _synced(server.folder) if fsync else []
    what = f"a fenced transaction of PostgreSQL, fsync {'on' if fsync else 'off'}"
    bound = Samples("the same without", times[bare])
    rows = [
        Row(what, "us", Samples("fenced", times[fenced]), bound=bound, judge="bound", at_most=1.25 if fsync else None),
        Row(f"{what}: with SELECT in place of the guard", "us", Samples("", times[longer]), bound=bound, judge="bound"),
    ]
    return [*rows, Row("the disk's sync of 8 kB", "us", Samples("fdatasync", synced))] if synced else rows


def _synced(folder: str) -> list[float]:
    """Microseconds that the disk takes to have a page that was written anew."""
    taken = []
    with tempfile.TemporaryFile(dir=folder) as file:
        os.pwrite(file.fileno(), bytes(PAGE * SYNCS), 0)
        os.fsync(file.fileno())
        for at in range(SYNCS):
            os.pwrite(file.fileno(), os.urandom(PAGE), at * PAGE)
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - begun) * 1e6)
    return taken


def work(connection: psycopg.Connection[Any]) -> None:
    """Read and write, as a transaction does."""
    row = connection.execute("SELECT v FROM counter WHERE id = 1").fetchone()
    assert row is not None
    connection.execute("UPDATE counter SET v = %s WHERE id = 1", (row[0] + 1,))


def _time(turn: Callable[[], None], turns: int) -> float:
    """Microseconds a turn."""
    begun = time.perf_counter()
    for _ in range(turns):
        turn()
    return (time.perf_counter() - begun) / turns * 1e6
