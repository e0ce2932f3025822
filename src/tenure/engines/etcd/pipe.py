"""A connection to one node of etcd: requests out, answers in; what both transports and the mailboxes share."""

from __future__ import annotations

import selectors
import ssl
import time
from typing import TYPE_CHECKING, Final

from tenure.engines.etcd.grpc import Connection
from tenure.runtimes import native

if TYPE_CHECKING:
    import socket

    from tenure.engines.address import Address
    from tenure.engines.etcd.grpc import Answer
    from tenure.model import Seconds

STALE_S: Final = 0.1
"""Seconds of idleness after which a look at the socket is worth its time."""

INVALID_ARGUMENT: Final = 3
NOT_FOUND: Final = 5
PERMISSION_DENIED: Final = 7
RESOURCE_EXHAUSTED: Final = 8
FAILED_PRECONDITION: Final = 9
UNIMPLEMENTED: Final = 12
UNAUTHENTICATED: Final = 16
"""gRPC's codes, as far as they mean something here."""

_CHUNK: Final = 65_536
_WAITS: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Refused(Exception):
    """The server has answered a request with an error.

    Attributes:
        code: gRPC's.
        text: the server's words.
        untouched: the server has certainly not begun with it.
    """

    def __init__(self, code: int, text: str, untouched: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.untouched = untouched


def _os_thread() -> int:
    ident: int = native.original("_thread", "get_ident")()
    return ident


class Pipe:
    """One connection, for one user at a time, or for one loop.

    Attributes:
        address: which node it leads to.
        http2: the protocol's state.
    """

    __slots__ = ("_socket", "_thread", "_used_at", "address", "http2")

    def __init__(self, sock: socket.socket, address: Address) -> None:
        self.address = address
        self.http2 = Connection(str(address), tls=isinstance(sock, ssl.SSLSocket))
        self._socket = sock
        self._used_at = time.monotonic()
        # A socket of gevent's belongs to the OS thread in which it was made: waiting for it in another one fails.
        self._thread = _os_thread() if native.is_patched() else None

    def fileno(self) -> int:
        """For waiting until there is something to `take`."""
        return self._socket.fileno()

    def greet(self, end: float) -> None:
        """Wait until the server has spoken: a stopped one accepts connections, and never says a word.

        Raises:
            OSError: it did not until `end`, or is no HTTP/2 server.
        """
        while not self.http2.is_greeted:
            self._step(end)
        self._send(end)

    def exchange(self, path: str, message: bytes, token: str, timeout: Seconds) -> list[bytes]:
        """Send a request and wait for its whole answer.

        Raises:
            Refused: the server's error; the connection is in order.
            OSError: the connection is of no use any more; also TimeoutError, after `timeout` seconds.
        """
        end = time.monotonic() + timeout
        stream = self.http2.request(path, message, token=token)
        messages: list[bytes] = []
        self._send(end)
        while True:
            for answer in self._step(end):
                if answer.stream != stream:
                    continue
                messages += answer.messages
                if answer.status is None:
                    continue
                self._used_at = time.monotonic()
                if answer.status:
                    raise Refused(answer.status, answer.text, answer.untouched)
                return messages

    def _send(self, end: float) -> None:
        out = self.http2.take()
        if out:
            self._socket.settimeout(max(0.001, end - time.monotonic()))
            self._socket.sendall(out)

    def _step(self, end: float) -> list[Answer]:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if self.http2.out:  # pongs alone go with the next request
            self._send(end)
        self._socket.settimeout(left)
        return self.http2.feed(self._socket.recv(_CHUNK))

    def is_stale(self) -> bool:
        """Whether it was idle for a while and the server has closed it, or is about to.

        Without this look, the first request after a pause has an unknown outcome.
        """
        if self._thread is not None and self._thread != _os_thread():
            return True
        if self.http2.is_spent:
            return True
        if time.monotonic() - self._used_at < STALE_S:
            return False
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._socket, selectors.EVENT_READ)
                while selector.select(0):
                    # The server may have asked something meanwhile; that is answered with the next request.
                    self.http2.feed(self._socket.recv(_CHUNK))
        except (OSError, ValueError):
            return True
        return self.http2.is_spent

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

    def take(self) -> list[Answer]:
        """The answers that have come, perhaps none.

        Raises:
            OSError: the connection is of no use any more, and nothing more can be taken.
        """
        sock = self._socket
        answers: list[Answer] = []
        try:
            while True:
                chunk = sock.recv(_CHUNK)
                answers += self.http2.feed(chunk)
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
        self._socket.close()
