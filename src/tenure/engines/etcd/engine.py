"""One client's access to a cluster of etcd.

All of this engine is imported with it, and so before any thread of a client runs: what is imported later may be caught
half-way by a fork, and the child would wait for ever for a thread that it does not have.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - getaddrinfo imports it late, perhaps while another thread forks
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tenure.engines import Engine
from tenure.engines.etcd.dial import Dialer
from tenure.engines.etcd.doctor import examine, require_durable_tokens
from tenure.engines.etcd.keys import Keys
from tenure.engines.etcd.life import Life
from tenure.engines.etcd.requests import Requests
from tenure.engines.etcd.store import EtcdStore
from tenure.engines.etcd.transport_aio import AioMailbox, AioWire
from tenure.engines.etcd.transport_blocking import BlockingMailbox, BlockingWire
from tenure.engines.etcd.watches import Watches
from tenure.runtimes import native

if TYPE_CHECKING:
    from tenure.engines.etcd.url import EtcdUrl
    from tenure.findings import Examination
    from tenure.model import Seconds
    from tenure.ports import ClaimRef, Mailbox, QueueStore, Runtime
    from tenure.runtimes.aio import AioRuntime


class EtcdEngine(Engine):
    """One client's access to one cluster: connections for callers, keeper and mailbox, made when needed."""

    kind = "etcd"
    capabilities = frozenset({"fifo", "shared", "semaphore", "multi_host"})
    conditional = frozenset({"durable_tokens"})
    scope = "all hosts that use this cluster"

    def __init__(self, url: EtcdUrl, namespace: str) -> None:
        self._dialer = Dialer(url)
        self._namespace = namespace
        self._address = ""
        self._watches = Watches()
        self._delays: dict[str, dict[int, None]] = {}
        # What was opened closes in the opposite order, also if opening failed half-way.
        self._closing = ExitStack()
        self._disowning = ExitStack()

    def open(self) -> None:
        self._life = Life()
        self._address = native.new_id()

    def verify(self, wanted: frozenset[str]) -> None:  # noqa: ARG002 - there is only the one that is conditional
        require_durable_tokens(self._dialer)

    def examine(self, ttl: Seconds) -> Examination:
        found = examine(self._dialer, self._namespace, ttl)
        return found._replace(capabilities=self.capabilities | found.capabilities)

    @property
    def address(self) -> str:
        return self._address

    def _store(self, wire: BlockingWire | AioWire, runtime: Runtime) -> QueueStore:
        self._closing.callback(wire.shut)
        self._disowning.callback(wire.disown)
        ask = Requests(wire, self._dialer, self._namespace, self._life, runtime.now)
        return EtcdStore(ask, self._watches, self._delays, self._namespace)

    def store(self, runtime: Runtime) -> QueueStore:
        return self._store(BlockingWire(self._dialer), runtime)

    def keeper_store(self, runtime: Runtime) -> QueueStore:
        return self.store(runtime)

    def aio_store(self, runtime: AioRuntime) -> QueueStore:
        return self._store(AioWire(self._dialer, runtime.loop), runtime)

    def mailbox(self, runtime: Runtime) -> Mailbox:
        return self._kept(
            BlockingMailbox(self._dialer, Keys(self._dialer.root, self._namespace), self._watches, runtime)
        )

    def aio_mailbox(self, runtime: AioRuntime) -> Mailbox:
        return self._kept(AioMailbox(self._dialer, Keys(self._dialer.root, self._namespace), self._watches, runtime))

    def _kept(self, mailbox: BlockingMailbox | AioMailbox) -> Mailbox:
        self._closing.callback(mailbox.close)
        self._disowning.callback(mailbox.disown)
        return mailbox

    def claim_key(self, ref: ClaimRef) -> tuple[bytes, int]:
        """Where a claim lies, and its create revision."""
        name = ref.name.partition(":")[2]
        key = Keys(self._dialer.root, self._namespace).claim(name, ref.session, ref.claim)
        return key, ref.number - self._life.base

    def disown(self) -> None:
        self._disowning.close()

    def close(self) -> None:
        self._closing.close()
