"""Requests of calling threads: a connection each while it lasts, taken from a small stock.

Promises: an exchange that was interrupted, also by Ctrl-C, leaves no connection behind on which a late answer could be
taken for another request's.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from tenure.engines.listening import ByThread
from tenure.engines.postgres.link import unknown, wait_here
from tenure.engines.postgres.mailbox import ListeningMailbox, PollingMailbox
from tenure.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tenure.engines.postgres.link import Answer, Link, Waiter
    from tenure.model import Seconds

CONNECTIONS_MOST: Final = 4
"""Of one client, for its callers; more of them wait for each other. A server has a hundred for everybody."""


class BlockingWire:
    """As `store.Wire`."""

    def __init__(
        self, dial: Callable[[Seconds, Waiter], Link], wait: Waiter = wait_here, most: int = CONNECTIONS_MOST
    ) -> None:
        self._dial = dial
        self._wait = wait
        self._idle: deque[Link] = deque()
        self._most = most
        self._made = 0
        # Under gevent's patches these are greenlets' locks, which is right: the keeper has a wire of its own.
        self._changed = threading.Condition()
        self._is_shut = False

    async def exchange(self, statement: bytes, values: Sequence[bytes | None], timeout: Seconds) -> Answer:
        # Connecting takes its part of the time: a renewal must not outlast the deadline that it is for (A4).
        end = time.monotonic() + timeout
        link = self._idle_one() or self._take(timeout)
        try:
            answer = link.ask(statement, values, max(0.001, end - time.monotonic()), self._wait)
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

    def _idle_one(self) -> Link | None:
        """An idle connection that the server, or a balancer on the way, has not closed meanwhile."""
        while self._idle:
            try:
                link = self._idle.pop()
            except IndexError:  # another thread took it
                return None
            if not link.is_stale():
                return link
            self._drop(link)
        return None

    def _take(self, timeout: Seconds) -> Link:
        end = time.monotonic() + timeout
        with self._changed:
            while not self._idle:
                if self._is_shut:
                    raise StoreUnavailable("this client was closed")
                if self._made < self._most:
                    self._made += 1
                    break
                if not self._changed.wait(max(0.0, end - time.monotonic())):
                    raise StoreUnavailable(f"other threads kept all {self._most} connections busy for {timeout:g} s")
            else:
                return self._idle.pop()
        try:
            return self._dial(max(0.001, end - time.monotonic()), self._wait)
        except BaseException:
            self._unmade()
            raise

    def _give(self, link: Link) -> None:
        self._idle.append(link)
        if self._made == self._most or self._is_shut:
            with self._changed:
                self._changed.notify()
            if self._is_shut:
                self.shut()

    def _drop(self, link: Link) -> None:
        link.close()
        self._unmade()

    def _unmade(self) -> None:
        with self._changed:
            self._made -= 1
            self._changed.notify()

    def forget(self) -> None:
        while self._idle:
            try:
                self._drop(self._idle.pop())
            except IndexError:  # another thread took it
                return

    def shut(self) -> None:
        """Close what is idle; what is in use is closed after its request."""
        self._is_shut = True
        self.forget()

    def disown(self) -> None:
        """In a forked child: let go of the parent's connections without a word to the server."""
        # Another thread of the parent's may have held it when it forked: it would never be let go here.
        self._changed = threading.Condition()
        self.shut()


class BlockingListener(ByThread, ListeningMailbox):
    """For waiting threads."""


class BlockingPoller(ByThread, PollingMailbox):
    """For waiting threads."""
