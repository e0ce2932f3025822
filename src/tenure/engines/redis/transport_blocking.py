"""Requests of calling threads: a connection each while it lasts, taken from a small stock.

Promises: an exchange that was interrupted, also by Ctrl-C, leaves no connection behind on which a late reply could be
taken for another request's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tenure.engines.listening import ByThread
from tenure.engines.redis.mailbox import RedisMailbox
from tenure.engines.stock import Stock
from tenure.errors import OutcomeUnknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenure.engines.redis.pipe import Pipe
    from tenure.model import Seconds

CONNECTIONS_MOST: Final = 8
"""Of one client, for its calling threads; more of them wait for each other."""


class BlockingWire(Stock["Pipe"]):
    """As `store.Wire`."""

    def __init__(self, dial: Callable[[Seconds], Pipe], most: int = CONNECTIONS_MOST) -> None:
        super().__init__(dial, most)

    async def exchange(self, payload: bytes, replies: int, timeout: Seconds) -> list[Any]:
        pipe = self._idle_one()
        if pipe is None:
            pipe, timeout = self._take(timeout)
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
