"""The PostgreSQL engine against what its disk and its notifications allow, on a server of our own that syncs.

The bound of a hand-over is a ping-pong between two processes: each is told by NOTIFY, updates a row, notifies the other
in the same commit, which is synced. As many connections listen as the fleet has, for a NOTIFY wakes them all. The bound
of a cycle without contention is two bare commits.
"""

from __future__ import annotations

import multiprocessing
import select
import time
from typing import TYPE_CHECKING, Any, Final

import psycopg

import tenure
from benchmarks.stats import jain
from benchmarks.table import Row, Samples
from tests.servers import postgres
from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Sequence

PROCESSES: Final = 8
SECONDS: Final = 1.5
BATCH: Final = 50


def run(quick: bool) -> list[Row]:
    """Hand-overs with and without synced commits, and cycles."""
    if reason := postgres.missing():
        raise OSError(reason)
    with PostgresServer(fsync=True) as server:
        server.run("CREATE TABLE bare (id integer PRIMARY KEY, value bigint) WITH (fillfactor = 50)")
        server.run("INSERT INTO bare SELECT id, 0 FROM generate_series(0, 2) id")
        tenure.Client(server.url).migrate()
        bounds, synced, unsynced, fair = [], [], [], []
        for _ in range(3 if quick else 9):
            bounds.append(sum(_together(_ping_pong, [(server.url, side) for side in range(PROCESSES)])) / SECONDS)
            turns = _together(_contend, [(server.url,)] * PROCESSES)
            synced.append(sum(turns) / SECONDS)
            fair.append(jain(turns))
            url = f"{server.url}?synchronous_commit=off"
            unsynced.append(sum(_together(_contend, [(url,)] * PROCESSES)) / SECONDS)
        ours, bare = _cycles(server, 10 if quick else 40)
    bound = Samples("commit + NOTIFY", bounds)
    what = f"postgresql hand-over, {PROCESSES} processes"
    return [
        Row(f"{what}: synced", "/s", Samples("tenure", synced), bound=bound, judge="bound", at_least=0.7),
        Row(f"{what}: Jain index", "", Samples("tenure", fair), at_least=0.99),
        Row(f"{what}: not synced", "/s", Samples("tenure", unsynced), bound=bound, judge="bound"),
        Row("postgresql cycle", "us", ours, bound=bare, judge="bound", at_most=1.5),
    ]


def _together(do: Any, arguments: Sequence[tuple[Any, ...]]) -> list[int]:
    """Run a process for each, begin when all are ready; what each counted."""
    start = multiprocessing.Barrier(len(arguments))
    counts: multiprocessing.Queue[int] = multiprocessing.Queue()
    processes = [multiprocessing.Process(target=do, args=(start, counts, *each)) for each in arguments]
    for process in processes:
        process.start()
    found = [counts.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    return found


def _ping_pong(start: Any, counts: Any, url: str, side: int) -> None:
    """Two play; the others only listen."""
    with psycopg.connect(url, autocommit=True) as listener, psycopg.connect(url, autocommit=True) as speaker:
        listener.execute(f"LISTEN side_{side}".encode())
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        hit = (
            f"WITH hit AS (UPDATE bare SET value = value + 1 WHERE id = {side}) SELECT pg_notify('side_{1 - side}', '')"  # noqa: S608 - a number
        )
        start.wait()
        end, count = time.monotonic() + SECONDS, 0
        if side == 0:
            speaker.execute(hit.encode())
        while time.monotonic() < end:
            if side < 2 and poll.poll(100):
                listener.pgconn.consume_input()
                while listener.pgconn.notifies() is not None:
                    pass
                speaker.execute(hit.encode())
                count += 1
            elif side >= 2:
                time.sleep(0.1)
        counts.put(count)


def _contend(start: Any, counts: Any, url: str) -> None:
    with tenure.Client(url) as client:
        lock = client.lock("hot", wait=60)
        start.wait()
        end, count = time.monotonic() + SECONDS, 0
        while time.monotonic() < end:
            with lock:
                count += 1
        counts.put(count)


def _cycles(server: PostgresServer, rounds: int) -> tuple[Samples, Samples]:
    """Microseconds of a cycle, and of two bare commits, in batches taken in turn."""
    ours, bare = [], []
    with tenure.Client(server.url) as client, psycopg.connect(server.url, autocommit=True) as connection:
        lock = client.lock("alone")
        with lock:
            pass
        for _ in range(rounds):
            begun = time.perf_counter()
            for _ in range(BATCH):
                with lock:
                    pass
            between = time.perf_counter()
            for _ in range(2 * BATCH):
                connection.execute("UPDATE bare SET value = value + 1 WHERE id = 2")
            ours.append((between - begun) / BATCH * 1e6)
            bare.append((time.perf_counter() - between) / BATCH * 1e6)
    return Samples("tenure", ours), Samples("two commits", bare)
