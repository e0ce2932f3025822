"""Steps in one worker thread per client: the bridge from asyncio to a library that only blocks.

A cancelled call returns at once while its step may still run; whoever called hands the claim to the keeper, which
closes it with a tombstone.
"""

from __future__ import annotations

from _queue import Empty, SimpleQueue
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from tenure.engines.sqlite.store import SqliteStore
from tenure.errors import StoreUnavailable
from tenure.runtimes import native

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from tenure.engines.queue import At, Steps
    from tenure.engines.sqlite.database import Database
    from tenure.engines.sqlite.files import Home
    from tenure.model import Seconds

R = TypeVar("R")


class BridgeStore(SqliteStore):
    """Steps run in a worker thread, in order; the loop is never blocked."""

    def __init__(self, home: Home, database: Database, address: str, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(home, database, address)
        self._loop = loop
        self._work: SimpleQueue[tuple[asyncio.Future[Any], Callable[[Steps, At], Any], Seconds] | None] = SimpleQueue()
        self._is_over = False
        native.start_thread(self._worker)

    async def run(self, step: Callable[[Steps, At], R], timeout: Seconds) -> R:
        future: asyncio.Future[R] = self._loop.create_future()
        self._work.put((future, step, timeout))
        if self._is_over:
            self._refuse()
        return await future

    def shut(self) -> None:
        """End the worker after what is queued; it closes the connection."""
        self._work.put(None)

    def _worker(self) -> None:
        while (item := self._work.get()) is not None:
            future, step, timeout = item
            try:
                reply, error = self.database.step(step, timeout), None
            except BaseException as caught:  # noqa: BLE001 - it belongs to whoever awaits
                reply, error = None, caught
            try:
                self._loop.call_soon_threadsafe(_resolve, future, reply, error)
            except RuntimeError:  # the loop is closed: nobody awaits any more
                break
        self._is_over = True
        self._refuse()
        self.database.shut()

    def _refuse(self) -> None:
        """Answer what came too late, from another task of a client that was being closed; it would wait for ever."""
        error = StoreUnavailable("this client was closed")
        with suppress(Empty, RuntimeError):
            while True:
                item = self._work.get_nowait()
                if item is not None:
                    self._loop.call_soon_threadsafe(_resolve, item[0], None, error)


def _resolve(future: asyncio.Future[Any], reply: object, error: BaseException | None) -> None:
    if future.done():
        return  # cancelled meanwhile; the keeper closes the claim
    if error is None:
        future.set_result(reply)
    else:
        future.set_exception(error)
