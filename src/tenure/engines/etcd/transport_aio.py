"""Requests of the tasks of one loop, over one connection: many are under way, each on a stream of its own.

Promises: requests of one turn of the loop go out in one write; a cancelled request's stream is given up, and the
connection stays in order.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

from tenure.engines.connecting_aio import Connecting
from tenure.engines.etcd.mailbox import EtcdMailbox
from tenure.engines.etcd.pipe import Refused
from tenure.engines.listening_aio import ByTask
from tenure.errors import OutcomeUnknown, StoreUnavailable

if TYPE_CHECKING:
    from tenure.engines.etcd.dial import Dialer
    from tenure.engines.etcd.pipe import Pipe
    from tenure.model import Seconds


class _Request:
    """A request of one caller, and what has come of it."""

    __slots__ = ("future", "message", "messages", "path", "sent_at", "stream")

    def __init__(self, future: asyncio.Future[list[bytes]], path: str, message: bytes) -> None:
        self.future = future
        self.path = path
        self.message = message
        self.messages: list[bytes] = []
        self.stream = 0
        self.sent_at = 0.0


class AioWire(Connecting["Pipe"]):
    """As `store.Wire`. Belongs to one loop; made in any thread."""

    def __init__(self, dialer: Dialer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._dialer = dialer
        self._requests: dict[int, _Request] = {}
        self._backlog: deque[_Request] = deque()
        """Not begun: the server allows no more streams."""
        self._out = b""
        self._is_writing = False
        """A write is due in this turn of the loop, or when the kernel takes more."""
        self._is_full = False
        """The loop watches for when the kernel takes more."""
        self._heard_at = 0.0

    def _dial(self, timeout: Seconds) -> Pipe:
        return self._dialer.dial(timeout)

    def _is_connected(self) -> bool:
        return self._pipe is not None and not self._pipe.http2.is_spent

    async def exchange(self, path: str, message: bytes, timeout: Seconds) -> list[bytes]:
        """As `Wire.exchange`.

        Cancellation: safe; the request may still have its effect.
        """
        end = time.monotonic() + timeout
        if not self._is_connected():
            await self._connect(timeout)
        request = _Request(self._loop.create_future(), path, message)
        self._backlog.append(request)
        self._begin()
        timer = self._loop.call_later(max(0.0, end - time.monotonic()), self._expire, request, timeout)
        try:
            return await request.future
        except asyncio.CancelledError:
            self._give_up(request)
            raise
        finally:
            timer.cancel()

    def _begin(self) -> None:
        """Open streams for what waits, as far as the server allows it."""
        pipe = self._pipe
        if pipe is None:
            return
        http2 = pipe.http2
        while self._backlog and not http2.is_full:
            request = self._backlog.popleft()
            if not request.future.done():
                request.sent_at = time.monotonic()
                request.stream = http2.request(request.path, request.message, token=self._dialer.token)
                self._requests[request.stream] = request
        self._write_soon()

    def _write_soon(self) -> None:
        if self._pipe is None or self._is_writing:
            return
        if self._out or self._pipe.http2.out or self._pipe.http2.pongs:
            self._is_writing = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._is_writing = False
        pipe = self._pipe
        if pipe is None:
            return
        payload = self._out + pipe.http2.take()
        if not payload:
            return
        try:
            self._out = pipe.send(payload)
        except OSError as error:
            self._broke(error)
            return
        if self._out:
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
        self._heard_at = time.monotonic()
        try:
            answers = pipe.take()
        except (OSError, ValueError) as error:
            self._broke(error)
            return
        for answer in answers:
            request = self._requests.get(answer.stream)
            if request is None:
                continue
            request.messages += answer.messages
            if answer.status is None:
                continue
            del self._requests[answer.stream]
            if request.future.done():
                continue
            if answer.status:
                request.future.set_exception(Refused(answer.status, answer.text, answer.untouched))
            else:
                request.future.set_result(request.messages)
        self._begin()

    def _give_up(self, request: _Request) -> None:
        """Nobody waits for it any more."""
        if self._requests.pop(request.stream, None) is not None and self._pipe is not None:
            self._pipe.http2.cancel(request.stream)
            self._write_soon()

    def _expire(self, request: _Request, timeout: Seconds) -> None:
        if request.future.done():
            return
        if not request.stream:
            request.future.set_exception(StoreUnavailable(f"etcd allowed no further request within {timeout:.3g} s"))
            return
        if self._heard_at < request.sent_at:
            # Not a word since: the node is stopped or cut off, and all requests wait for the same one.
            if self._pipe is not None:
                self._dialer.avoid(self._pipe.address)
            self._fail(OutcomeUnknown(f"etcd did not answer within {timeout:.3g} s"))
            return
        self._give_up(request)
        request.future.set_exception(OutcomeUnknown(f"etcd did not answer within {timeout:.3g} s"))

    def _broke(self, error: Exception) -> None:
        if self._pipe is not None:
            self._dialer.avoid(self._pipe.address)
        self._fail(OutcomeUnknown(f"the connection to etcd broke during a request: {error}"))

    def _fail(self, error: OutcomeUnknown) -> None:
        """Give the connection up: whatever was under way may or may not have had its effect."""
        self._hang_up()
        requests, self._requests, self._out = [*self._requests.values(), *self._backlog], {}, b""
        self._backlog.clear()
        self._is_writing = self._is_full = False
        for request in requests:
            if not request.future.done():
                # One for each: they are raised in different tasks, and each adds its own traceback.
                kind = OutcomeUnknown if request.stream else StoreUnavailable
                request.future.set_exception(kind(*error.args))

    def forget(self) -> None:
        if self._pipe is not None:
            self._dialer.avoid(self._pipe.address)
        self._fail(OutcomeUnknown("this node cannot serve"))


class AioMailbox(ByTask, EtcdMailbox):
    """The mailbox for waiting tasks."""
