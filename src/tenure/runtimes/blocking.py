"""The blocking runtime: ports block the calling thread and return, so a protocol runs to its end in one step.

Promises: `run` costs about a microsecond over plain calls; Ctrl-C interrupts a wait.
Does not promise to work under an event loop: there it would block the loop.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
from typing import TYPE_CHECKING, Any, TypeVar

from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from contextlib import AbstractContextManager

    from tenure.model import Instant
    from tenure.ports import Signal

R = TypeVar("R")


def run(protocol: Coroutine[Any, Any, R]) -> R:
    """Run a protocol whose ports block."""
    try:
        protocol.send(None)
    except StopIteration as done:
        result: R = done.value
        return result
    protocol.close()
    raise RuntimeError("a blocking port suspended; this is a fault of the port")


class GreenSignal:
    """Wakes one greenlet from any OS thread, through a pipe that gevent can wait for."""

    __slots__ = ("_read", "_write")

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def __del__(self) -> None:
        os.close(self._read)
        os.close(self._write)

    def set(self) -> None:
        """Wake the waiter, now or when it comes."""
        with contextlib.suppress(BlockingIOError):  # a full pipe is set
            os.write(self._write, b"!")

    async def wait(self, until: Instant | None) -> bool:
        """As `Signal.wait`; other greenlets run meanwhile."""
        timeout = None if until is None else max(0.0, until - native.now())
        ready, _, _ = select.select([self._read], [], [], timeout)
        if not ready:
            return False
        os.read(self._read, 64)
        return True


class BlockingRuntime:
    """Time, randomness and waiting for threads; under gevent's patches, for greenlets."""

    now = staticmethod(native.now)
    utc = staticmethod(native.utc)
    new_id = staticmethod(native.new_id)
    random = staticmethod(random.random)

    def signal(self) -> Signal:
        """A signal for a thread, or a greenlet."""
        return GreenSignal() if native.is_patched() else native.NativeSignal()

    def mutex(self) -> AbstractContextManager[object]:
        """A lock for decisions."""
        return native.mutex()


class KeeperRuntime(BlockingRuntime):
    """For the keeper: always an OS thread."""

    def signal(self) -> Signal:
        """A signal for an OS thread."""
        return native.NativeSignal()
