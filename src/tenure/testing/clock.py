"""A clock that the test moves, and clients that live by it: leases in milliseconds, without a thread and a sleep.

Promises: nothing happens but in a call of the test's. Time passes in `advance`, in `tenure.testing.pause`, and where a
thread waits, which takes no time at all: the clock jumps to whatever ends the wait. Keepers renew as time passes, in
the order of their instants, so that a test ends in the same way each time. The steps are those of the memory engine,
and the protocols those of every client.
Does not promise anything of engines other than memory://, nor of threads that run at once: whoever waits moves the
clock for all. Numbers (tokens) and times that are shown come from the wall clock, as ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tenure import config
from tenure.testing.works import Works

if TYPE_CHECKING:
    from tenure.model import Instant, Seconds
    from tenure.testing.virtual import VirtualAsyncClient, VirtualClient

ADVANCE_MOST: Final = 366 * 86_400.0
"""Seconds of one `advance`."""


class VirtualClock:
    """Time that passes when the test says so, for the clients that it makes.

    One thread, or the tasks of one loop, share one of them.
    """

    def __init__(self) -> None:
        """The clock reads 0."""
        self._works = Works()

    def client(self, url: str = "memory://", **settings: Any) -> VirtualClient:
        """A `tenure.Client` that lives by this clock.

        Args:
            url: memory://, or memory://NAME for a store of its own; clients of one clock and URL compete.
            settings: as `tenure.Client` takes them.

        Raises:
            UsageError: an argument is wrong, or the URL is another engine's.
        """
        from tenure.testing.virtual import VirtualClient

        return VirtualClient(self._works, url, settings)

    def async_client(self, url: str = "memory://", **settings: Any) -> VirtualAsyncClient:
        """A `tenure.AsyncClient` that lives by this clock; otherwise as `client`."""
        from tenure.testing.virtual import VirtualAsyncClient

        return VirtualAsyncClient(self._works, url, settings)

    def now(self) -> Instant:
        """Seconds since the clock was made."""
        return self._works.now()

    def advance(self, by: Seconds) -> None:
        """Let so many seconds pass: keepers renew, leases and sessions end, each at its instant.

        Under asyncio, tasks see it when they next run: await something after it.

        Raises:
            UsageError: not a number of seconds from 0 to a year.
        """
        by = config.seconds("by", by, 0.0, ADVANCE_MOST)
        self._works.advance(self.now() + by)
