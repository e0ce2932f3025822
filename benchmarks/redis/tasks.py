"""50 tasks of one loop, each with a name of its own, over one client: what a service of asyncio does all day.

redis.asyncio has a pool with a connection for each task, so that none waits for one.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import redis.asyncio

import tenure
from benchmarks.redis.contenders import SLEEPER, TTL
from benchmarks.redis.server import serving
from benchmarks.table import Row, Samples

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TASKS = 50
EACH = 10
WARM_UP = 2


def run(quick: bool) -> list[Row]:
    """Batches in turn."""
    with serving() as server:
        rates, cpu = asyncio.run(_measure(server.url, 15 if quick else 50))
    asyncio_lock = f"{SLEEPER} (asyncio)"
    what = f"redis, {TASKS} tasks, {TASKS} names"

    def row(figure: str, unit: str, values: dict[str, list[float]], at_least: float | None = None) -> Row:
        ours, peer = Samples("tenure", values["tenure"]), Samples(asyncio_lock, values["redis"])
        return Row(f"{what}: {figure}", unit, ours, peer, judge="peer", at_least=at_least)

    return [row("cycles", "/s", rates, 5.0), row("the client's CPU for one", "us", cpu)]


async def _measure(url: str, rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    pool = redis.asyncio.BlockingConnectionPool.from_url(url, max_connections=TASKS)
    theirs = redis.asyncio.Redis(connection_pool=pool)

    async def redis_task(number: int) -> None:
        lock = theirs.lock(f"theirs/{number}", timeout=TTL)
        for _ in range(EACH):
            await lock.acquire()
            await lock.release()

    async with tenure.AsyncClient(url) as ours:

        async def tenure_task(number: int) -> None:
            lock = ours.lock(f"ours/{number}", wait=None)
            last = 0
            for _ in range(EACH):
                lease = await lock.acquire()
                assert lease.token > last, "tokens must rise"
                last = lease.token
                await lease.release()

        tasks: dict[str, Callable[[int], Awaitable[None]]] = {"tenure": tenure_task, "redis": redis_task}
        rates: dict[str, list[float]] = {name: [] for name in tasks}
        cpu: dict[str, list[float]] = {name: [] for name in tasks}
        for count in range(WARM_UP + rounds):
            for name, task in tasks.items():
                used, begun = time.process_time(), time.perf_counter()
                await asyncio.gather(*(task(number) for number in range(TASKS)))
                taken, used = time.perf_counter() - begun, time.process_time() - used
                if count >= WARM_UP:
                    rates[name].append(TASKS * EACH / taken)
                    cpu[name].append(used / TASKS / EACH * 1e6)
    await theirs.aclose()
    await pool.disconnect()
    return rates, cpu
