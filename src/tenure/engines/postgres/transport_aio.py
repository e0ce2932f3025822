"""Requests of the tasks of one loop, over a small stock of connections: PostgreSQL answers one after the other on each.

Promises: a cancelled request returns at once, and its connection serves others when its answer has come; the loop is
never blocked.
Does not promise to work on a loop that cannot watch sockets (Windows' proactor loop).
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from tenure.engines.listening_aio import ByTask
from tenure.engines.postgres.link import unknown, wait_here
from tenure.engines.postgres.mailbox import ListeningMailbox, PollingMailbox
from tenure.engines.postgres.transport_blocking import CONNECTIONS_MOST
from tenure.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tenure.engines.postgres.link import Answer, Link, Waiter
    from tenure.engines.postgres.store import Wire
    from tenure.model import Seconds
    from tenure.runtimes.aio import AioRuntime


class _Channel:
    """One connection in a loop, and the request that is under way on it."""

    def __init__(self, link: Link, loop: asyncio.AbstractEventLoop) -> None:
        self.link = link
        self.future: asyncio.Future[Answer] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._loop = loop
        self._is_full = False
        loop.add_reader(link.fileno(), self._read)
        self.ended: Callable[[_Channel, bool], None] = lambda _channel, _is_good: None
        """Called when the request is answered, or never will be, with whether the connection is still good."""

    def ask(self, statement: bytes, values: Sequence[bytes | None], timeout: Seconds) -> asyncio.Future[Answer]:
        future = self.future = self._loop.create_future()
        self.timer = self._loop.call_later(timeout, self._fail, TimeoutError(), timeout)
        try:
            if not self.link.send(statement, values):
                self._is_full = True
                self._loop.add_writer(self.link.fileno(), self._write)
        except OSError as error:
            self._fail(error, timeout)
        return future

    def _write(self) -> None:
        try:
            if self.link.flush():
                self._is_full = False
                self._loop.remove_writer(self.link.fileno())
        except OSError as error:
            self._fail(error)

    def _read(self) -> None:
        try:
            answer = self.link.take()
        except OSError as error:
            self._fail(error)
            return
        if answer is None:
            return
        future = self._done(not answer.is_fatal)
        if future is not None and not future.done():
            future.set_result(answer)

    def _fail(self, error: OSError, timeout: Seconds = 0.0) -> None:
        future = self._done(False)
        if future is not None and not future.done():
            future.set_exception(unknown(error, timeout))

    def _done(self, is_good: bool) -> asyncio.Future[Answer] | None:
        future, self.future = self.future, None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if not is_good:
            self.close()
        self.ended(self, is_good)
        return future

    def close(self) -> None:
        with suppress(OSError, ValueError):
            self._loop.remove_reader(self.link.fileno())
            if self._is_full:
                self._loop.remove_writer(self.link.fileno())
        self.link.close()


class AioWire:
    """As `store.Wire`. Belongs to one loop; made in any thread."""

    def __init__(
        self,
        dial: Callable[[Seconds, Waiter], Link],
        loop: asyncio.AbstractEventLoop,
        most: int = CONNECTIONS_MOST,
    ) -> None:
        self._dial = dial
        self._loop = loop
        self._most = most
        self._made = 0
        self._idle: list[_Channel] = []
        self._all: set[_Channel] = set()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_shut = False

    async def exchange(self, statement: bytes, values: Sequence[bytes | None], timeout: Seconds) -> Answer:
        """As `Wire.exchange`.

        Cancellation: safe; the request may still have its effect.
        """
        end = self._loop.time() + timeout
        while not self._idle:
            if self._is_shut:
                raise StoreUnavailable("this client was closed")
            if self._made < self._most:
                await self._connect(max(0.001, end - self._loop.time()))
            else:
                await self._turn(end - self._loop.time(), timeout)
        return await self._idle.pop().ask(statement, values, max(0.001, end - self._loop.time()))

    async def _turn(self, left: Seconds, timeout: Seconds) -> None:
        """Wait until a connection may be free."""
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(max(0.0, left)):
                await turn
        except TimeoutError:
            raise StoreUnavailable(f"other tasks kept all {self._most} connections busy for {timeout:.3g} s") from None
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif turn.cancelled() or self._idle:
                self._call_next()  # its turn goes to the next

    async def _connect(self, timeout: Seconds) -> None:
        self._made += 1
        # Connecting blocks, and the loop must not. Shielded: a cancelled caller leaves the connection to others.
        opening = self._loop.run_in_executor(None, self._dial, timeout, wait_here)
        opening.add_done_callback(self._opened)
        await asyncio.shield(opening)

    def _opened(self, opening: asyncio.Future[Link]) -> None:
        if opening.cancelled() or opening.exception() is not None:
            self._made -= 1
            self._call_next()
            return  # whoever waits is told
        if self._is_shut:
            opening.result().close()
            return
        channel = _Channel(opening.result(), self._loop)
        channel.ended = self._ended
        self._all.add(channel)
        self._idle.append(channel)
        self._call_next()

    def _ended(self, channel: _Channel, is_good: bool) -> None:
        if is_good and not self._is_shut:
            self._idle.append(channel)
        else:
            self._lose(channel)
        self._call_next()

    def _lose(self, channel: _Channel) -> None:
        if channel in self._all:
            self._all.discard(channel)
            self._made -= 1
        if channel in self._idle:
            self._idle.remove(channel)

    def _call_next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def forget(self) -> None:
        for channel in list(self._idle):
            channel.close()
            self._lose(channel)

    def shut(self) -> None:
        """Close the connections, from any thread; whoever waits is told."""
        self._is_shut = True
        try:
            self._loop.call_soon_threadsafe(self._close)
        except RuntimeError:  # the loop is closed: nobody awaits any more
            self.disown()

    def _close(self) -> None:
        for channel in list(self._all):
            if channel.future is None:
                channel.close()
                self._lose(channel)
            # One with a request under way is closed with its answer, or at its time-out.
        for turn in self._waiting:
            if not turn.done():
                turn.set_result(None)

    def disown(self) -> None:
        """Close the connections without touching the loop, which is over or, in a forked child, the parent's."""
        self._is_shut = True
        for channel in list(self._all):
            channel.link.close()
        self._all.clear()
        self._idle.clear()


class AioListener(ByTask, ListeningMailbox):
    """For waiting tasks."""


class AioPoller(ByTask, PollingMailbox):
    """For waiting tasks."""

    def __init__(self, address: str, statement: bytes, poll: Seconds, wire: Wire, runtime: AioRuntime) -> None:
        super().__init__(address, statement, poll, wire, runtime)
        self._asking: asyncio.Task[list[str]] | None = None

    async def _mail(self) -> list[str]:
        # What a cancelled reader has asked for is taken by the next: the messages are gone from the table.
        asking = self._asking
        if asking is None:
            asking = self._asking = asyncio.ensure_future(self._asked())
        try:
            return await asyncio.shield(asking)
        finally:
            if asking.done():
                self._asking = None
