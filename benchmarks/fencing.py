"""What a fence costs: a transaction of PostgreSQL with a guard, and the same one without.

One connection, one row, a server that waits for its disk as in earnest (`fsync = on`); and, as a remark, one that does
not, where the round trips are all there is. The turns go in batches, A B A B ..., each batch a sample.
"""

from __future__ import annotations

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


def run(quick: bool) -> list[Row]:
    """Each on a server of its own.

    Raises:
        OSError: there is none on this host.
    """
    if reason := postgres.missing():
        raise OSError(reason)
    batches, turns = (10, 100) if quick else (30, 200)
    return [_row(batches, turns, fsync=True), _row(batches, turns, fsync=False)]


def _row(batches: int, turns: int, *, fsync: bool) -> Row:
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

        times: dict[Callable[[], None], list[float]] = {fenced: [], bare: []}
        for batch in range(WARM_UP + batches):
            for turn, found in times.items():
                taken = _time(turn, turns)
                if batch >= WARM_UP:
                    found.append(taken)
    return Row(
        f"a fenced transaction of PostgreSQL, fsync {'on' if fsync else 'off'}",
        "us",
        Samples("fenced", times[fenced]),
        bound=Samples("the same without", times[bare]),
        judge="bound",
        at_most=1.25 if fsync else None,
    )


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
