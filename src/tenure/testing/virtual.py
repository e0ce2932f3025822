"""The clients of a virtual clock: the ports of the runtimes, with its time.

Promises: the faces, the protocols and the memory engine as they are; only the clock, the waits and the thread of the
keeper are the test's. Does not promise a wait under asyncio that nobody ends: there the test advances the clock, in
another task than the one that waits.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tenure.async_client import AsyncClient
from tenure.client import Client
from tenure.core import Core
from tenure.engines import memory
from tenure.errors import UsageError
from tenure.model import Instant
from tenure.protocols.keep import keep
from tenure.runtimes import native
from tenure.runtimes.aio import AioRuntime
from tenure.testing.works import Keeper, Life, VirtualInbox

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tenure.config import Settings
    from tenure.engines import Engine
    from tenure.engines.queue import At, Steps
    from tenure.model import Seconds, UtcTime
    from tenure.observe.events import Event
    from tenure.ports import Inbox, QueueStore, Runtime, Signal
    from tenure.protocols.ledger import Ledger
    from tenure.runtimes.aio import Timer
    from tenure.testing.works import Works

R = TypeVar("R")

PATIENCE_S: Final = 10.0
"""Real seconds after which a wait that nobody ends is an error."""

JUMPS_MOST: Final = 200_000
"""Jumps of one wait: two days of a keeper that looks each second."""

_NOBODY: Final = "nobody ends this wait"


class ThreadSignal:
    """As `ports.Signal`, for a thread: it does not wait for time to pass, it makes it pass."""

    def __init__(self, works: Works) -> None:
        self._works = works
        self._set = native.NativeSignal()

    def set(self) -> None:
        self._set.set()

    async def wait(self, until: Instant | None) -> bool:
        self._works.settle()
        for _ in range(JUMPS_MOST):
            if self._set.wait_blocking(Instant(0.0)):
                return True
            if until is not None and self._works.now() >= until:
                return False
            if not self._works.jump(until) and until is None:
                break
        # Another thread may set it yet.
        if not self._set.wait_blocking(Instant(native.now() + PATIENCE_S)):
            raise UsageError(f"wait: {_NOBODY}, however much time passes")
        return True


class TaskSignal:
    """As `ports.Signal`, for a task: another one advances the clock."""

    def __init__(self, runtime: VirtualAioRuntime) -> None:
        self._runtime = runtime
        self._waiter: asyncio.Future[bool] | None = None
        self._is_set = False

    def set(self) -> None:
        self._is_set = True
        if self._waiter is not None:
            _call(self._runtime.loop, self._end, self._waiter, True)

    def _end(self, waiter: asyncio.Future[bool], outcome: bool | None) -> None:
        if waiter.done():
            return
        if outcome is None:
            waiter.set_exception(UsageError(f"wait: {_NOBODY}: advance the clock in another task"))
        else:
            waiter.set_result(outcome)

    async def wait(self, until: Instant | None) -> bool:
        runtime = self._runtime
        runtime.works.settle()
        if not self._is_set:
            waiter = self._waiter = runtime.loop.create_future()
            rescue = runtime.loop.call_later(PATIENCE_S, self._end, waiter, None)
            alarm = None if until is None else runtime.timer(until, lambda: self._end(waiter, False))
            if self._is_set:
                self._end(waiter, True)
            try:
                await waiter
            finally:
                self._waiter = None
                rescue.cancel()
                if alarm is not None:
                    alarm.cancel()
        was_set, self._is_set = self._is_set, False
        return was_set


def _call(loop: asyncio.AbstractEventLoop, do: Callable[..., object], *args: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(do, *args)


class VirtualRuntime:
    """As `ports.Runtime`, for threads and for the keeper."""

    def __init__(self, works: Works) -> None:
        self._works = works
        self.now = works.now

    def utc(self) -> UtcTime:
        return native.utc()

    def new_id(self) -> str:
        return native.new_id()

    def random(self) -> float:
        return 0.5

    def signal(self) -> Signal:
        return ThreadSignal(self._works)

    def mutex(self) -> AbstractContextManager[object]:
        return native.mutex()


class VirtualAioRuntime(AioRuntime):
    """As `AioRuntime`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, works: Works, life: Life) -> None:
        super().__init__(loop)
        self.works = works
        self._life = life
        self.now = works.now
        self.random = lambda: 0.5

    def signal(self) -> Signal:
        return TaskSignal(self)

    def timer(self, at: Instant, do: Callable[[], None]) -> Timer:
        # Whoever moves the clock may be another thread; the loop's own is the one to do it.
        return self.works.timer(self._life, at, lambda: _call(self.loop, do))


