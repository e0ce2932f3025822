"""A connection once redis-py has made it: bytes out, replies in, in order; what both transports and mailboxes share.

redis-py connects, logs in and guards; from there its socket is driven here, for its own request path costs more than
the request. The connection object is kept, since it owns the socket.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import struct
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import hiredis
from redis.exceptions import ResponseError

from tenure.runtimes import native

if TYPE_CHECKING:
    from tenure.engines.redis.dial import Link
    from tenure.model import Seconds

STALE_S: Final = 0.1
"""Seconds of idleness after which a look at the socket is worth its time."""

SLICE_S: Final = 0.01
"""Seconds that one wait for the server takes at most, some of the kernel's ticks more; then the clock is looked at."""

_CHUNK: Final = 65_536
_NOTHING: Final = object()
_WAITS: Final = (BlockingIOError, TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_SLICE: Final = struct.pack("ll", 0, round(SLICE_S * 1e6))
_KERNEL_WAITS: Final = sys.platform == "linux" and struct.calcsize("l") == 8
"""Where `_SLICE` is what the kernel understands."""


def _os_thread() -> int:
    ident: int = native.original("_thread", "get_ident")()
    return ident


class Cut(OSError):
    """The server has closed the connection, or talks another protocol; what was asked for may have been done."""


class Pipe:
    """One connection, for one user at a time."""

    __slots__ = ("_connection", "_reader", "_socket", "_thread", "_used_at")

    def __init__(self, connection: Link) -> None:
        self._connection = connection
        self._socket = connection.socket
        _wait_in_slices(self._socket)
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
            OSError: the connection is of no use any more; also TimeoutError, after `timeout` seconds and a slice.
        """
        self._used_at = time.monotonic()
        end = self._used_at + timeout
        while payload:
            payload = self.send(payload)
            if payload and time.monotonic() >= end:
                raise TimeoutError
        answers = self.take()
        while len(answers) < replies:
            if time.monotonic() >= end:
                raise TimeoutError
            answers += self.take()
        return answers

    def post(self, payload: bytes, timeout: Seconds) -> None:
        """Send commands; an `exchange` of nothing reads their replies.

        Raises:
            OSError: the connection is of no use any more; also TimeoutError.
        """
        self._used_at = time.monotonic()
        while payload := self.send(payload):
            if time.monotonic() >= self._used_at + timeout:
                raise TimeoutError

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

    def unblock(self) -> None:
        """From here on `send` and `take` are used, and neither waits."""
        self._socket.setblocking(False)

    def send(self, payload: bytes) -> bytes:
        """Send what the kernel takes now, or within a slice; the rest.

        Raises:
            OSError: the connection is of no use any more.
        """
        try:
            return payload[self._socket.send(payload) :]
        except _WAITS:
            return payload

    def take(self) -> list[Any]:
        """The replies that have come, or come within a slice, perhaps none.

        Raises:
            OSError: the connection is of no use any more, and nothing more can be taken.
        """
        sock, reader = self._socket, self._reader
        gets = reader.gets
        answers: list[Any] = []
        try:
            while True:
                chunk = sock.recv(_CHUNK)
                if not chunk:
                    raise Cut("the server has closed the connection")
                reader.feed(chunk)
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

    def close(self) -> None:
        """Close it. Never raises; may be repeated."""
        self._connection.disconnect()


def _wait_in_slices(sock: socket.socket) -> None:
    """Let each wait on a socket end after a slice.

    With a timeout of Python's, each call asks the kernel twice, whether it may and then to do it, which is a tenth of a
    cycle. So a plain socket has the kernel's own. That one begins anew with each signal that interrupts it: were it the
    whole timeout, a timer of the application's would make it last for ever; as it is, one would have to tick faster
    than a hundred times a second. TLS and gevent do their own waiting, and keep to Python's.
    """
    if _KERNEL_WAITS and type(sock) is native.original("socket", "socket"):
        sock.settimeout(None)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _SLICE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SLICE)
    else:
        sock.settimeout(SLICE_S)
