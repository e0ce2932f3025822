"""Requests of calling threads: a connection each while it lasts, taken from a small stock.

Promises: an exchange that was interrupted, also by Ctrl-C, leaves no connection behind on which a late reply could be
taken for another request's.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from tenure.engines.listening import ByThread
from tenure.engines.redis.mailbox import RedisMailbox
from tenure.errors import OutcomeUnknown, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenure.engines.redis.pipe import Pipe
    from tenure.model import Seconds

CONNECTIONS_MOST: Final = 8
"""Of one client, for its calling threads; more of them wait for each other."""


class BlockingWire:
    """As `store.Wire`."""

    def __init__(self, open_pipe: Callable[[Seconds], Pipe], most: int = CONNECTIONS_MOST) -> None:
        self._open = open_pipe
        self._idle: deque[Pipe] = deque()
        self._most = most
        self._made = 0
        # Under gevent's patches these are greenlets' locks, which is right: the keeper has a wire of its own.
        self._changed = threading.Condition()
        self._is_shut = False

    async def exchange(self, payload: bytes, replies: int, timeout: Seconds) -> list[Any]:
        pipe = self._idle_one()
        if pipe is None:
            # Connecting takes its part of the time: a renewal must not outlast the deadline that it is for (A4).
            end = time.monotonic() + timeout
            pipe = self._take(timeout)
            timeout = max(0.001, end - time.monotonic())
        try:
            answers = pipe.exchange(payload, replies, timeout)
        except BaseException as error:
            self._drop(pipe)
            if isinstance(error, TimeoutError):
                raise OutcomeUnknown(f"Redis did not answer within {timeout:.3g} s") from error
            if isinstance(error, OSError):
                raise OutcomeUnknown(f"the connection to Redis broke during a request: {error}") from error
            raise
        self._give(pipe)
        return answers

    def _idle_one(self) -> Pipe | None:
        """An idle connection that the server, or a balancer on the way, has not closed meanwhile."""
        while self._idle:
            try:
                pipe = self._idle.pop()
            except IndexError:  # another thread took it
                return None
            if not pipe.is_stale():
                return pipe
            self._drop(pipe)
        return None

    def _take(self, timeout: Seconds) -> Pipe:
        end = time.monotonic() + timeout
        with self._changed:
            while not self._idle:
                if self._is_shut:
                    raise StoreUnavailable("this client was closed")
                if self._made < self._most:
                    self._made += 1
                    break
                if not self._changed.wait(max(0.0, end - time.monotonic())):
                    raise StoreUnavailable(f"other threads kept all {self._most} connections busy for {timeout:g} s")
            else:
                return self._idle.pop()
        try:
            return self._open(max(0.001, end - time.monotonic()))
        except BaseException:
            self._unmade()
            raise

    def _give(self, pipe: Pipe) -> None:
        self._idle.append(pipe)
        if self._made == self._most or self._is_shut:
            with self._changed:
                self._changed.notify()
            if self._is_shut:
                self.shut()

    def _drop(self, pipe: Pipe) -> None:
        pipe.close()
        self._unmade()

    def _unmade(self) -> None:
        with self._changed:
            self._made -= 1
            self._changed.notify()

    def forget(self) -> None:
        while self._idle:
            try:
                self._drop(self._idle.pop())
            except IndexError:  # another thread took it
                return

    def shut(self) -> None:
        """Close what is idle; what is in use is closed after its request."""
        self._is_shut = True
        self.forget()

    def disown(self) -> None:
        """In a forked child: let go of the parent's connections without a word to the server."""
        # Another thread of the parent's may have held it when it forked: it would never be let go here.
        self._changed = threading.Condition()
        self.shut()


class KeeperWire(BlockingWire):
    """One that can send and let its replies wait; for one thread."""

    def post(self, payload: bytes, timeout: Seconds) -> Pipe | None:
        """Send commands over a connection that is there; None if there is none. Then nothing was answered."""
        pipe = self._idle_one()
        if pipe is None:
            return None
        try:
            pipe.post(payload, timeout)
        except OSError:
            self._drop(pipe)
            return None
        return pipe

    def collect(self, pipe: Pipe, replies: int, timeout: Seconds) -> list[Any]:
        """The replies to what was posted.

        Raises:
            OutcomeUnknown: not every reply came.
        """
        try:
            answers = pipe.exchange(b"", replies, timeout)
        except OSError as error:
            self._drop(pipe)
            raise OutcomeUnknown(f"Redis did not answer: {str(error) or 'time is over'}") from error
        self._give(pipe)
        return answers


class BlockingMailbox(ByThread, RedisMailbox):
    """The mailbox for waiting threads."""
