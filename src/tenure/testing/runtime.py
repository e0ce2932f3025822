"""The simulated runtime: `tenure.ports.Runtime` for the tasks of one simulated process.

Promises: the time is that of the process; a wait ends by the world's decision alone; a mutex that is held across an
await, or taken twice, fails the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from tenure.model import Instant, UtcTime
from tenure.testing.world import Park

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tenure.testing.world import Process

T = TypeVar("T")


class SimSignal:
    """As `ports.Signal`."""

    __slots__ = ("_is_set", "_park", "_process")

    def __init__(self, process: Process) -> None:
        self._process = process
        self._is_set = False
        self._park: Park | None = None

    def set(self) -> None:
        self._is_set = True
        if self._park is not None:
            self._park.resolve()

    async def wait(self, until: Instant | None) -> bool:
        if not self._is_set:
            park = self._park = Park()
            if until is not None and until != float("inf"):
                self._process.at(until, park.resolve)
            try:
                await park
            finally:
                if self._park is park:
                    self._park = None
        was_set, self._is_set = self._is_set, False
        return was_set


class SimInbox(Generic[T]):
    """As `ports.Inbox`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._signal = SimSignal(process)
        self._items: list[T] = []

    def put(self, item: T) -> None:
        self._items.append(item)
        self._signal.set()

    async def get(self, until: Instant) -> list[T]:
        if not self._items:
            # Also where the time is over: the world must see, and count, a keeper that spins.
            await self._signal.wait(until)
        items, self._items = self._items, []
        return items


class SimMutex:
    """A mutex that nobody ever waits for: whoever would have to has found a fault."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._is_held = False

    def __enter__(self) -> Self:
        if self._is_held:
            raise AssertionError(f"{self._process.name} takes a mutex that it holds: a thread would wait for itself")
        self._is_held = True
        self._process.mutexes_held += 1
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_held = False
        self._process.mutexes_held -= 1


class SimRuntime:
    """As `ports.Runtime`."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.now = process.now
        self._ids = 0

    def utc(self) -> UtcTime:
        return UtcTime(self.process.world.time)

    def new_id(self) -> str:
        # Unique by its number, and readable in a trace; the seed needs no part in it.
        self._ids += 1
        return f"{self.process.name}.{self._ids}"

    def random(self) -> float:
        return self.process.world.rng.random()

    def signal(self) -> SimSignal:
        return SimSignal(self.process)

    def mutex(self) -> AbstractContextManager[Any]:
        return SimMutex(self.process)

    async def sleep(self, seconds: float) -> None:
        """Sleep by the process's clock; for the simulated programs, not a port."""
        park = Park()
        self.process.at(self.process.now() + seconds, park.resolve)
        await park
