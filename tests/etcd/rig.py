"""What tests of the etcd engine share: its requests without a client, and a store of its own for each test."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Self

from tenure.engines.etcd.dial import Dialer
from tenure.engines.etcd.life import Life
from tenure.engines.etcd.requests import Requests
from tenure.engines.etcd.store import EtcdStore
from tenure.engines.etcd.transport_blocking import BlockingWire
from tenure.engines.etcd.url import parse
from tenure.engines.etcd.watches import Watches
from tenure.model import EXCLUSIVE, Instant, Mode
from tenure.ports import Closing, Entry, SessionCard
from tenure.runtimes import native
from tenure.runtimes.blocking import run
from tests.servers.processes import until

if TYPE_CHECKING:
    from tenure import Client
    from tenure.ports import ClaimRef
    from tests.servers.etcd import EtcdServer
    from tests.servers.proxy import Proxy

_serial = itertools.count(1)

PATIENCE = 5.0
"""Seconds that a request of a test may take."""


def fresh(url: str) -> str:
    """A store of its own on the same nodes."""
    return f"{url}/t{next(_serial)}"


def through(proxy: Proxy, url: str = "") -> str:
    """The URL of the server behind a proxy; the store is that of another URL."""
    _, _, root = url.removeprefix("etcd://").partition("/")
    return f"etcd://{proxy.host}:{proxy.port}" + (f"/{root}" if root else "")


def hears(server: EtcdServer, count: int = 1) -> None:
    """Wait until so many watches stand."""
    until(lambda: server.metric("etcd_debugging_mvcc_watcher_total") >= count, f"{count} watches stand")


class Bare:
    """The store's port without a client.

    Attributes:
        store: blocking.
        ask: what it rests on.
        wire: its transport.
    """

    def __init__(self, url: str, namespace: str = "bare") -> None:
        self.dialer = Dialer(parse(url))
        self.wire = BlockingWire(self.dialer)
        self.life = Life()
        self.watches = Watches()
        self.ask = Requests(self.wire, self.dialer, namespace, self.life, native.now)
        self.store = EtcdStore(self.ask, self.watches, {}, namespace)
        self.namespace = namespace
        run(self.store.authority(PATIENCE))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.shut()

    def until(self) -> float:
        return native.now() + PATIENCE

    def entry(
        self,
        session: str,
        claim: int = 1,
        name: str = "n",
        *,
        ttl: float = 5.0,
        opening: bool = True,
        extend: bool = False,
        mode: Mode = EXCLUSIVE,
        delay: float = 0.0,
        at_once: bool = False,
        again: bool = False,
    ) -> Entry:
        """A request to enter."""
        card = SessionCard(session, ttl, "", "", "", 0)
        return Entry(card, opening, extend, claim, f"{self.namespace}:{name}", mode, delay, "", at_once, again)


def closing(ref: ClaimRef, *, tombstone: bool = False, clean: bool = True) -> Closing:
    """A request to close."""
    return Closing(ref, tombstone, clean, False, 5.0)


def waits(client: Client, name: str, count: int = 1) -> None:
    """Wait until so many wait for a name."""
    until(lambda: len(client.inspect(name).waiters) == count, f"{count} wait for {name}")


def later(seconds: float) -> Instant:
    """An instant from now."""
    return Instant(native.now() + seconds)
