"""The one connection of a loop that all of its tasks share: made in another thread, for connecting blocks.

Promises: at most one connection is being made at a time, and a cancelled task does not cancel it for the others; once
shut, no connection is made, and one that was being made is closed.
Does not promise to work on a loop that cannot watch sockets (Windows' proactor loop).
"""

from __future__ import annotations

import abc
import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from tenure.errors import OutcomeUnknown, StoreUnavailable

if TYPE_CHECKING:
    from tenure.model import Seconds


class Pipe(Protocol):
    """What is connected."""

    def fileno(self) -> int:
        """For waiting until there is something to read."""
        ...

    def unblock(self) -> None:
        """From here on nothing waits."""
        ...

    def close(self) -> None:
        """Close it. Never raises."""
        ...


P = TypeVar("P", bound=Pipe)


class Connecting(abc.ABC, Generic[P]):
    """A base of wires. Belongs to one loop; made in any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pipe: P | None = None
        self._opening: asyncio.Future[P] | None = None
        self._is_shut = False

    @abc.abstractmethod
    def _dial(self, timeout: Seconds) -> P:
        """Connect, in another thread."""

    @abc.abstractmethod
    def _read(self) -> None:
        """Take what has come."""

    @abc.abstractmethod
    def _fail(self, error: OutcomeUnknown) -> None:
        """Give the connection up, and tell whoever waits: what was under way may or may not have had its effect."""

    def _is_connected(self) -> bool:
        """Whether another request can be made."""
        return self._pipe is not None

    async def _connect(self, timeout: Seconds) -> None:
        while not self._is_connected():
            if self._is_shut:
                raise StoreUnavailable("this client was closed")
            if self._opening is None:
                # Connecting blocks, and the loop must not. Shielded: a cancelled caller does not cancel it for others.
                self._opening = self._loop.run_in_executor(None, self._dial, timeout)
                self._opening.add_done_callback(self._opened)
            if self._opening.done():
                # `_opened` is about to be called. Another connection now would end the requests on the first.
                await asyncio.sleep(0)
            else:
                await asyncio.shield(self._opening)

    def _opened(self, opening: asyncio.Future[P]) -> None:
        self._opening = None
        if opening.cancelled() or opening.exception() is not None:
            return  # whoever waits is told
        pipe = opening.result()
        if self._is_shut:
            pipe.close()
            return
        if self._pipe is not None:
            # It takes no more requests; what is under way on it has had its time.
            self._fail(OutcomeUnknown("the server went away during a request"))
        pipe.unblock()
        self._pipe = pipe
        self._loop.add_reader(pipe.fileno(), self._read)

    def _hang_up(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            with suppress(OSError, ValueError):
                self._loop.remove_reader(pipe.fileno())
                self._loop.remove_writer(pipe.fileno())
            pipe.close()

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
