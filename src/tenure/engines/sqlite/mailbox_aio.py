"""The mailbox for waiting tasks of one event loop.

Promises: cancelling a `receive` loses no message, and leaves nothing registered with the loop.
Does not promise: fairness between loops; a mailbox belongs to the loop that receives from it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from tenure.engines.sqlite.mailbox_blocking import Ears
from tenure.runtimes.aio import readable

if TYPE_CHECKING:
    from tenure.model import Instant
    from tenure.ports import Message

_SLICE_S: Final = 1.0


class AioMailbox(Ears):
    """The mailbox for waiting tasks."""

    async def receive(self, until: Instant | None) -> list[Message]:
        """As `ports.Mailbox.receive`.

        Raises:
            UsageError: another task is receiving, or the mailbox is closed; no message was taken.

        Cancellation: safe at its one await; messages are taken after it, never before.
        """
        reader = asyncio.current_task()
        try:
            selector = self._enter(reader)
            until, left = self._patience(until)
            while not self._raw:
                if self._hear(selector.select(0)):
                    break
                if until is not None:
                    left = min(until - self._now(), _SLICE_S)
                    if left <= 0:
                        break
                await readable(selector, left)
        finally:
            self._leave(reader)
        return self._taken()
