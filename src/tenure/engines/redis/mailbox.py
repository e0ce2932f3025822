"""The mailbox: a list on the server, read with BLPOP over a connection of its own, which is made by the first wait.

Promises: a message waits on the server while this client reconnects.
Does not promise that none is lost: a connection that breaks may take one along. After every break the grants are
listed (`overflowed`), and the waiters look (B4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from redis.exceptions import ResponseError

from tenure.engines.listening import NEVER, SILENCE_S, SLICE_S, Dialling
from tenure.engines.mail import decode
from tenure.engines.redis.scripts import command
from tenure.model import Instant

if TYPE_CHECKING:
    import selectors
    from collections.abc import Callable

    from tenure.engines.redis.pipe import Pipe
    from tenure.model import Seconds
    from tenure.ports import Message, Runtime

BLPOP_S: Final = 5
"""Seconds after which the server says that nothing has come."""


def mail(text: bytes, *, hints_only: bool) -> Message | None:
    """A message, which is no grant where only what its reader asks for counts; None for one that makes no sense."""
    message = decode(text)
    return message if message is None or not hints_only else message._replace(number=0, floor=0)


class RedisMailbox(Dialling["Pipe"]):
    """As `ports.Mailbox`, but for how one waits."""

    def __init__(self, key: str, runtime: Runtime, dial: Callable[[Seconds], Pipe]) -> None:
        super().__init__(runtime, dial)
        self.hints_only = False
        """A message is no grant: whoever waits looks, and waits for what the look is worth."""
        self._ask = command(("BLPOP", key, BLPOP_S))

    async def _turn(self, selector: selectors.BaseSelector, until: Instant | None) -> bool:
        if self._line is None:
            pipe = await self._connect(selector, until)
            if pipe is None:
                return True
            pipe.unblock()
            # What the last connection may have taken along is listed at the next heartbeat, asked for at once.
            self.overflowed = True
        left = self._left(until)
        return left <= 0 or self._heard(await self._ready(selector, left))

    def _left(self, until: Instant | None) -> Seconds:
        """Ask, unless that is done; how long to wait in one go."""
        now = self._runtime.now()
        if self._silent_at is NEVER and self._line is not None:
            try:
                # So few bytes on a connection that nothing else is sent on: the kernel takes them all.
                self._line.send(self._ask)
            except OSError:
                self._drop()
                return 0.0
            self._silent_at = Instant(now + BLPOP_S + SILENCE_S)
        elif now >= self._silent_at:
            self._drop()
            return 0.0
        return min(SLICE_S, SLICE_S if until is None else until - now)

    def _took(self, line: Pipe) -> bool:
        try:
            answers = line.take()
        except OSError:
            self._drop()
            return True
        hint = False
        for answer in answers:
            self._silent_at = NEVER
            if isinstance(answer, ResponseError):
                # Loading, no master, no right: whatever it is, it is asked again on a new connection, with pauses.
                self._drop()
                self._is_refused = True
                return True
            self._pauses.over()
            if answer is not None:
                if (message := mail(answer[1], hints_only=self.hints_only)) is not None:
                    self._came.append(message)
                hint = True
        return hint
