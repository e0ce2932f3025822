"""The works of a virtual clock: what is due when, and who does it.

Promises: nothing happens but in a call of the test's; what is due is done in the order of its instants, alarms before
keepers, keepers in the order in which they came. Does not promise anything to threads that run at once: whoever moves
the clock moves it for all.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from tenure.model import Instant
from tenure.testing.world import Park

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tenure.engines.memory import MemoryHub

STEPS_MOST: Final = 10_000
"""Steps of keepers at one instant: more is a loop that makes no progress."""


class Life:
    """Whether one client's process runs: a paused one does nothing, and its time passes all the same."""

    def __init__(self) -> None:
        self.is_paused = False


class VirtualInbox:
    """As `ports.Inbox`, for a keeper that is stepped."""

    def __init__(self) -> None:
        self._items: deque[object] = deque()
        self.until = float("-inf")

    def put(self, item: object) -> None:
        self._items.append(item)

    def is_due(self, now: float) -> bool:
        """Whether the keeper has something to do."""
        return bool(self._items) or now >= self.until

    async def get(self, until: Instant) -> list[object]:
        self.until = until
        await Park()
        items = []
        while self._items:
            items.append(self._items.popleft())
        return items


class Keeper:
    """The keeper of one client, stepped by hand."""

    def __init__(self, life: Life, inbox: VirtualInbox, steps: Coroutine[Any, Any, None]) -> None:
        self.life = life
        self.inbox = inbox
        self.steps = steps
        self.is_done = False

    def step(self) -> None:
        """Let it go on to its next wait."""
        try:
            self.steps.send(None)
        except StopIteration:
            self.is_done = True


class Alarm:
    """Something to be done at an instant."""

    def __init__(self, life: Life, do: Callable[[], None]) -> None:
        self.life = life
        self.do: Callable[[], None] | None = do

    def cancel(self) -> None:
        """Do nothing at its instant."""
        self.do = None


class Works:
    """Time, and all that happens in it."""

    def __init__(self) -> None:
        self._time = 0.0
        self._lock = threading.RLock()
        self._is_settling = False
        self._keepers: list[Keeper] = []
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._order = itertools.count()
        self.hubs: dict[str, MemoryHub] = {}
        """The stores by the names of their URLs; another clock has others."""

    def now(self) -> Instant:
        """Seconds since it was made."""
        return Instant(self._time)

    def advance(self, end: float) -> None:
        """Go on to an instant, through all that happens until then."""
        with self._lock:
            while self.jump(end):
                pass

    def jump(self, end: float | None) -> bool:
        """Go on to the next instant at which something happens, `end` at the latest.

        Returns:
            Whether there was one before `end`, or, where that is None, at all.
        """
        with self._lock:
            self.settle()
            due = self._due()
            at = due if end is None else min(due, end)
            if at == float("inf"):
                return False
            self._time = max(self._time, at)
            self.settle()
            return end is None or at < end

    def settle(self) -> None:
        """Do all that is due by now. Whoever is at it already is not disturbed."""
        with self._lock:
            if self._is_settling:
                return
            self._is_settling = True
            try:
                for _ in range(STEPS_MOST):
                    if not self._step():
                        return
            finally:
                self._is_settling = False
        raise RuntimeError(f"{STEPS_MOST} steps at one instant: a keeper spins")

    def keep(self, keeper: Keeper) -> None:
        """Run a keeper from now on."""
        with self._lock:
            self._keepers.append(keeper)

    def timer(self, life: Life, at: Instant, do: Callable[[], None]) -> Alarm:
        """Do something at an instant, or when a process that is paused then goes on."""
        alarm = Alarm(life, do)
        with self._lock:
            heapq.heappush(self._alarms, (at, next(self._order), alarm))
        return alarm

    def _step(self) -> bool:
        """Do one thing that is due; whether there was one."""
        for at in self._alarms:
            if at[0] <= self._time and not at[2].life.is_paused:
                self._alarms.remove(at)
                heapq.heapify(self._alarms)
                if at[2].do is not None:
                    at[2].do()
                return True
        for keeper in self._keepers:
            if not keeper.life.is_paused and keeper.inbox.is_due(self._time):
                keeper.step()
                if keeper.is_done:
                    self._keepers.remove(keeper)
                return True
        return False

    def _due(self) -> float:
        """When the next thing happens that has not happened yet."""
        instants = [at for at, _, alarm in self._alarms if alarm.do is not None and not alarm.life.is_paused]
        instants += [keeper.inbox.until for keeper in self._keepers if not keeper.life.is_paused]
        return min(instants, default=float("inf"))
