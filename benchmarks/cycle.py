"""One acquire and one release with nobody else there, in one thread of one process.

Each contender makes a short batch in turn, many times over: a machine whose speed drifts drifts for all of them. The
first batches are thrown away. The asyncio face and memory:// are remarks; peers have no like.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import tenure
from benchmarks.contenders import MAKE, Tenure
from benchmarks.table import Row, Samples

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.contenders import Contender, Worker

BATCH = 200
WARM_UP = 3


def run(quick: bool) -> list[Row]:
    """Compare the cycles."""
    with TemporaryDirectory(prefix="tenure-bench-") as folder:
        times = _measure(Path(folder), 20 if quick else 80)
    ours = Samples("tenure", times["tenure"])
    rows = [
        Row("cycle: acquire + release", "us", ours, Samples("filelock", times["filelock"]), judge="peer", at_most=1.0),
        Row("cycle: acquire + release", "us", ours, Samples("portalocker", times["portalocker"]), judge="peer"),
        Row("cycle: acquire + release", "us", ours, bound=Samples("flock(2)", times["flock(2)"]), judge="bound"),
    ]
    rows += [
        Row(f"cycle: {name}", "us", Samples(name, times[name]), bound=Samples("blocking", ours.values), judge="bound")
        for name in ("asyncio", "memory://", "asyncio memory://")
    ]
    return rows


def _measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    contenders: dict[str, Contender] = {
        name: MAKE[name](folder) for name in ("tenure", "filelock", "portalocker", "flock(2)")
    }
    contenders["memory://"] = Tenure(folder, "memory://")
    runs: dict[str, Callable[[], float]] = {}
    for name, contender in contenders.items():
        runs[name] = _blocking(contender.worker())
    loop = asyncio.new_event_loop()
    clients = {
        "asyncio": tenure.AsyncClient(f"sqlite://{folder}/async.db"),
        "asyncio memory://": tenure.AsyncClient("memory://"),
    }
    for name, client in clients.items():
        runs[name] = _async(client, loop)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for count in range(WARM_UP + rounds):
        for name, batch in runs.items():
            taken = batch()
            if count >= WARM_UP:
                times[name].append(taken / BATCH * 1e6)
    for client in clients.values():
        loop.run_until_complete(client.close())
    loop.close()
    for contender in contenders.values():
        contender.close()
    return times


def _blocking(worker: Worker) -> Callable[[], float]:
    def batch() -> float:
        enter, leave = worker.enter, worker.leave
        begun = time.perf_counter()
        for _ in range(BATCH):
            enter()
            leave()
        return time.perf_counter() - begun

    return batch


def _async(client: tenure.AsyncClient, loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    lock = client.lock("bench", wait=None)

    async def cycles() -> float:
        begun = time.perf_counter()
        for _ in range(BATCH):
            lease = await lock.acquire()
            await lease.release()
        return time.perf_counter() - begun

    return lambda: loop.run_until_complete(cycles())
