"""What goes over a connection, and how its thread waits: requests that go out together, and what can be heard.

Promises: a batch is finished once, by whoever is first. Does not promise an order between batches; the link does.
"""

from __future__ import annotations

import select
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from tenure.model import Instant
from tenure.runtimes import native

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from tenure.engines.zookeeper import jute
    from tenure.model import Seconds

WANT: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a socket says that has nothing, or takes nothing, at the moment."""


class Batch:
    """Requests that go out in one write.

    Attributes:
        answers: as the requests want them; a `Refusal` for one that was refused.
        error: why there are none.
        sent: when it went out; None while it has not.
        since: when the first message of its connection was sent.
    """

    __slots__ = ("_done", "answers", "error", "is_done", "requests", "sent", "since")

    def __init__(self, requests: Sequence[jute.Request], done: Callable[[], object]) -> None:
        self.requests = requests
        self.answers: list[Any] = []
        self.error: Exception | None = None
        self.is_done = False
        self.sent: Instant | None = None
        self.since = Instant(0.0)
        self._done = done

    def finish(self, error: Exception | None = None) -> None:
        """It was answered, or never will be; once."""
        if not self.is_done:
            self.error = error
            self.is_done = True
            self._done()


class Watch:
    """Waits until something can be read or written, or somebody nudges; blocks the OS thread, also under gevent."""

    def __init__(self, wake: socket.socket, sock: socket.socket | None = None) -> None:
        self._wake = wake
        self._socket = sock
        self._writes = False
        poll = native.original("select", "poll")
        self._poll = poll() if poll is not None else None
        if self._poll is not None:
            self._poll.register(wake.fileno(), select.POLLIN)
            if sock is not None:
                self._poll.register(sock.fileno(), select.POLLIN)

    def wait(self, seconds: Seconds, *, wants_write: bool = False) -> None:
        """Wait for so long at most."""
        if self._poll is None:
            reads = [self._wake] if self._socket is None else [self._wake, self._socket]
            writes = [self._socket] if wants_write and self._socket is not None else []
            is_nudged = self._wake in select.select(reads, writes, [], seconds)[0]
        else:
            if wants_write is not self._writes and self._socket is not None:
                self._writes = wants_write
                self._poll.modify(self._socket.fileno(), select.POLLIN | (select.POLLOUT if wants_write else 0))
            fd = self._wake.fileno()
            is_nudged = any(heard == fd for heard, _ in self._poll.poll(seconds * 1000))
        if is_nudged:
            with suppress(*WANT):
                self._wake.recv(4096)