class VirtualStore(memory.MemoryStore):
    """The callers' store: before a request of theirs, keepers have done what is due."""

    def __init__(self, hub: memory.MemoryHub, runtime: Runtime, works: Works) -> None:
        super().__init__(hub, runtime)
        self._works = works

    async def run(self, step: Callable[[Steps, At], R], timeout: Seconds) -> R:
        self._works.settle()
        return await super().run(step, timeout)


class VirtualEngine(memory.MemoryEngine):
    """The memory engine, with the stores of a clock."""

    def __init__(self, works: Works, name: str) -> None:
        super().__init__(name)
        self._works = works

    def _find_hub(self, hubs: dict[str, memory.MemoryHub]) -> memory.MemoryHub:  # noqa: ARG002 - those of the process
        return super()._find_hub(self._works.hubs)

    def store(self, runtime: Runtime) -> QueueStore:
        return VirtualStore(self._hub, runtime, self._works)

    def aio_store(self, runtime: AioRuntime) -> QueueStore:
        return VirtualStore(self._hub, runtime, self._works)

    def keeper_store(self, runtime: Runtime) -> QueueStore:  # noqa: ARG002 - it has the clock's own
        return memory.MemoryStore(self._hub, VirtualRuntime(self._works))


class VirtualCore(Core):
    """A client without a thread."""

    def __init__(self, works: Works, settings: Settings, on_event: Callable[[Event], None] | None) -> None:
        self.works = works
        self.life = Life()
        self._keeper: Keeper | None = None
        super().__init__(settings, on_event)
        self.now = works.now

    def _new_engine(self) -> Engine:
        url = str(self.settings.url)
        if not url.startswith("memory://"):
            raise UsageError("url: a virtual clock has memory:// and memory://NAME alone: no server lives by it")
        memory.connect(url, "")  # checks the name
        return VirtualEngine(self.works, url.removeprefix("memory://"))

    def _new_inbox(self) -> Inbox[object]:
        self._inbox = VirtualInbox()
        return self._inbox

    def _start_keeper(self, ledger: Ledger, store: QueueStore) -> None:
        self._keeper = Keeper(self.life, self._inbox, keep(ledger, store, self.engine.tend, self.engine.beats))
        self.works.keep(self._keeper)

    def _await_keeper(self, most: Seconds) -> bool:  # noqa: ARG002 - it takes no time
        self.life.is_paused = False
        self.works.settle()
        return self._keeper is None or self._keeper.is_done


class VirtualClient(Client):
    """A `Client` that lives by a virtual clock; made by `VirtualClock.client`."""

    def __init__(self, works: Works, url: str, settings: dict[str, Any]) -> None:
        self._works = works
        super().__init__(url, **settings)

    def _new_core(self, settings: Settings, on_event: Callable[[Event], None] | None) -> Core:
        return VirtualCore(self._works, settings, on_event)

    def _new_runtime(self) -> Runtime:
        return VirtualRuntime(self._works)


class VirtualAsyncClient(AsyncClient):
    """An `AsyncClient` that lives by a virtual clock; made by `VirtualClock.async_client`."""

    def __init__(self, works: Works, url: str, settings: dict[str, Any]) -> None:
        self._works = works
        super().__init__(url, **settings)

    def _new_core(self, settings: Settings, on_event: Callable[[Event], None] | None) -> Core:
        self._virtual = VirtualCore(self._works, settings, on_event)
        return self._virtual

    def _new_runtime(self, loop: asyncio.AbstractEventLoop) -> AioRuntime:
        return VirtualAioRuntime(loop, self._works, self._virtual.life)
