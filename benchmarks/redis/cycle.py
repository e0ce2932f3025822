"""One acquire and one release on a server, with nobody else there, in one thread of one process.

As `benchmarks.cycle`, in batches taken in turn; once with client and server each on a core of its own, which is
steadier, and once where the scheduler likes: it puts them on one core or on two, which makes a difference of its own.
"""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

from benchmarks.redis.contenders import BOUND, PEER, SLEEPER, makers
from benchmarks.redis.server import pinned, serving
from benchmarks.table import Row, Samples

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from benchmarks.contenders import Worker
    from tests.servers.redis import RedisServer

BATCH = 200
WARM_UP = 3


def run(quick: bool) -> list[Row]:
    """Pinned, if there are two cores, and not."""
    rows = []
    for how in ("pinned", "unpinned"):
        if how == "pinned" and len(os.sched_getaffinity(0)) < 2:
            continue
        with serving() as server:
            place: AbstractContextManager[None] = pinned(server) if how == "pinned" else nullcontext()
            with place:
                rates, cpu = _measure(server, 20 if quick else 60)
        ours = Samples("tenure", rates["tenure"])
        what = f"redis cycle, {how}"
        rows += [
            Row(f"{what}: cycles", "/s", ours, Samples(SLEEPER, rates[SLEEPER]), judge="peer", at_least=1.0),
            Row(f"{what}: cycles", "/s", ours, Samples(PEER, rates[PEER]), judge="peer"),
            Row(f"{what}: cycles", "/s", ours, bound=Samples(BOUND, rates[BOUND]), judge="bound"),
            Row(
                f"{what}: the client's CPU for one",
                "us",
                Samples("tenure", cpu["tenure"]),
                Samples(SLEEPER, cpu[SLEEPER]),
                Samples(BOUND, cpu[BOUND]),
                judge="peer",
            ),
        ]
    return rows


def _measure(server: RedisServer, rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Cycles a second and microseconds of CPU a cycle, of each."""
    make = makers(server)
    contenders = {name: make[name](Path(gettempdir())) for name in ("tenure", SLEEPER, PEER, BOUND)}
    workers = {name: contender.worker() for name, contender in contenders.items()}
    rates: dict[str, list[float]] = {name: [] for name in workers}
    cpu: dict[str, list[float]] = {name: [] for name in workers}
    for count in range(WARM_UP + rounds):
        for name, worker in workers.items():
            taken, used = _batch(worker)
            if count >= WARM_UP:
                rates[name].append(BATCH / taken)
                cpu[name].append(used / BATCH * 1e6)
    for contender in contenders.values():
        contender.close()
    return rates, cpu


def _batch(worker: Worker) -> tuple[float, float]:
    enter, leave = worker.enter, worker.leave
    used, begun = time.process_time(), time.perf_counter()
    for _ in range(BATCH):
        enter()
        leave()
    return time.perf_counter() - begun, time.process_time() - used
