"""One client's access to a ZooKeeper ensemble.

All of this engine is imported with it, and so before any thread of a client runs: what is imported later may be caught
half-way by a fork, and the child would wait for ever for a thread that it does not have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenure.engines import Engine
from tenure.engines.tls import context
from tenure.engines.zookeeper.doctor import examine
from tenure.engines.zookeeper.hub import Hub
from tenure.engines.zookeeper.layout import Layout
from tenure.engines.zookeeper.mailbox import ZooKeeperMailbox
from tenure.engines.zookeeper.store import ZooKeeperStore

if TYPE_CHECKING:
    from tenure.engines.zookeeper.dial import Dialer
    from tenure.findings import Examination
    from tenure.model import Seconds
    from tenure.ports import Mailbox, QueueStore, Runtime
    from tenure.runtimes.aio import AioRuntime


class ZooKeeperEngine(Engine):
    """One client's access: a session for each of the client's own, with one thread and one connection."""

    kind = "zookeeper"
    capabilities = frozenset({"fifo", "shared", "semaphore", "multi_host", "durable_tokens"})
    scope = "all hosts that use this ensemble"

    def __init__(self, dialer: Dialer, namespace: str) -> None:
        self._dialer = dialer
        self._layout = Layout(dialer.url.chroot, namespace)
        self._hub = Hub(dialer, self._layout)

    def open(self) -> None:
        if self._dialer.url.tls is not None:
            context(self._dialer.url.tls)

    def examine(self, ttl: Seconds) -> Examination:
        found = examine(self._dialer, self._layout, ttl)
        return found._replace(capabilities=self.capabilities | found.capabilities)

    @property
    def address(self) -> str:
        return ""

    def store(self, runtime: Runtime) -> QueueStore:
        return ZooKeeperStore(self._hub, runtime)

    def keeper_store(self, runtime: Runtime) -> QueueStore:
        return ZooKeeperStore(self._hub, runtime)

    def aio_store(self, runtime: AioRuntime) -> QueueStore:
        return ZooKeeperStore(self._hub, runtime)

    def mailbox(self, runtime: Runtime) -> Mailbox:
        self._hub.mailbox = ZooKeeperMailbox(runtime)
        return self._hub.mailbox

    def aio_mailbox(self, runtime: AioRuntime) -> Mailbox:
        return self.mailbox(runtime)

    def disown(self) -> None:
        self._hub.disown()

    def close(self) -> None:
        self._hub.shut()
