"""The mailbox for waiting tasks of one event loop.

Promises: cancelling a `receive` loses no message, and leaves nothing registered with the loop.
Does not promise: fairness between loops; a mailbox belongs to the loop that receives from it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from tenure.engines.sqlite.mailbox_blocking import Ears

if TYPE_CHECKING:
    import selectors

    from tenure.model import Instant
    from tenure.ports import Message

_SLICE_S: Final = 1.0
_POLL_S: Final = 0.05


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
                await _readable(selector, left)
        finally:
            self._leave(reader)
        return self._taken()


async def _readable(selector: selectors.BaseSelector, seconds: float | None) -> None:
    """Wait until something can be heard, or for so many seconds.

    The loop watches one descriptor, that of the selector itself, and only meanwhile: registered for good, it would
    turn the loop in circles whenever a message lies there that nobody takes.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    fd: int = getattr(selector, "fileno", lambda: -1)()
    if fd < 0:
        # No epoll or kqueue (patched away): poll.
        seconds = _POLL_S if seconds is None else min(seconds, _POLL_S)
    else:
        loop.add_reader(fd, _finish, future)
    timer = None if seconds is None else loop.call_later(seconds, _finish, future)
    try:
        await future
    finally:
        if timer is not None:
            timer.cancel()
        if fd >= 0:
            loop.remove_reader(fd)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
