"""The asyncio runtime: ports suspend the caller's own task.

Promises: a signal may be set from any thread; a wait ends at its instant also if the loop was busy meanwhile.
Does not promise that timers run through a suspended machine: the keeper, which looks at the boot-time clock, wakes
whoever waits.
"""

from __future__ import annotations

import asyncio
import random
import threading
from typing import TYPE_CHECKING, Final, Protocol

from tenure.runtimes import native

if TYPE_CHECKING:
    import selectors
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tenure.model import Instant
    from tenure.ports import Signal

POLL_S: Final = 0.05
"""Seconds between looks where the loop cannot watch a selector."""


class Timer(Protocol):
    """What was put off, and may be called off."""

    def cancel(self) -> None:
        """Do nothing at its instant; at once."""
        ...


class LoopSignal:
    """Wakes one task of one loop, from any thread."""

    __slots__ = ("_is_set", "_loop", "_thread", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        self._loop = loop
        self._thread = thread
        self._waiter: asyncio.Future[bool] | None = None
        self._is_set = False

    def set(self) -> None:
        """Wake the waiter, now or when it comes."""
        self._is_set = True
        if self._waiter is None:
            return
        if threading.get_ident() == self._thread:
            self._wake()
            return
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(True)

    def _expire(self, waiter: asyncio.Future[bool]) -> None:
        if not waiter.done():
            waiter.set_result(False)

    async def wait(self, until: Instant | None) -> bool:
        """As `Signal.wait`."""
        if not self._is_set:
            waiter = self._waiter = self._loop.create_future()
            # Looked at again with the waiter in place: another thread may have set it in between.
            if self._is_set:
                self._wake()
            timer = None
            if until is not None:
                timer = self._loop.call_later(max(0.0, until - native.now()), self._expire, waiter)
            try:
                await waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        was_set, self._is_set = self._is_set, False
        return was_set


class AioRuntime:
    """Time, randomness and waiting for the tasks of one loop."""

    now = staticmethod(native.now)
    utc = staticmethod(native.utc)
    new_id = staticmethod(native.new_id)
    random = staticmethod(random.random)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Made in the loop's own thread."""
        self.loop = loop
        self._thread = threading.get_ident()

    def signal(self) -> Signal:
        """A signal for a task."""
        return LoopSignal(self.loop, self._thread)

    def mutex(self) -> AbstractContextManager[object]:
        """A lock for decisions, shared with the keeper's thread; nobody awaits under it."""
        return native.mutex()

    def timer(self, at: Instant, do: Callable[[], None]) -> Timer:
        """Do something at an instant, as a callback of the loop."""
        return self.loop.call_later(max(0.0, at - native.now()), do)


async def readable(selector: selectors.BaseSelector, seconds: float | None) -> None:
    """Wait until something can be heard, or for so many seconds.

    The loop watches one descriptor, that of the selector itself, and only meanwhile: registered for good, it would
    turn the loop in circles whenever a message lies there that nobody takes.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    fd: int = getattr(selector, "fileno", lambda: -1)()
    if fd < 0:
        # No epoll or kqueue (patched away): poll.
        seconds = POLL_S if seconds is None else min(seconds, POLL_S)
    else:
        loop.add_reader(fd, _finish, future)
    timer = None if seconds is None else loop.call_later(seconds, _finish, future)
    try:
        await future
    finally:
        if timer is not None:
            timer.cancel()
        if fd >= 0:
            loop.remove_reader(fd)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
