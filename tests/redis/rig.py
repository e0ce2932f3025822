"""What tests of the Redis engine share: its store without a client, and clients that are watched from outside."""

from __future__ import annotations

import contextlib
import re
import socket
from typing import TYPE_CHECKING, Any

from tenure import Lease, LossReason
from tenure.engines.redis.pipe import Pipe
from tenure.model import LeaseState
from tenure.observe.events import Lost, Renewed
from tests.docs.blocks import ROOT
from tests.servers.processes import until
from tests.servers.resp import command
from tests.timing import SLACK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.faces.watched import Told
    from tests.servers.proxy import Proxy
    from tests.servers.redis import RedisServer
    from tests.servers.resp import Word


class SocketWire:
    """As `store.Wire`: one plain connection, through the server's Unix socket, without redis-py."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(5.0)
        self.socket.connect(path)
        self.pipe = Pipe(self)

    async def exchange(self, payload: bytes, replies: int, timeout: float) -> list[Any]:
        return self.pipe.exchange(payload, replies, timeout)

    def ask(self, *commands: Sequence[Word]) -> list[Any]:
        """Send commands of the test's own, in one round trip; their replies, as they came."""
        return self.pipe.exchange(b"".join(command(*words) for words in commands), len(commands), 5.0)

    def forget(self) -> None:
        raise AssertionError("this server says that it is no master")

    def disconnect(self) -> None:
        self.socket.close()


@contextlib.contextmanager
def socket_wire(server: RedisServer) -> Iterator[SocketWire]:
    """A connection for one test."""
    wire = SocketWire(server.socket_path)
    try:
        yield wire
    finally:
        wire.disconnect()


LONG = 60.0
"""A ttl that no test outlasts."""

TURN_OFF = re.findall(r'EVAL "(.*)" 1', (ROOT / "docs/redis.md").read_text("utf-8"))[0]
"""The script by which the documents turn plain keys off."""

# -- clients, watched -------------------------------------------------------------------------------------------------


def through(proxy: Proxy) -> str:
    """The URL of the server behind a proxy."""
    return f"redis://{proxy.host}:{proxy.port}"


def listens(server: RedisServer, count: int = 1) -> None:
    """Wait until so many mailboxes listen."""
    until(lambda: server.info("clients")["blocked_clients"] == str(count), f"{count} mailboxes listen")


# -- losses ------------------------------------------------------------------------------------------------------------

TTL = 1.5
"""Renewed each 0.5 s; a request without an answer is given up after 0.25 s."""

PERIOD = TTL / 3


def is_told(lease: Lease, told: Told, since: float, reason: LossReason = LossReason.STORE_LOST) -> None:
    """The holder learns of its loss at its next heartbeat, and long before its deadline."""
    at = told.wait(Lost, since)
    print(f"told after {at - since:.3f} s at a ttl of {TTL:g} s: {lease.lost}")
    assert lease.lost is reason
    assert at < lease.deadline
    assert at - since < PERIOD + SLACK
    assert lease.state is LeaseState.LOST


def stays(lease: Lease, told: Told, since: float) -> None:
    """The holder is renewed as if nothing had been."""
    at = told.wait(Renewed, since)
    print(f"renewed after {at - since:.3f} s at a ttl of {TTL:g} s")
    assert at - since < PERIOD + SLACK
    assert lease.held
    assert lease.lost is None
