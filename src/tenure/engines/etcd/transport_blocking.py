"""Requests of calling threads: a connection each while it lasts, taken from a small stock.

Promises: an exchange that was interrupted, also by Ctrl-C, leaves no connection behind on which a late answer could be
taken for another request's.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from tenure.engines.etcd.mailbox import EtcdMailbox
from tenure.engines.etcd.pipe import Refused
from tenure.engines.listening import ByThread
from tenure.errors import OutcomeUnknown, StoreUnavailable

if TYPE_CHECKING:
    from tenure.engines.etcd.dial import Dialer
    from tenure.engines.etcd.pipe import Pipe
    from tenure.model import Seconds

CONNECTIONS_MOST: Final = 8
"""Of one client, for its calling threads; more of them wait for each other."""


class BlockingWire:
    """As `store.Wire`."""

    def __init__(self, dialer: Dialer, most: int = CONNECTIONS_MOST) -> None:
        self._dialer = dialer
        self._idle: deque[Pipe] = deque()
        self._most = most
        self._made = 0
        # Under gevent's patches these are greenlets' locks, which is right: the keeper has a wire of its own.
        self._changed = threading.Condition()
        self._is_shut = False

    async def exchange(self, path: str, message: bytes, timeout: Seconds) -> list[bytes]:
        pipe = self._idle_one()
        if pipe is None:
            # Connecting takes its part of the time: a renewal must not outlast the deadline that it is for (A4).
            end = time.monotonic() + timeout
            pipe = self._take(timeout)
            timeout = max(0.001, end - time.monotonic())
        try:
            messages = pipe.exchange(path, message, self._dialer.token, timeout)
        except Refused:
            self._give(pipe)
            raise
        except BaseException as error:
            self._drop(pipe)
            if not isinstance(error, OSError):
                raise
            # It may be stopped, or cut off from the others: the next connection leads to another node.
            self._dialer.avoid(pipe.address)
            what = (
                f"did not answer within {timeout:.3g} s" if isinstance(error, TimeoutError) else f"broke off: {error}"
            )
            raise OutcomeUnknown(f"etcd ({pipe.address}) {what}") from error
        self._give(pipe)
        return messages

    def _idle_one(self) -> Pipe | None:
        """An idle connection that the server, or a balancer on the way, has not closed meanwhile."""
        while self._idle:
            try:
                pipe = self._idle.pop()
            except IndexError:  # another thread took it
                return None
            if not pipe.is_stale():
                return pipe
            self._drop(pipe)
        return None

    def _take(self, timeout: Seconds) -> Pipe:
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
            return self._dialer.dial(max(0.001, end - time.monotonic()))
        except BaseException:
            self._unmade()
            raise

    def _give(self, pipe: Pipe) -> None:
        self._idle.append(pipe)
        if self._made == self._most or self._is_shut:
            with self._changed:
                self._changed.notify()
            if self._is_shut:
                self.shut()

    def _drop(self, pipe: Pipe) -> None:
        pipe.close()
        self._unmade()

    def _unmade(self) -> None:
        with self._changed:
            self._made -= 1
            self._changed.notify()

    def forget(self) -> None:
        while self._idle:
            try:
                pipe = self._idle.pop()
            except IndexError:  # another thread took it
                return
            self._dialer.avoid(pipe.address)
            self._drop(pipe)

    def shut(self) -> None:
        """Close what is idle; what is in use is closed after its request."""
        self._is_shut = True
        self.forget()

    def disown(self) -> None:
        """In a forked child: let go of the parent's connections without a word to the server."""
        # Another thread of the parent's may have held it when it forked: it would never be let go here.
        self._changed = threading.Condition()
        self._is_shut = True
        while self._idle:
            self._idle.pop().close()


class BlockingMailbox(ByThread, EtcdMailbox):
    """The mailbox for waiting threads."""
