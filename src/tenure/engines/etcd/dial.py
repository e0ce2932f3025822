"""Connecting to a cluster: which node, how guarded, and who we are there.

Promises: nodes are tried one after another, each with its part of the time, and one that has failed is tried last; a
token is asked for once and shared by all connections of a client until the server no longer takes it.
Does not promise the nearest node, nor the leader: any node serves, and those that are no leader ask it.
"""

from __future__ import annotations

import random
import socket
import ssl
import time
from typing import TYPE_CHECKING, Final

from tenure.engines.etcd.messages import AUTHENTICATE, data, fields, message
from tenure.engines.etcd.pipe import INVALID_ARGUMENT, UNAUTHENTICATED, Pipe, Refused
from tenure.engines.tls import context
from tenure.errors import StoreUnavailable, UnsafeSetup
from tenure.runtimes import native

if TYPE_CHECKING:
    from tenure.engines.address import Address
    from tenure.engines.etcd.url import EtcdUrl
    from tenure.model import Seconds

NODE_LEAST_S: Final = 0.05
"""Seconds that one node is given at least, where several share the time."""


class Dialer:
    """How one client connects."""

    def __init__(self, url: EtcdUrl) -> None:
        self.login = url.login
        self.shown = url.shown
        self.nodes = url.nodes
        self.root = url.root
        self.is_guarded = url.tls is not None
        self.token = ""
        """Who we are, as etcd has put it; empty until it was asked, or where nobody logs in."""
        self._url = url
        # Clients begin at different nodes, so that one does not serve them all.
        self._order = random.sample(url.nodes, len(url.nodes))
        self._mutex = native.mutex()

    def dial(self, timeout: Seconds) -> Pipe:
        """Connect to the first node that answers.

        Raises:
            StoreUnavailable: none did within `timeout`.
            UnsafeSetup: a certificate is wrong, here or there.
        """
        end = time.monotonic() + timeout
        said: list[str] = []
        nodes = list(self._order)
        for left, address in zip(range(len(nodes), 0, -1), nodes, strict=True):
            part = max(NODE_LEAST_S, (end - time.monotonic()) / left)
            try:
                return self._dial(address, time.monotonic() + part)
            except ssl.SSLCertVerificationError as error:
                raise UnsafeSetup(
                    f"{address}: its certificate is not trusted ({error.verify_message}); option ca names whom to trust"
                ) from error
            except OSError as error:
                said.append(f"{address}: {error}")
                self.avoid(address)
            if time.monotonic() >= end:
                break
        raise StoreUnavailable(f"no node of etcd answers ({'; '.join(said)})")

    def avoid(self, address: Address) -> None:
        """Try this node last from now on."""
        with self._mutex:
            if len(self._order) > 1 and self._order[0] == address:
                self._order.append(self._order.pop(0))

    def dial_node(self, address: Address, timeout: Seconds) -> Pipe:
        """Connect to one node.

        Raises:
            OSError: it does not answer.
        """
        return self._dial(address, time.monotonic() + timeout)

    def _dial(self, address: Address, end: float) -> Pipe:
        guard = None if self._url.tls is None else context(self._url.tls, "h2")
        sock = socket.create_connection((address.host, address.port), max(0.001, end - time.monotonic()))
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if guard is not None:
                sock.settimeout(max(0.001, end - time.monotonic()))
                sock = guard.wrap_socket(sock, server_hostname=address.host)
            pipe = Pipe(sock, address)
            pipe.greet(end)
            if pipe.http2.is_full:
                raise OSError("it takes no requests now")
            if self.login.username and not self.token:
                self._log_in(pipe, end)
        except BaseException:
            sock.close()
            raise
        return pipe

    def _log_in(self, pipe: Pipe, end: float) -> None:
        request = message((1, self.login.username.encode()), (2, self.login.password.encode()))
        try:
            answers = pipe.exchange(AUTHENTICATE, request, "", max(0.001, end - time.monotonic()))
        except Refused as error:
            if "authentication is not enabled" in error.text:
                return  # then nobody asks who we are
            if error.code in (INVALID_ARGUMENT, UNAUTHENTICATED):
                raise UnsafeSetup(f"{pipe.address}: the user or the password is wrong ({error.text})") from error
            raise OSError(error.text) from error
        self.token = data(fields(b"".join(answers)), 2).decode("ascii")

    def forget_token(self, token: str) -> None:
        """The server does not take this token any more."""
        with self._mutex:
            if self.token == token:
                self.token = ""
