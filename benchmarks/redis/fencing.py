"""What a fence costs in Redis: a write through the guard, and the same write by the driver alone.

One client, one key, a server that syncs each write as in earnest (`appendfsync always`); and, as a remark, one without
a disk, where the round trip is all there is. The turns go in batches, A B A B ..., each batch a sample. Both do what
the driver's users do: one command and its reply. Entering a block of its own for each write raises the fence each time,
in a round trip more; that is a remark too.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import redis

from benchmarks.table import Row, Samples
from tenure import fencing
from tests.servers.redis import RedisServer, missing

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers.redis import Persistence

WARM_UP = 2


def run(quick: bool) -> list[Row]:
    """Each on a server of its own.

    Raises:
        OSError: there is none on this host.
    """
    if reason := missing():
        raise OSError(reason)
    batches, turns = (10, 200) if quick else (30, 400)
    return [*_rows(batches, turns, "always"), *_rows(batches, turns, "none")]


def _rows(batches: int, turns: int, persistence: Persistence) -> list[Row]:
    with (
        RedisServer(persistence=persistence) as server,
        redis.Redis.from_url(server.url) as client,
        fencing.redis(client, 7, resource="orders") as tx,
    ):

        def bare() -> None:
            client.set("{orders}:v", "value")

        def fenced() -> None:
            tx.set("{orders}:v", "value")

        def entered() -> None:
            with fencing.redis(client, 7, resource="orders") as anew:
                anew.set("{orders}:v", "value")

        times: dict[Callable[[], None], list[float]] = {fenced: [], bare: [], entered: []}
        for batch in range(WARM_UP + batches):
            for turn, found in times.items():
                taken = _time(turn, turns)
                if batch >= WARM_UP:
                    found.append(taken)
    disk = "synced" if persistence == "always" else "without a disk"
    alone = Samples("the same without", times[bare])
    return [
        Row(
            f"a fenced write of Redis, {disk}",
            "us",
            Samples("fenced", times[fenced]),
            bound=alone,
            judge="bound",
            at_most=1.15 if persistence == "always" else None,
        ),
        Row(
            f"a block of Redis with one write, {disk}",
            "us",
            Samples("fenced", times[entered]),
            bound=alone,
            judge="bound",
        ),
    ]


def _time(turn: Callable[[], None], turns: int) -> float:
    """Microseconds a turn."""
    begun = time.perf_counter()
    for _ in range(turns):
        turn()
    return (time.perf_counter() - begun) / turns * 1e6
