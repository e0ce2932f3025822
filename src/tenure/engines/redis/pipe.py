"""A connection once redis-py has made it: bytes out, replies in, in order; what both transports and mailboxes share.

redis-py connects, logs in and guards; from there its socket is driven here, for its own request path costs more than
the request. The connection object is kept, since it owns the socket.
"""

from __future__ import annotations

import selectors
import ssl
import time
from typing import TYPE_CHECKING, Any, Final

import hiredis
from redis.exceptions import ResponseError

from tenure.runtimes import native

if TYPE_CHECKING:
    import socket

    from tenure.engines.redis.dial import Link
    from tenure.model import Seconds

STALE_S: Final = 0.1
"""Seconds of idleness after which a look at the socket is worth its time."""

_CHUNK: Final = 65_536
_NOTHING: Final = object()
_WAITS: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def _os_thread() -> int:
    ident: int = native.original("_thread", "get_ident")()
    return ident


class Cut(OSError):
    """The server has closed the connection, or talks another protocol; what was asked for may have been done."""


class Pipe:
    """One connection, for one user at a time."""

    __slots__ = ("_connection", "_reader", "_socket", "_thread", "_timeout", "_used_at")

    def __init__(self, connection: Link) -> None:
        self._connection = connection
        self._socket: socket.socket = connection.socket
        self._timeout: Seconds | None = None
        self._used_at = time.monotonic()
        # A socket of gevent's belongs to the OS thread in which it was made: waiting for it in another one fails. The
        # keeper's first connection is made by whoever opens the client.
        self._thread = _os_thread() if native.is_patched() else None
        self._reader = hiredis.Reader(protocolError=Cut, replyError=ResponseError, notEnoughData=_NOTHING)

    def fileno(self) -> int:
        """For waiting until there is something to `take`."""
        return self._socket.fileno()

    def exchange(self, payload: bytes, replies: int, timeout: Seconds) -> list[Any]:
        """Send commands and wait for as many replies; an error of the server is one of them, not raised.

        Raises:
            OSError: the connection is of no use any more; also TimeoutError, after `timeout` seconds.
        """
        self._used_at = time.monotonic()
        end = self._used_at + timeout
        sock, gets = self._socket, self._reader.gets
        if timeout != self._timeout:
            self._patience(timeout)
        sock.sendall(payload)
        answers: list[Any] = []
        while True:
            self._feed(sock.recv(_CHUNK))
            while (answer := gets()) is not _NOTHING:
                answers.append(answer)
            if len(answers) == replies:
                return answers
            # A reply in pieces, or the first of several: each gets what is left of the time, not the whole.
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._patience(left)

    def is_stale(self) -> bool:
        """Whether it was idle for a while and the server has closed it, or says what nobody asked for.

        Without this look, the first request after a pause longer than the server's `timeout` has an unknown outcome.
        """
        if self._thread is not None and self._thread != _os_thread():
            return True
        if time.monotonic() - self._used_at < STALE_S:
            return False
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            return bool(selector.select(0))

    def _patience(self, timeout: Seconds) -> None:
        self._socket.settimeout(timeout)
        self._timeout = timeout

    def unblock(self) -> None:
        """From here on `send` and `take` are used, and neither waits."""
        self._socket.setblocking(False)

    def send(self, payload: bytes) -> bytes:
        """Send what the kernel takes now; the rest.

        Raises:
            OSError: the connection is of no use any more.
        """
        try:
            return payload[self._socket.send(payload) :]
        except _WAITS:
            return payload

    def take(self) -> list[Any]:
        """The replies that have come, perhaps none.

        Raises:
            OSError: the connection is of no use any more, and nothing more can be taken.
        """
        sock, gets = self._socket, self._reader.gets
        answers: list[Any] = []
        try:
            while True:
                chunk = sock.recv(_CHUNK)
                self._feed(chunk)
                while (answer := gets()) is not _NOTHING:
                    answers.append(answer)
                # TLS keeps what it has decrypted, and no event would tell of that.
                if len(chunk) < _CHUNK and not (isinstance(sock, ssl.SSLSocket) and sock.pending()):
                    return answers
        except _WAITS:
            return answers
        except OSError:
            if not answers:
                raise
            return answers  # the next take meets the same error

    def _feed(self, chunk: bytes) -> None:
        if not chunk:
            raise Cut("the server has closed the connection")
        self._reader.feed(chunk)

    def close(self) -> None:
        """Close it. Never raises; may be repeated."""
        self._connection.disconnect()
