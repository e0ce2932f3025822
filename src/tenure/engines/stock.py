"""The connections of a client's calling threads: one each while a request lasts, taken from a small stock.

Promises: a connection is used by one thread at a time; one on which a request was interrupted, also by Ctrl-C, is
closed, so that a late answer is never taken for another request's; connecting takes its part of a request's time.
Does not promise order among threads that wait for a connection.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from tenure.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenure.model import Seconds


class Connection(Protocol):
    """What is kept here."""

    def is_stale(self) -> bool:
        """Whether the server, or a balancer on the way, has closed it meanwhile."""
        ...

    def close(self) -> None:
        """Close it. Never raises."""
        ...


C = TypeVar("C", bound=Connection)


class Stock(Generic[C]):
    """A few connections, made when they are needed."""

    def __init__(self, dial: Callable[[Seconds], C], most: int) -> None:
        """Connect to nothing yet.

        Args:
            dial: connects within so many seconds; blocks.
            most: how many there may be; more threads wait for each other.
        """
        self._dial = dial
        self._idle: deque[C] = deque()
        self._most = most
        self._made = 0
        # Under gevent's patches these are greenlets' locks, which is right: the keeper has a wire of its own.
        self._changed = threading.Condition()
        self._is_shut = False

    def _idle_one(self) -> C | None:
        """An idle connection that is still good; None if there is none."""
        while self._idle:
            try:
                one = self._idle.pop()
            except IndexError:  # another thread took it
                return None
            if not one.is_stale():
                return one
            self._drop(one)
        return None

    def _take(self, timeout: Seconds) -> tuple[C, Seconds]:
        """A connection, made if need be, and what is then left of the time.

        Raises:
            StoreUnavailable: there is none to be had; nothing was sent.
        """
        # Counted together: a renewal must not outlast the deadline that it is for (A4).
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
                return self._idle.pop(), max(0.001, end - time.monotonic())
        try:
            return self._dial(max(0.001, end - time.monotonic())), max(0.001, end - time.monotonic())
        except BaseException:
            self._unmade()
            raise

    def _give(self, one: C) -> None:
        """Put one back after a request that was answered."""
        self._idle.append(one)
        if self._made == self._most or self._is_shut:
            with self._changed:
                self._changed.notify()
            if self._is_shut:
                self._empty()

    def _drop(self, one: C) -> None:
        """Close one that is of no use any more."""
        one.close()
        self._unmade()

    def _unmade(self) -> None:
        with self._changed:
            self._made -= 1
            self._changed.notify()

    def _empty(self) -> list[C]:
        """Close what is idle; what that was."""
        closed: list[C] = []
        while self._idle:
            try:
                one = self._idle.pop()
            except IndexError:  # another thread took it
                break
            self._drop(one)
            closed.append(one)
        return closed

    def forget(self) -> None:
        """Connect anew for the next request: what these lead to is not what it was."""
        self._empty()

    def shut(self) -> None:
        """Close what is idle; what is in use is closed after its request."""
        self._is_shut = True
        self._empty()

    def disown(self) -> None:
        """In a forked child: let go of the parent's connections without a word to the server."""
        # Another thread of the parent's may have held it when it forked: it would never be let go here.
        self._changed = threading.Condition()
        self.shut()
