"""The operating system's own threads, locks and clocks, whatever gevent has patched.

Promises: what comes from here blocks and wakes a whole OS thread and never a greenlet, so that the keeper beats also
while a greenlet is busy, and may be used from any thread, a finalizer or a signal handler.
Does not promise fairness to greenlets: nothing here is held across a wait, so there is nothing to be fair about.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from binascii import b2a_base64
from collections import deque
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from tenure.model import Instant, UtcTime

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

T = TypeVar("T")

_URLSAFE = bytes.maketrans(b"+/", b"-_")
_CLOCK = getattr(time, "CLOCK_BOOTTIME", None) or getattr(time, "CLOCK_MONOTONIC", None)

now: Callable[[], Instant] = cast(
    "Callable[[], Instant]", time.monotonic if _CLOCK is None else functools.partial(time.clock_gettime, _CLOCK)
)
"""The boot-time clock: it runs on through suspend (Linux); the monotonic clock elsewhere. Every lease asks it often."""


def utc() -> UtcTime:
    """The wall clock."""
    return UtcTime(time.time())


def new_id() -> str:
    """A fresh random id of 128 bits in 22 letters, digits, dashes and underscores.

    The kernel's randomness is not copied by fork. Short, because every claim and every message carries one.
    """
    return b2a_base64(os.urandom(16), newline=False)[:22].translate(_URLSAFE).decode()


def original(module: str, name: str) -> Any:
    """A function of the standard library as it was before gevent patched it; None if there is none."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None:
        return monkey.get_original(module, name)
    return getattr(sys.modules.get(module) or import_module(module), name, None)


def is_patched() -> bool:
    """Whether gevent has replaced blocking calls, so that a waiter must wait through them to let others run."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and (monkey.is_module_patched("threading") or monkey.is_module_patched("socket"))


def mutex() -> AbstractContextManager[object]:
    """A lock of OS threads, for decisions that wait for nothing."""
    lock: AbstractContextManager[object] = original("_thread", "allocate_lock")()
    return lock


def start_thread(run: Callable[[], None]) -> None:
    """Start an OS thread that does not keep the interpreter alive."""
    original("_thread", "start_new_thread")(run, ())


class NativeSignal:
    """Wakes one OS thread.

    A lock that is held until it is set: letting go of it is safe in finalizers and signal handlers, unlike an Event.
    So is a SimpleQueue, but before Python 3.13 a `get` whose thread pauses for longer than is left of its timeout, or
    runs a signal handler for that long, waits for ever.
    """

    __slots__ = ("_unset",)

    def __init__(self) -> None:
        self._unset = original("_thread", "allocate_lock")()
        self._unset.acquire()

    def set(self) -> None:
        """Wake the waiter, now or when it comes."""
        try:  # noqa: SIM105 - suppress() costs as much again, for each that is woken
            self._unset.release()
        except RuntimeError:  # it is set already
            pass

    def wait_blocking(self, until: Instant | None) -> bool:
        """Block this thread until set or until an instant."""
        # An hour at most: a timer's range ends somewhere, and looking once more is harmless.
        seconds = -1.0 if until is None else min(max(0.0, until - now()), 3600.0)
        was_set: bool = self._unset.acquire(True, seconds)
        return was_set

    async def wait(self, until: Instant | None) -> bool:
        """As `Signal.wait`."""
        return self.wait_blocking(until)


class NativeInbox(Generic[T]):
    """The keeper's queue."""

    __slots__ = ("_items", "_signal")

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._signal = NativeSignal()

    def put(self, item: T) -> None:
        """Never waits; safe from any thread, a finalizer or a signal handler."""
        try:
            self._items.append(item)
        finally:
            # Also if Ctrl-C came right after it.
            self._signal.set()

    async def get(self, until: Instant) -> list[T]:
        """Everything that has come, after waiting for the first."""
        # What was taken without a wait leaves its signal set.
        while not self._items and self._signal.wait_blocking(until):
            pass
        items: list[T] = []
        while self._items:
            items.append(self._items.popleft())
        return items
