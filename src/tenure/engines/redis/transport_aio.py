"""Requests of the tasks of one loop, over one connection: many are under way, and replies come in order.

Promises: requests of one turn of the loop go out in one write; a cancelled request leaves the connection in order, for
its reply is taken and thrown away.
Does not promise to work on a loop that cannot watch sockets (Windows' proactor loop).
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tenure.engines.redis.mailbox import RedisMailbox
from tenure.errors import OutcomeUnknown, StoreUnavailable
from tenure.runtimes.aio import readable

if TYPE_CHECKING:
    import selectors
    from collections.abc import Callable, Sequence

    from tenure.engines.redis.pipe import Pipe
    from tenure.model import Seconds
    from tenure.runtimes.aio import AioRuntime


class _Request:
    """Commands of one caller, and the replies that have come."""

    __slots__ = ("answers", "future", "replies")

    def __init__(self, future: asyncio.Future[list[Any]], replies: int) -> None:
        self.future = future
        self.replies = replies
        self.answers: list[Any] = []


class AioWire:
    """As `store.Wire`. Belongs to one loop; made in any thread."""

    def __init__(self, open_pipe: Callable[[Seconds], Pipe], loop: asyncio.AbstractEventLoop) -> None:
        self._open = open_pipe
        self._loop = loop
        self._pipe: Pipe | None = None
        self._opening: asyncio.Future[Pipe] | None = None
        self._requests: deque[_Request] = deque()
        self._out: list[bytes] = []
        self._is_writing = False
        """A write is due in this turn of the loop, or when the kernel takes more."""
        self._is_full = False
        """The loop watches for when the kernel takes more."""
        self._is_shut = False

    async def exchange(self, payload: bytes, replies: int, timeout: Seconds) -> list[Any]:
        """As `Wire.exchange`.

        Cancellation: safe; the request may still have its effect.
        """
        if self._pipe is None:
            await self._connect(timeout)
        request = _Request(self._loop.create_future(), replies)
        self._requests.append(request)
        self._out.append(payload)
        if not self._is_writing:
            self._is_writing = True
            self._loop.call_soon(self._write)
        timer = self._loop.call_later(timeout, self._expire, request, timeout)
        try:
            return await request.future
        finally:
            timer.cancel()

    async def _connect(self, timeout: Seconds) -> None:
        while self._pipe is None:
            if self._is_shut:
                raise StoreUnavailable("this client was closed")
            if self._opening is None or self._opening.done():
                # Connecting blocks, and the loop must not. Shielded: a cancelled caller does not cancel it for others.
                self._opening = self._loop.run_in_executor(None, self._open, timeout)
                self._opening.add_done_callback(self._opened)
            await asyncio.shield(self._opening)

    def _opened(self, opening: asyncio.Future[Pipe]) -> None:
        if opening.cancelled() or opening.exception() is not None:
            return  # whoever waits is told
        pipe = opening.result()
        if self._is_shut:
            pipe.close()
            return
        pipe.unblock()
        self._pipe = pipe
        self._loop.add_reader(pipe.fileno(), self._read)

    def _write(self) -> None:
        self._is_writing = False
        pipe = self._pipe
        if pipe is None or not self._out:
            return
        payload = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        try:
            rest = pipe.send(payload)
        except OSError as error:
            self._fail(OutcomeUnknown(f"the connection to Redis broke during a request: {error}"))
            return
        self._out = [rest] if rest else []
        if rest:
            self._is_writing = True
            if not self._is_full:
                self._is_full = True
                self._loop.add_writer(pipe.fileno(), self._write)
        elif self._is_full:
            self._is_full = False
            self._loop.remove_writer(pipe.fileno())

    def _read(self) -> None:
        pipe = self._pipe
        if pipe is None:
            return
        try:
            answers = pipe.take()
        except OSError as error:
            self._fail(OutcomeUnknown(f"the connection to Redis broke during a request: {error}"))
            return
        requests = self._requests
        for answer in answers:
            request = requests[0]
            request.answers.append(answer)
            if len(request.answers) == request.replies:
                requests.popleft()
                if not request.future.done():
                    request.future.set_result(request.answers)

    def _expire(self, request: _Request, timeout: Seconds) -> None:
        if not request.future.done():
            # All behind it wait for the same server; what it answers after this must not be taken for a new request's.
            self._fail(OutcomeUnknown(f"Redis did not answer within {timeout:.3g} s"))

    def _fail(self, error: OutcomeUnknown) -> None:
        """Give the connection up: whatever was under way may or may not have had its effect."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            with suppress(OSError, ValueError):
                self._loop.remove_reader(pipe.fileno())
                self._loop.remove_writer(pipe.fileno())
            pipe.close()
        requests, self._requests, self._out = self._requests, deque(), []
        self._is_writing = self._is_full = False
        for request in requests:
            if not request.future.done():
                # One for each: they are raised in different tasks, and each adds its own traceback.
                request.future.set_exception(OutcomeUnknown(*error.args))

    def forget(self) -> None:
        self._fail(OutcomeUnknown("the server is no master any more"))

    def shut(self) -> None:
        """Close the connection, from any thread; whoever waits is told."""
        self._is_shut = True
        try:
            self._loop.call_soon_threadsafe(self._fail, OutcomeUnknown("this client was closed"))
        except RuntimeError:  # the loop is closed: nobody awaits any more
            self.disown()

    def disown(self) -> None:
        """Close the connection without touching the loop, which is over or, in a forked child, the parent's."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()


class AioMailbox(RedisMailbox):
    """The mailbox for waiting tasks."""

    def __init__(self, key: str, runtime: AioRuntime, open_pipe: Callable[[Seconds], Pipe]) -> None:
        super().__init__(key, runtime)
        self._dial = open_pipe
        self._loop = runtime.loop

    async def _open(self, timeout: Seconds) -> Pipe:
        opening = self._loop.run_in_executor(None, self._dial, timeout)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_discard)
            raise

    async def _ready(self, selector: selectors.BaseSelector, seconds: Seconds) -> Sequence[tuple[Any, int]]:
        events = selector.select(0)
        if not events:
            await readable(selector, seconds)
            events = selector.select(0)
        return events

    def _me(self) -> object:
        return asyncio.current_task()


def _discard(opening: asyncio.Future[Pipe]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
