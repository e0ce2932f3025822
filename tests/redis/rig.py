"""What tests of the Redis engine share: its store without a client, over a plain socket."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

from tenure.engines.redis.pipe import Pipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.redis import RedisServer


class SocketWire:
    """As `store.Wire`: one plain connection, without redis-py."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=5.0)
        self.pipe = Pipe(self)

    async def exchange(self, payload: bytes, replies: int, timeout: float) -> list[Any]:
        return self.pipe.exchange(payload, replies, timeout)

    def forget(self) -> None:
        raise AssertionError("this server says that it is no master")

    def disconnect(self) -> None:
        self.socket.close()


@contextlib.contextmanager
def socket_wire(server: RedisServer) -> Iterator[SocketWire]:
    """A connection for one test."""
    wire = SocketWire(server.address)
    try:
        yield wire
    finally:
        wire.disconnect()
