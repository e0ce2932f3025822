"""What tests of the ZooKeeper engine share: clients that are watched from outside, and what a server is told."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tenure import Client
from tenure.engines.zookeeper import jute
from tenure.engines.zookeeper.dial import Dialer
from tenure.engines.zookeeper.link import Link
from tenure.engines.zookeeper.url import parse
from tenure.engines.zookeeper.wire import Batch
from tests.faces.watched import Attempt, Looped, Told, has_paid
from tests.servers.processes import until

if TYPE_CHECKING:
    from tests.servers.proxy import Proxy
    from tests.servers.zookeeper import Ensemble, ZooKeeperServer

__all__ = [
    "LONG",
    "TREE",
    "TTL",
    "Attempt",
    "Hand",
    "Looped",
    "Told",
    "client",
    "has_paid",
    "through",
    "url",
    "waits",
]

TTL = 1.8
"""A heartbeat each 0.3 s; a request without an answer is given up after as much."""

LONG = 60.0
"""A ttl that no test outlasts."""


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


def watch(server: ZooKeeperServer, url: str, count: int) -> None:
    """Wait until so many sessions watch claims of a store: only now is a release of theirs what wakes them."""
    queues = re.compile(rf"^{re.escape(parse(url).chroot)}/.*/queues/.*\n((?:\t.*\n)+)", re.MULTILINE)

    def found() -> int:
        return sum(sessions.count("\n") for sessions in queues.findall(server.word("wchp")))

    until(lambda: found() == count, f"{count} watch")


TREE: Final = "/tenure"


class Hand:
    """An operator's own session."""

    def __init__(self, url: str) -> None:
        self.chroot = parse(url).chroot
        self._link = Link(Dialer(parse(url)), 30.0)

    def ask(self, *requests: jute.Request) -> list[Any]:
        batch = Batch(requests, lambda: None)
        self._link.submit(batch)
        until(lambda: batch.is_done, "an answer")
        assert batch.error is None, batch.error
        return batch.answers

    def children(self, path: str) -> list[str]:
        [found] = self.ask(jute.children(self.chroot + path))
        return [] if isinstance(found, jute.Refusal) else list(found)

    def tree(self) -> str:
        """Where everything of the genesis record in force is."""
        [node] = self.children(TREE)
        return f"{TREE}/{node}"

    def close(self) -> None:
        self._link.close()
