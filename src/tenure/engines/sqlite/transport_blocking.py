"""Steps in the calling thread, one at a time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

from tenure.engines.sqlite.store import SqliteStore
from tenure.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenure.engines.queue import At, Steps
    from tenure.engines.sqlite.database import Database
    from tenure.engines.sqlite.files import Home
    from tenure.model import Seconds

R = TypeVar("R")


class BlockingStore(SqliteStore):
    """Steps run in the calling thread, one at a time."""

    def __init__(self, home: Home, database: Database, address: str) -> None:
        super().__init__(home, database, address)
        # Under gevent's patches this is a greenlet's lock, which is right: the keeper has a database of its own.
        # It knows its owner, so that letting go without having it is harmless.
        self._mutex = threading.RLock()

    async def run(self, step: Callable[[Steps, At], R], timeout: Seconds) -> R:
        mutex = self._mutex
        # Ctrl-C may come right after it was taken, so taking it is inside the `try`.
        try:
            if not mutex.acquire(True, timeout):
                raise StoreUnavailable(f"other threads of this client kept its connection busy for {timeout:g} s")
            return self.database.step(step, timeout)
        finally:
            try:  # noqa: SIM105 - suppress() is a call, in which Ctrl-C may strike before anything is let go
                mutex.release()
            except RuntimeError:
                pass

    def shut(self) -> None:
        """Close the connection, after the step in progress."""
        with self._mutex:
            self.database.shut()
