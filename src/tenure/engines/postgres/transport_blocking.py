"""Requests of calling threads: a connection each while it lasts, taken from a small stock.

Promises: an exchange that was interrupted, also by Ctrl-C, leaves no connection behind on which a late answer could be
taken for another request's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenure.engines.listening import ByThread
from tenure.engines.postgres.link import unknown, wait_here
from tenure.engines.postgres.mailbox import ListeningMailbox, PollingMailbox
from tenure.engines.stock import Stock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tenure.engines.postgres.link import Answer, Link, Waiter
    from tenure.model import Seconds

CONNECTIONS_MOST: Final = 4
"""Of one client, for its callers; more of them wait for each other. A server has a hundred for everybody."""


class BlockingWire(Stock["Link"]):
    """As `store.Wire`."""

    def __init__(
        self, dial: Callable[[Seconds, Waiter], Link], wait: Waiter = wait_here, most: int = CONNECTIONS_MOST
    ) -> None:
        super().__init__(lambda timeout: dial(timeout, wait), most)
        self._wait = wait

    async def exchange(self, statement: bytes, values: Sequence[bytes | None], timeout: Seconds) -> Answer:
        link = self._idle_one()
        if link is None:
            link, timeout = self._take(timeout)
        try:
            answer = link.ask(statement, values, timeout, self._wait)
        except BaseException as error:
            self._drop(link)
            if isinstance(error, OSError):
                raise unknown(error, timeout) from error
            raise
        if answer.is_fatal:
            self._drop(link)
        else:
            self._give(link)
        return answer


class BlockingListener(ByThread, ListeningMailbox):
    """For waiting threads."""


class BlockingPoller(ByThread, PollingMailbox):
    """For waiting threads."""
