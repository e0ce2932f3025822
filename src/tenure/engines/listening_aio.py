"""How a task waits at a mailbox. Apart from `listening`, for importing asyncio takes longer than a short command.

Promises: cancelling a `receive` loses no message, and leaves nothing registered with the loop and no connection open.
Does not promise to serve two loops: a mailbox belongs to the one that receives from it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tenure.runtimes.aio import readable

if TYPE_CHECKING:
    import selectors
    from collections.abc import Callable

    from tenure.engines.listening import Events, L
    from tenure.model import Seconds


class ByTask:
    """How a task waits."""

    async def _ready(self, selector: selectors.BaseSelector, seconds: Seconds | None) -> Events:
        events = selector.select(0)
        if not events:
            await readable(selector, seconds)
            events = selector.select(0)
        return events

    def _me(self) -> object:
        return asyncio.current_task()

    async def _open(self, dial: Callable[[Seconds], L], timeout: Seconds) -> L:
        opening = asyncio.get_running_loop().run_in_executor(None, dial, timeout)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_discard)
            raise


def _discard(opening: asyncio.Future[Any]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
