"""Connections to the servers of an ensemble: TCP or TLS, the first message, and the login.

Promises: `Dialer.dial` ends within its timeout in a connection on which a session lives, or in an error; no error shows
a password. A read-only server is never talked to: the first message says so, and such a server hangs up.
Does not promise that looking up a host's name ends in time: the C library has its own limits.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - getaddrinfo imports it late, perhaps while another thread forks
import socket
import ssl
import struct
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenure.engines.tls import context
from tenure.engines.zookeeper import jute
from tenure.errors import StoreUnavailable, UnsafeSetup
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenure.engines.address import Address
    from tenure.engines.zookeeper.url import ZooKeeperUrl
    from tenure.model import Instant, Seconds

FIRST_MOST: Final = 1 << 20
"""Bytes of a message during the handshake; whoever announces more is no ZooKeeper."""


class Expired(Exception):
    """The servers know this session no more: it is over, and so are its nodes."""


class Dialled(NamedTuple):
    """A connection that is ready for requests.

    Attributes:
        sent: before the first message was sent; the session lives on from there.
        connected: what was answered to it.
        seen: the last zxid that the server named.
    """

    socket: socket.socket
    sent: Instant
    connected: jute.Connected
    seen: int


class Dialer:
    """Knows the servers, and who we are. Immutable; shared by threads."""

    def __init__(self, url: ZooKeeperUrl) -> None:
        self.url = url
        self._handshake: Callable[..., int] | None = None
        if url.sasl is not None:
            # By name: only who asks for it needs its library.
            self._handshake = import_module("tenure.engines.zookeeper.sasl").handshake

    def plain(self, address: Address, timeout: Seconds) -> socket.socket:
        """A connection without a session.

        Raises:
            OSError: there is none.
            UnsafeSetup: the server's certificate, or ours, is not accepted.
        """
        end = time.monotonic() + timeout
        guard = None if self.url.tls is None else context(self.url.tls)
        sock = socket.create_connection((address.host, address.port), timeout)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if guard is not None:
                sock.settimeout(max(0.001, end - time.monotonic()))
                sock = guard.wrap_socket(sock, server_hostname=address.host)
        except ssl.SSLCertVerificationError as error:
            sock.close()
            raise UnsafeSetup(f"{address}: its certificate is not accepted: {error.verify_message}") from error
        except BaseException:
            sock.close()
            raise
        return sock

    def dial(
        self, address: Address, timeout: Seconds, asked_ms: int, known: jute.Connected | None, seen: int
    ) -> Dialled:
        """Connect, open a session or go on with one, and log in.

        Args:
            address: which server.
            timeout: for all of it.
            asked_ms: the session's timeout.
            known: the session to go on with; None opens one.
            seen: the last zxid that the session has seen; a server that is behind it hangs up.

        Raises:
            StoreUnavailable: nothing was asked.
            UnsafeSetup: the server refuses us for good.
            Expired: the session is over.
        """
        end = time.monotonic() + timeout
        try:
            sock = self.plain(address, timeout)
        except OSError as error:
            raise StoreUnavailable(f"{address}: {error}") from error
        try:
            sent = native.now()
            line = Line(sock, end)
            session, password = (known.session, known.password) if known else (0, bytes(16))
            line.send(jute.connect(seen, asked_ms, session, password))
            connected = jute.connected(line.receive())
            if connected.timeout_ms <= 0:
                raise Expired
            seen = max(seen, self._log_in(line, address))
        except (OSError, struct.error) as error:
            sock.close()
            raise StoreUnavailable(f"{address} opened no session: {error!s:.200}") from error
        except BaseException:
            sock.close()
            raise
        sock.setblocking(False)
        return Dialled(sock, sent, connected, seen)

    def _log_in(self, line: Line, address: Address) -> int:
        login = self.url.login
        if self._handshake is not None:
            return self._handshake(self.url, address, line.ask)
        if login is None:
            return 0
        line.send(jute.login("digest", f"{login.username}:{login.password}".encode()))
        while True:
            xid, seen, code = jute.header(line.receive())
            if xid == jute.AUTH_XID:
                break
        if code != jute.OK:
            raise UnsafeSetup(f"{address} refuses this login")
        return max(0, seen)


class Line:
    """Messages one after another, each answered before the next, until an instant of the monotonic clock."""

    def __init__(self, sock: socket.socket, end: float) -> None:
        self._socket = sock
        self._end = end

    def send(self, message: bytes) -> None:
        """Write a message."""
        self._socket.settimeout(max(0.001, self._end - time.monotonic()))
        self._socket.sendall(message)

    def receive(self) -> bytes:
        """Read a message; an end of the stream is an `OSError`."""
        (length,) = struct.unpack(">i", self._exactly(4))
        if not 0 < length <= FIRST_MOST:
            raise OSError("what it says is not ZooKeeper's protocol")
        return self._exactly(length)

    def ask(self, xid: int, request: jute.Request) -> tuple[Any, int]:
        """One request; its answer and the zxid that came with it."""
        self.send(jute.frame(xid, request))
        data = self.receive()
        _, seen, code = jute.header(data)
        return jute.answer(request, data, code), max(0, seen)

    def _exactly(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            self._socket.settimeout(max(0.001, self._end - time.monotonic()))
            part = self._socket.recv(count - len(found))
            if not part:
                raise OSError("it hung up (no quorum, a read-only server, or one that is behind)")
            found += part
        return found
