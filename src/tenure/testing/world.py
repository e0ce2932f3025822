"""A seeded world: virtual time, processes with clocks of their own, tasks stepped by hand.

Promises: the same seed gives the same run, in another process and under another PYTHONHASHSEED; no real time, no
threads, no hash order. A process may be paused (all that happens to it is put off), resumed and crashed; a task may be
cancelled at any await, or vanish as a killed thread does.
Does not promise to interleave what runs between two awaits: a step of a task is atomic here, in a thread it is not.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenure.model import Instant

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

EVENTS_MOST: Final = 300_000
"""Events of one run, at most: fifty times the usual; more is a loop that makes no progress."""

LAG: Final = 5e-5
"""Seconds, at most, between the end of a wait and the step that follows it, where nothing starves the task."""


class Cancelled(BaseException):
    """A task is cancelled at its await."""


class Line(NamedTuple):
    """One line of the trace."""

    at: float
    who: str
    what: str


class Park:
    """What a port awaits: the task is stepped again when the world resolves it."""

    __slots__ = ("is_done", "task")

    def __init__(self) -> None:
        self.task: Task | None = None
        self.is_done = False

    def __await__(self) -> Generator[Park, Any, Any]:
        return (yield self)

    def resolve(self, value: object = None) -> None:
        """Let the task go on with a value; only the first call counts."""
        self._finish(value, None)

    def fail(self, error: BaseException) -> None:
        """Raise an error in the task; only the first call counts."""
        self._finish(None, error)

    def _finish(self, value: object, error: BaseException | None) -> None:
        if not self.is_done and self.task is not None:
            self.is_done = True
            self.task.wake(self, value, error)


class Process:
    """A process or node: its clock, whether it runs, and what waits for it to run again."""

    def __init__(self, world: World, name: str, rate: float = 1.0, offset: float = 0.0) -> None:
        self.world = world
        self.name = name
        self.rate = rate
        self.offset = offset
        self.is_alive = True
        self.is_paused = False
        self.pauses: list[tuple[float, float]] = []
        self.mutexes_held = 0
        self.pause_armed: float | None = None
        """How long it will be paused as soon as it has sent its next request: the worst moment."""
        self.after: Callable[[], None] | None = None
        """Called after each thing that happens to it."""
        self._paused_at = 0.0
        self._deferred: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def now(self) -> Instant:
        """Its boot-time clock."""
        return Instant(self.offset + self.world.time * self.rate)

    def true(self, instant: float) -> float:
        """World time at which its clock reads `instant`."""
        return (instant - self.offset) / self.rate

    def at(self, instant: float, do: Callable[..., None], *args: Any) -> None:
        """Do something when its clock reads `instant`."""
        self.world.at(max(self.world.time, self.true(instant)), self, do, *args)

    def pause(self) -> None:
        """Stop it, as SIGSTOP or a suspended machine does; its clock runs on."""
        if self.is_alive and not self.is_paused:
            self.is_paused = True
            self._paused_at = self.world.time

    def sent(self) -> None:
        """It has just sent a request: an armed pause begins."""
        if self.pause_armed is not None:
            self.world.after(0.0, None, self.pause)
            self.world.after(self.pause_armed, None, self.resume)
            self.pause_armed = None

    def resume(self) -> None:
        """Let it go on. What came meanwhile happens now, in an order that the seed decides."""
        if not self.is_paused:
            return
        self.is_paused = False
        self.pauses.append((self._paused_at, self.world.time))
        deferred, self._deferred = self._deferred, []
        for do, args in deferred:
            self.world.after(self.world.rng.random() * 0.002, self, do, *args)

    def defer(self, do: Callable[..., None], args: tuple[Any, ...]) -> None:
        """Keep for later what happens to a paused process."""
        self._deferred.append((do, args))

    def crash(self) -> None:
        """End it at once; nothing of it runs again."""
        self.is_alive = False
        self.pauses.append((self._paused_at if self.is_paused else self.world.time, float("inf")))
        self._deferred.clear()


class Task:
    """A coroutine of a process."""

    def __init__(self, process: Process, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        self.process = process
        self.world = process.world
        self.name = name
        self.is_done = False
        self.may_starve = True
        self.is_doomed = False
        """To be cancelled as soon as a request of its has had its effect."""
        self._coroutine = coroutine
        self._park: Park | None = None
        self._has_begun = False
        self._is_cancelled = False
        self.world.tasks.append(self)
        self.world.after(self._lag(), process, self._step, None, None)

    def wake(self, park: Park, value: object, error: BaseException | None) -> None:
        """Step it soon with what its park was resolved to."""
        self.world.after(self._lag(), self.process, self._resume, park, value, error)

    def cancel(self) -> None:
        """Raise `Cancelled` at its await, or at its next one."""
        if self.is_done:
            return
        if self._park is None:
            self._is_cancelled = True
        else:
            self._park.is_done = True
            self.world.after(self._lag(), self.process, self._resume, self._park, None, Cancelled())

    def vanish(self) -> None:
        """Never step it again, as when its thread is killed: no handler and no `finally` runs."""
        self.is_done = True

    def discard(self) -> None:
        """Throw it away if it never began: Python warns of a coroutine that nobody awaited."""
        if not self._has_begun:
            self._coroutine.close()

    def _lag(self) -> float:
        world = self.world
        draw = world.rng.random()
        if draw < world.starve and self.may_starve:
            # A thread that is not scheduled, a loop that is blocked: the rest of its process runs on.
            return world.rng.random() * world.starve_most
        return draw * LAG

    def _resume(self, park: Park, value: object, error: BaseException | None) -> None:
        if self._park is park:
            self._park = None
            self._step(value, error)

    def _step(self, value: object, error: BaseException | None) -> None:
        if self.is_done:
            return
        self.world.current = self
        self._has_begun = True
        try:
            park = self._coroutine.send(value) if error is None else self._coroutine.throw(error)
        except StopIteration:
            self.is_done = True
            return
        except Cancelled:
            self.is_done = True
            return
        finally:
            self.world.current = None
        if self.process.mutexes_held:
            raise AssertionError(f"{self.name} awaits while it holds a mutex")
        if not isinstance(park, Park):
            raise AssertionError(f"{self.name} awaited {park!r}, which is no port")
        park.task = self
        self._park = park
        if self._is_cancelled:
            self._is_cancelled = False
            self.cancel()


class World:
    """The event heap, the clock, the seed and the trace."""

    def __init__(self, seed: int, *, traced: bool = False) -> None:
        self.seed = seed
        self.rng = random.Random(seed)  # noqa: S311 - a schedule, not a secret
        self.time = 0.0
        self.current: Task | None = None
        self.tasks: list[Task] = []
        self.starve = 0.0
        self.starve_most = 0.0
        self.events = 0
        self.lines: list[Line] = []
        self.is_traced = traced
        self._digest = hashlib.blake2b(digest_size=16)
        self._heap: list[tuple[float, int, Process | None, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0

    def at(self, time: float, process: Process | None, do: Callable[..., None], *args: Any) -> None:
        """Do something at a world time, to a process or to the world itself."""
        self._sequence += 1
        heapq.heappush(self._heap, (time, self._sequence, process, do, args))

    def after(self, delay: float, process: Process | None, do: Callable[..., None], *args: Any) -> None:
        """Do something `delay` seconds from now."""
        self.at(self.time + delay, process, do, *args)

    def run(self, until: float) -> None:
        """Let everything happen that is due by `until`."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.time, _, process, do, args = heapq.heappop(heap)
            self.events += 1
            if process is None:
                do(*args)
            elif process.is_paused:
                process.defer(do, args)
            elif process.is_alive:
                do(*args)
                if process.after is not None:
                    process.after()
            if self.events > EVENTS_MOST:
                raise RuntimeError(f"{self.events} events: something spins")
        self.time = until

    def note(self, who: str, what: str, key: object = "", detail: object = None) -> None:
        """Write a line of the trace. `detail` is shown but, for speed, is no part of the digest."""
        self._digest.update(f"{self.time!r} {who} {what} {key}\n".encode())
        if self.is_traced:
            shown = "" if detail is None else f" {detail}"
            self.lines.append(Line(self.time, who, f"{what} {key}{shown}"))

    @property
    def digest(self) -> str:
        """Of all lines of the trace so far, and of the state of the dice."""
        both = self._digest.copy()
        both.update(repr(self.rng.random()).encode())
        return both.hexdigest()
