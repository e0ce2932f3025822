"""A process that takes names, holds them for a while and notes what its leases say; run by `conductor`.

It takes what comes: whatever happens to a request is counted, and another name is tried. An error that is none of
tenure's ends it, and fails the run.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import tenure
from tenure import AcquireTimeout, AsyncClient, Client, LeaseLost, OutcomeUnknown, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES: Final = {"mutex": "exclusive", "shelf": "mixed", "seats": "permits"}
LIMIT: Final = 2
_EXPECTED: Final = (AcquireTimeout, StoreUnavailable, OutcomeUnknown, LeaseLost)


def now() -> float:
    """The host's boot-time clock, in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Worker:
    """One worker: what to do next, and what is written down."""

    def __init__(self, orders: dict[str, Any]) -> None:
        self.url: str = orders["url"]
        self.ttl: float = orders["ttl"]
        self._trusts_time: bool = orders["naive"]
        self._calm: str = orders["calm"]
        self._random = random.Random(orders["seed"])  # noqa: S311 - chance, not secrecy
        self._out = os.open(orders["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._served: set[str] = set()

    def note(self, what: str, **more: Any) -> None:
        """Write a line at once: this process may be killed at any moment."""
        os.write(self._out, (json.dumps({"what": what, **more}) + "\n").encode())

    def tasks(self) -> Iterator[tuple[str, str, float, float]]:
        """What to take, how, for how long to wait, and for how long to hold it; until all is calm and was held."""
        conductor = os.getppid()
        while os.getppid() == conductor:
            if is_calm := os.path.exists(self._calm):
                left = sorted(NAMES.keys() - self._served)
                if not left:
                    return
                name = self._random.choice(left)
            else:
                name = self._random.choice(list(NAMES))
            kind = NAMES[name]
            if kind == "mixed":
                kind = self._random.choice(["exclusive", "shared", "shared"])
            wait = 10.0 * self.ttl if is_calm else self._random.uniform(0, 3) * self.ttl
            hold = 0.01 if is_calm else self._random.choice([0.0, 0.05, 0.5, 2.0]) * self.ttl * self._random.random()
            yield name, kind, wait, hold

    def granted(self, name: str, kind: str, asked: float, lease: tenure.Lease | tenure.AsyncLease) -> float:
        """Note a grant; when it was."""
        first = now()
        self.note("granted", name=name, token=lease.token, asked=asked, first=first, kind=kind, limit=LIMIT)
        return first

    def believes(self, name: str, lease: tenure.Lease | tenure.AsyncLease) -> bool:
        """Whether it is still held, which is noted; a naive one goes by what it was once told."""
        at = now()
        if self._trusts_time or lease.held:
            self.note("held", name=name, at=at)
            return True
        self.note("lost", name=name, reason=str(lease.lost))
        return False

    def ended(self, name: str) -> None:
        """Note that a name was held and given back."""
        if os.path.exists(self._calm):
            self._served.add(name)
            self.note("served", name=name)


def blocking(worker: Worker) -> None:
    """Threads' face."""
    with Client(worker.url, ttl=worker.ttl) as client:
        for name, kind, wait, hold in worker.tasks():
            asked = now()
            try:
                if kind == "permits":
                    lock = client.semaphore(name, limit=LIMIT)
                else:
                    lock = client.lock(name, shared=kind == "shared")
                with lock.acquire(wait=wait) as lease:
                    until = worker.granted(name, kind, asked, lease) + hold
                    while worker.believes(name, lease) and now() < until:
                        time.sleep(0.002)
                worker.ended(name)
            except _EXPECTED as error:
                worker.note(type(error).__name__)
                time.sleep(0.01)


async def looped(worker: Worker) -> None:
    """Asyncio's face."""
    async with AsyncClient(worker.url, ttl=worker.ttl) as client:
        for name, kind, wait, hold in worker.tasks():
            asked = now()
            try:
                if kind == "permits":
                    lock = client.semaphore(name, limit=LIMIT)
                else:
                    lock = client.lock(name, shared=kind == "shared")
                async with await lock.acquire(wait=wait) as lease:
                    until = worker.granted(name, kind, asked, lease) + hold
                    while worker.believes(name, lease) and now() < until:  # noqa: ASYNC110 - what is watched is time
                        await asyncio.sleep(0.002)
                worker.ended(name)
            except _EXPECTED as error:
                worker.note(type(error).__name__)
                await asyncio.sleep(0.01)


if __name__ == "__main__":
    ordered = json.loads(sys.argv[1])
    one = Worker(ordered)
    while True:
        try:
            if ordered["looped"]:
                asyncio.run(looped(one))
            else:
                blocking(one)
            break
        except StoreUnavailable:
            one.note("not opened")
            time.sleep(0.05)
