"""One client's access to a Redis Cluster: the names of a namespace, spread over the masters that share the slots."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

from tenure.engines import Engine
from tenure.engines.redis.cluster import Wires, here
from tenure.engines.redis.doctor import CONDITIONAL
from tenure.engines.redis.doctor_cluster import examine_cluster, require_durable_tokens_of
from tenure.engines.redis.engine import CAPABILITIES, asked_pipe
from tenure.engines.redis.mailboxes import AioMailboxes, BlockingMailboxes, Ends
from tenure.engines.redis.partitions import KeeperStore, Layout, PartitionedStore
from tenure.engines.redis.scripts import STEPS, script_on_cluster
from tenure.engines.redis.transport_aio import AioWire
from tenure.engines.redis.transport_blocking import BlockingWire, KeeperWire
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tenure.engines.redis.cluster import Cluster, Node, W
    from tenure.engines.redis.pipe import Pipe
    from tenure.findings import Examination
    from tenure.model import Seconds
    from tenure.ports import Mailbox, QueueStore, Runtime
    from tenure.protocols.keep import Renewal
    from tenure.runtimes.aio import AioRuntime

for _name in ("genesis", *STEPS):
    script_on_cluster(_name)  # as in `engine`: nothing is read late


class ClusterEngine(Engine):
    """One client's access to a cluster, over connections that are made when they are needed.

    To each master in use there are one for the keeper and a few for callers, as to a single server; and there is one
    for each partition in which somebody waits.
    """

    kind = "redis"
    capabilities = CAPABILITIES
    conditional = CONDITIONAL
    scope = "all hosts that use this cluster"

    def __init__(self, cluster: Cluster, namespace: str, partitions: int | None, acknowledge: int = 0) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._layout = Layout(namespace, partitions)
        self._acknowledge = acknowledge
        self._address = ""
        # What was opened closes in the opposite order, also if opening failed half-way.
        self._closing = ExitStack()
        self._disowning = ExitStack()

    def open(self) -> None:
        self._address = native.new_id()

    def verify(self, wanted: frozenset[str]) -> None:  # noqa: ARG002 - there is only the one that is conditional
        require_durable_tokens_of(self._cluster)

    def examine(self, ttl: Seconds) -> Examination:
        found = examine_cluster(self._cluster, self._namespace, ttl)
        return found._replace(capabilities=self.capabilities | found.capabilities)

    @property
    def address(self) -> str:
        return self._address

    def part(self, name: str) -> str:
        return self._layout.part(name)

    async def beats(self, store: QueueStore, renewals: Sequence[Renewal]) -> None:
        await cast("KeeperStore", store).beats(renewals)  # as `keeper_store` made it

    def _opener(self, node: Node) -> Callable[[Seconds], Pipe]:
        return lambda timeout: asked_pipe(node.dialer, timeout, node.note)

    def store(self, runtime: Runtime) -> QueueStore:
        wires = Wires(self._cluster, lambda node: BlockingWire(self._opener(node)), here, runtime)
        return PartitionedStore(self._kept(wires), self._layout, self._acknowledge)

    def keeper_store(self, runtime: Runtime) -> QueueStore:
        wires = Wires(self._cluster, lambda node: KeeperWire(self._opener(node)), here, runtime)
        return KeeperStore(self._kept(wires), self._layout, self._acknowledge)

    def aio_store(self, runtime: AioRuntime) -> QueueStore:
        async def aside(do: Callable[[], None]) -> None:
            doing = runtime.loop.run_in_executor(None, do)
            # Its caller may be cancelled meanwhile, and then nobody else asks what came of it.
            doing.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.shield(doing)

        wires = Wires(self._cluster, lambda node: AioWire(self._opener(node), runtime.loop), aside, runtime)
        return PartitionedStore(self._kept(wires), self._layout, self._acknowledge)

    def _kept(self, wires: Wires[W]) -> Wires[W]:
        self._closing.callback(wires.shut)
        self._disowning.callback(wires.disown)
        return wires

    def mailbox(self, runtime: Runtime) -> Mailbox:
        mailbox = BlockingMailboxes(runtime, self._ends())
        mailbox.hints_only = self._acknowledge > 0
        self._closing.callback(mailbox.close)
        self._disowning.callback(mailbox.disown)
        return mailbox

    def aio_mailbox(self, runtime: AioRuntime) -> Mailbox:
        mailbox = AioMailboxes(runtime, self._ends())
        mailbox.hints_only = self._acknowledge > 0
        self._closing.callback(mailbox.close)
        self._disowning.callback(mailbox.disown)
        return mailbox

    def _ends(self) -> Ends:
        return Ends(self._cluster, self._layout, self._address, self._opener)

    def disown(self) -> None:
        self._disowning.close()

    def close(self) -> None:
        self._closing.close()
