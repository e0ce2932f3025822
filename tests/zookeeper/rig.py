"""What tests of the ZooKeeper engine share: clients that are watched from outside, and what a server is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tenure import Client
from tests.faces.watched import Attempt, Looped, Told, has_paid
from tests.servers.processes import until

if TYPE_CHECKING:
    from tests.servers.proxy import Proxy
    from tests.servers.zookeeper import Ensemble, ZooKeeperServer

__all__ = ["LONG", "SLACK", "TTL", "Attempt", "Looped", "Told", "client", "has_paid", "through", "url", "waits"]

TTL = 1.8
"""A heartbeat each 0.3 s; a request without an answer is given up after as much."""

LONG = 60.0
"""A ttl that no test outlasts."""

SLACK = 0.8
"""Seconds that a busy machine may take for what takes none."""


def url(server: ZooKeeperServer | Ensemble, chroot: str = "") -> str:
    """The URL of a server, or of an ensemble, with the tick that it has."""
    return f"{server.url}{chroot}?{server.options}"


def through(proxy: Proxy, server: ZooKeeperServer | Ensemble) -> str:
    """The URL of the server behind a proxy."""
    return f"zookeeper://{proxy.host}:{proxy.port}?{server.options}"


def client(server: ZooKeeperServer | Ensemble, **options: Any) -> Client:
    """A client of a server."""
    return Client(url(server), **options)


def waits(client: Client, name: str, count: int = 1) -> None:
    """Wait until so many wait for a name."""
    until(lambda: len(client.inspect(name).waiters) == count, f"{count} wait for {name}")
