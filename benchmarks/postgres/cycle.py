"""Acquire and release in one thread with nobody else there, beside two bare commits: what the disk allows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import psycopg

import tenure
from benchmarks.postgres.contenders import PEER, Pals, serving
from benchmarks.table import Row, Samples

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH: Final = 50


def run(quick: bool) -> list[Row]:
    """Microseconds of a cycle, of two commits and of the peer's cycle, in batches taken in turn."""
    ours: list[float] = []
    bare: list[float] = []
    theirs: list[float] = []
    with (
        serving() as server,
        tenure.Client(server.url) as client,
        psycopg.connect(server.url, autocommit=True) as connection,
    ):
        lock = client.lock("alone")
        peer = Pals(server.url)
        worker = peer.worker()

        def cycle() -> None:
            with lock:
                pass

        def commits() -> None:
            for _ in range(2):
                connection.execute("UPDATE bare SET value = value + 1 WHERE id = 1", prepare=True)

        def their_cycle() -> None:
            worker.enter()
            worker.leave()

        for _ in range(10 if quick else 40):
            ours.append(_each(cycle))
            bare.append(_each(commits))
            theirs.append(_each(their_cycle))
        peer.close()
    mine = Samples("tenure", ours)
    return [
        Row("postgresql cycle", "us", mine, bound=Samples("two commits", bare), judge="bound", at_most=1.5),
        Row("postgresql cycle", "us", mine, Samples(PEER, theirs), judge="peer"),
    ]


def _each(do: Callable[[], None]) -> float:
    do()
    begun = time.perf_counter()
    for _ in range(BATCH):
        do()
    return (time.perf_counter() - begun) / BATCH * 1e6
