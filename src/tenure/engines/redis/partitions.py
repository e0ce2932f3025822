"""The store's port over the partitions of a cluster: a name, and whoever holds or wants it, is in one of them.

Promises: the number of partitions is what the store's genesis says; a client that was told another one is refused
before it touches a name; a partition that cannot be reached holds up requests, heartbeats and leases of no other.
Does not promise one step over several names: each step is in one partition.
"""

from __future__ import annotations

import selectors
import zlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple

from redis.exceptions import ResponseError

from tenure.engines.redis.cluster import Node, Partition, RoutedWire, W, is_moving
from tenure.engines.redis.explain import explain
from tenure.engines.redis.life import ASK, FORMAT, QUESTIONS
from tenure.engines.redis.scripts import command, script_on_cluster
from tenure.engines.redis.store import RedisStore, genesis_key
from tenure.engines.redis.url import PARTITIONS_MOST
from tenure.errors import IncompatibleStore, OutcomeUnknown, SetupError, StoreUnavailable
from tenure.model import Instant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenure.engines.redis.cluster import Wires
    from tenure.engines.redis.pipe import Pipe
    from tenure.engines.redis.transport_blocking import KeeperWire
    from tenure.model import Queue, Seconds
    from tenure.ports import Beat, ClaimRef, Closing, Entry, Place
    from tenure.protocols.keep import Renewal

PARTITIONS: Final = 16
"""Of a new store, unless the first client says otherwise: more than most clusters have masters, and few enough that
one heartbeat for each is nothing."""

SPOKEN_ON_CLUSTERS: Final = (FORMAT,)
"""A name's plain key is in another slot than its queue: no script has both."""

PAUSES_S: Final = (0.0, 0.05, 0.2, 0.5)
"""Seconds after each attempt to see all the records that there might be."""

_MARK: Final = "."
"""Between a session's random id, which never has one, and its partition."""


class Layout:
    """How the names of a namespace are spread. Shared by the stores of one client."""

    def __init__(self, namespace: str, wanted: int | None) -> None:
        """Know nothing yet but what this client was told.

        Args:
            namespace: whose names.
            wanted: the number of partitions that must be in force; None for any.
        """
        self.namespace = namespace
        self.wanted = wanted
        self.count = 0
        """The number in force; 0 until the genesis record was read."""
        self._partitions: dict[int, Partition] = {}

    def partition(self, index: int) -> Partition:
        """One partition, the same one for all stores."""
        found = self._partitions.get(index)
        return found or self._partitions.setdefault(index, Partition(self.namespace, index))

    def of(self, key: str) -> int:
        """The partition of a name, given as the protocols know it."""
        return zlib.crc32(key[len(self.namespace) + 1 :].encode()) % self.count

    def part(self, key: str) -> str:
        """What the ids of sessions end with that hold this name, as `Engine.part`."""
        return f"{_MARK}{self.of(key)}"


def partition_of(session: str) -> int:
    """Where a session lives."""
    return int(session.rpartition(_MARK)[2])


class _Record(NamedTuple):
    format: str
    partitions: int


class PartitionStore(RedisStore):
    """One partition's store."""

    _script = staticmethod(script_on_cluster)
    _spoken = SPOKEN_ON_CLUSTERS

    def __init__(self, store: PartitionedStore[W], wire: RoutedWire[W], partition: Partition) -> None:
        self._all = store
        self.partition = partition
        now = store.wires.runtime.now
        super().__init__(wire, store.layout.namespace, partition.life, now, partition.index, store.acknowledge)

    async def adopt(self, timeout: Seconds) -> None:
        """Go by the genesis record, made if there is none."""
        await self._adopt(timeout)

    async def record(self, timeout: Seconds) -> _Record | None:
        """The genesis record; None if there is none."""
        payload = command(("HMGET", self._genesis, "format", "partitions"))
        answer = (await self._wire.exchange(payload, 1, timeout))[0]
        if isinstance(answer, ResponseError):
            raise explain(answer) from answer
        found, count = answer
        return None if found is None else _Record(found.decode("utf-8", "replace"), int(count or 0))

    async def _adopt(self, timeout: Seconds, count: int = 0) -> None:  # noqa: ARG002 - it is the layout's
        until = self._now() + timeout
        if await self.record(timeout) is None:
            await self._all.vouch(self.partition.index, until - self._now())
        await super()._adopt(max(0.001, until - self._now()), self._all.layout.count)

    # -- a heartbeat in two halves, for many are sent before the first is answered -----------------------------------

    def pulse(self, session: str, ttl: Seconds, waiting: bool) -> bytes:
        """A heartbeat's request, of `PULSE` replies."""
        words = (*self._script("heartbeat").by_hash, 1, self._genesis, FORMAT, self._life.id)
        return command((*words, session, int(ttl * 1e6), int(waiting))) + ASK

    def beat(self, answers: list[Any], session: str, ttl: Seconds, acknowledged: Any) -> Beat | None:
        """What was answered; None if it has to be asked at length, for something is not as it was.

        Args:
            answers: to a `pulse`.
            session: whose.
            ttl: its.
            acknowledged: the answer to the question that followed it, if one is asked.

        Raises:
            OutcomeUnknown: too few replicas have it.
        """
        reply = answers[0]
        if isinstance(reply, ResponseError) or reply[0] not in (b"lives", b"over"):
            return None
        self._life.note(answers[1:])
        if self._acknowledge:
            self._check_acknowledged(reply, acknowledged)
        return self._beat(reply, session, ttl)


PULSE: Final = 1 + QUESTIONS


class PartitionedStore(Generic[W]):
    """As `ports.QueueStore`."""

    def __init__(self, wires: Wires[W], layout: Layout, acknowledge: int = 0) -> None:
        """Ask nothing yet.

        Args:
            wires: to the masters.
            layout: the partitions.
            acknowledge: as of `RedisStore`.
        """
        self.wires = wires
        self.layout = layout
        self.acknowledge = acknowledge
        self._now = wires.runtime.now
        self._stores: dict[int, PartitionStore] = {}

    async def _at(self, index: int, timeout: Seconds) -> PartitionStore:
        store = self._stores.get(index) or self._store(index)
        if not store.partition.life.id:
            await store.adopt(timeout)
        return store

    def _store(self, index: int) -> PartitionStore:
        partition = self.layout.partition(index)
        return self._stores.setdefault(index, PartitionStore(self, RoutedWire(self.wires, partition), partition))

    # -- the port: each step in its partition -----------------------------------------------------------------------

    async def enter(self, entry: Entry, timeout: Seconds) -> Place:
        return await (await self._at(partition_of(entry.session.id), timeout)).enter(entry, timeout)

    async def look(self, ref: ClaimRef, timeout: Seconds) -> Place:
        return await (await self._at(partition_of(ref.session), timeout)).look(ref, timeout)

    async def close(self, closings: Sequence[Closing], timeout: Seconds) -> list[bool]:
        until = self._now() + timeout
        there: dict[int, bool] = {}
        groups = defaultdict(list)
        for place, closing in enumerate(closings):
            groups[partition_of(closing.ref.session)].append(place)
        for index, places in groups.items():
            store = await self._at(index, max(0.001, until - self._now()))
            answers = await store.close([closings[place] for place in places], max(0.001, until - self._now()))
            there |= zip(places, answers, strict=True)
        return [there[place] for place in range(len(closings))]

    async def heartbeat(self, session: str, ttl: Seconds, waiting: bool, timeout: Seconds) -> Beat:
        return await (await self._at(partition_of(session), timeout)).heartbeat(session, ttl, waiting, timeout)

    async def standing(self, refs: Sequence[ClaimRef], timeout: Seconds) -> list[bool]:
        # Of one session, as a reconciliation is.
        return await (await self._at(partition_of(refs[0].session), timeout)).standing(refs, timeout) if refs else []

    async def claims(self, session: str, timeout: Seconds) -> list[ClaimRef]:
        return await (await self._at(partition_of(session), timeout)).claims(session, timeout)

    async def end(self, session: str, timeout: Seconds) -> None:
        await (await self._at(partition_of(session), timeout)).end(session, timeout)

    async def inspect(self, name: str, timeout: Seconds) -> Queue:
        return await (await self._at(self.layout.of(name), timeout)).inspect(name, timeout)

    async def names(self, prefix: str, timeout: Seconds) -> list[str]:
        until = self._now() + timeout
        found: list[str] = []
        for index in range(self.layout.count):
            store = await self._at(index, max(0.001, until - self._now()))
            found += await store.names(prefix, max(0.001, until - self._now()))
        return sorted(found)

    async def steal(self, name: str, number: int, timeout: Seconds) -> bool:
        return await (await self._at(self.layout.of(name), timeout)).steal(name, number, timeout)

    async def authority(self, timeout: Seconds) -> str:
        until = self._now() + timeout
        await self._agree(timeout)
        await self._store(0).check_rights(max(0.001, until - self._now()))
        return f"redis:{self.layout.partition(0).life.id}"

    # -- how many partitions there are (B12) ------------------------------------------------------------------------

    async def _agree(self, timeout: Seconds) -> None:
        """Learn the number of partitions, or decide on it if the store is new.

        Partition 0 exists whatever the number is, so that its record decides between two that come at the same time.
        """
        until = self._now() + timeout
        layout, first = self.layout, self._store(0)
        record = await first.record(timeout)
        if record is not None:
            found = {record.partitions}
        else:
            found = await self._counts(max(0.001, until - self._now()))
        layout.count = self._one_of(found) or layout.wanted or PARTITIONS
        if layout.wanted not in (None, layout.count) and not (record and record.format != str(FORMAT)):
            raise self._other(layout.count)
        try:
            await first.adopt(max(0.001, until - self._now()))
        except IncompatibleStore:
            record = await first.record(max(0.001, until - self._now()))
            if layout.wanted is not None or record is None or record.partitions in (0, layout.count):
                raise
            # Somebody else, who was told a number, has decided meanwhile.
            layout.count = record.partitions
            await first.adopt(max(0.001, until - self._now()))

    async def vouch(self, index: int, timeout: Seconds) -> None:
        """Make sure that no partition of another number is in use, before a record is made.

        Were the records of two numbers to stand side by side, two clients would look for a name in different places.

        Raises:
            IncompatibleStore: there is one.
        """
        if index:
            record = await self._store(0).record(timeout)
            if record is None:
                await self._store(0).adopt(timeout)
            elif record.partitions != self.layout.count:
                raise self._other(record.partitions)
        elif (found := self._one_of(await self._counts(timeout))) and found != self.layout.count:
            raise self._other(found)

    async def _counts(self, timeout: Seconds) -> set[int]:
        """The numbers in the records of all partitions that there might be, but for that of partition 0."""
        until = self._now() + timeout
        unseen = [Partition(self.layout.namespace, index) for index in range(1, PARTITIONS_MOST)]
        found: set[int] = set()
        cluster = self.wires.cluster
        for pause in PAUSES_S:
            groups = defaultdict[Node, list[Partition]](list)
            for partition in unseen:
                node = cluster.owner(partition.slot)
                if node is not None:
                    groups[node].append(partition)
            for node, group in groups.items():
                keys = (genesis_key(self.layout.namespace, partition.index) for partition in group)
                payload = b"".join(command(("HGET", key, "partitions")) for key in keys)
                answers = await self.wires.to(node).exchange(payload, len(group), max(0.001, until - self._now()))
                for partition, answer in zip(group, answers, strict=True):
                    if not isinstance(answer, ResponseError):
                        unseen.remove(partition)
                        found |= {int(answer)} if answer else set()
            if not unseen:
                return found
            # Slots that have moved, or are just moving.
            await self.wires.runtime.signal().wait(Instant(self._now() + pause))
            await self.wires.aside(lambda: cluster.learn(max(0.001, until - self._now())))
        raise StoreUnavailable(
            f"not all slots of the {cluster.shown} are served, and one that is not may have the record of this "
            "namespace; nothing was changed"
        )

    def _one_of(self, found: set[int]) -> int:
        if len(found) > 1:
            raise IncompatibleStore(
                f"the records of namespace {self.layout.namespace!r} name different numbers of partitions: "
                f"{', '.join(map(str, sorted(found)))}; delete those that are wrong",
                spoken=SPOKEN_ON_CLUSTERS,
            )
        return found.pop() if found else 0

    def _other(self, count: int) -> IncompatibleStore:
        told = "was told" if self.layout.wanted else "goes by"
        return IncompatibleStore(
            f"the names of namespace {self.layout.namespace!r} are spread over {count} partitions, and this client "
            f"{told} {self.layout.wanted or self.layout.count}: the two would not keep each other out. Leave out the "
            "option partitions, or use another namespace",
            in_force=FORMAT,
            spoken=SPOKEN_ON_CLUSTERS,
        )


# -- the keeper's heartbeats ------------------------------------------------------------------------------------------


class _Volley(NamedTuple):
    """Heartbeats on their way to one node."""

    wire: KeeperWire
    pipe: Pipe
    sent: list[tuple[Renewal, str, Seconds]]
    until: float


class KeeperStore(PartitionedStore["KeeperWire"]):
    """The keeper's: it beats in all partitions at once."""

    async def beats(self, renewals: Sequence[Renewal]) -> None:
        """As `keep.Beats`: all are sent before the first is waited for, so that a node which is silent delays none.

        Whatever is not plainly answered is asked again at length: the partition may have moved, or there is no
        connection to its node yet.
        """
        groups = self._by_node(renewals)
        volleys, rest = [], []
        for node, group in groups.items():
            volley = self._fire(self.wires.to(node), group)
            if volley is None:
                rest.append(group)
            else:
                volleys.append(volley)
        rest += self._gather(volleys)
        # In no order, for one that is silent takes the time of those behind it.
        rest.sort(key=lambda _: self.wires.runtime.random())
        await self._at_length(rest)

    def _by_node(self, renewals: Sequence[Renewal]) -> dict[Node, list[Renewal]]:
        cluster = self.wires.cluster
        partitions = [self.layout.partition(partition_of(renewal.session.card.id)) for renewal in renewals]
        problem: StoreUnavailable | SetupError | None = None
        if any(cluster.owner(partition.slot) is None for partition in partitions):
            try:
                cluster.learn(min(renewal.session.patience for renewal in renewals) / 2)
            except (StoreUnavailable, SetupError) as error:
                problem = error
        groups: defaultdict[Node, list[Renewal]] = defaultdict(list)
        for renewal, partition in zip(renewals, partitions, strict=True):
            node = cluster.owner(partition.slot)
            if node is None:
                renewal.end(
                    problem or StoreUnavailable(f"no master of the {cluster.shown} serves slot {partition.slot}")
                )
            else:
                partition.served_by(node)
                groups[node].append(renewal)
        return groups

    def _fire(self, wire: KeeperWire, group: list[Renewal]) -> _Volley | None:
        """Send; None if there is no connection."""
        sent, payload, until = [], b"", float("inf")
        for renewal in group:
            session, ttl, waiting, timeout = renewal.begin()
            payload += self._store(partition_of(session)).pulse(session, ttl, waiting)
            sent.append((renewal, session, ttl))
            # The first whose time is over: none of them may hide the end of a lease (A4).
            until = min(until, renewal.sent + timeout)
        left = max(0.001, until - self._now())
        if self.acknowledge:
            # Once for all of them: it counts what was written on this connection before it.
            payload += self._store(partition_of(sent[0][1])).ask_replicas(left)
        pipe = wire.post(payload, left)
        return None if pipe is None else _Volley(wire, pipe, sent, until)

    def _gather(self, volleys: list[_Volley]) -> list[list[Renewal]]:
        """Take the answers as they come; what is to be asked again, by node."""
        again: list[list[Renewal]] = []
        with selectors.DefaultSelector() as selector:
            for volley in volleys:
                selector.register(volley.pipe, selectors.EVENT_READ, volley)
            while waited := [key.data for key in selector.get_map().values()]:
                until = min(volley.until for volley in waited)
                ready = [key.data for key, _ in selector.select(max(0.0, until - self._now()))]
                for volley in ready or [volley for volley in waited if volley.until <= self._now()]:
                    selector.unregister(volley.pipe)
                    again.append(self._take(volley))
        return [group for group in again if group]

    def _take(self, volley: _Volley) -> list[Renewal]:
        again: list[Renewal] = []
        try:
            replies = PULSE * len(volley.sent) + (self.acknowledge > 0)
            answers = volley.wire.collect(volley.pipe, replies, max(0.001, volley.until - self._now()))
        except OutcomeUnknown as error:
            self.wires.cluster.doubt(self.wires.cluster.version)
            for renewal, _, _ in volley.sent:
                renewal.end(error)
            return again
        for place, (renewal, session, ttl) in enumerate(volley.sent):
            store = self._store(partition_of(session))
            own = answers[PULSE * place : PULSE * (place + 1)]
            try:
                beat = store.beat(own, session, ttl, answers[-1])
            except OutcomeUnknown as error:
                renewal.end(error)
                continue
            if beat is not None:
                renewal.end(beat)
            elif is_moving(own[0]):
                renewal.end(StoreUnavailable(f"slot {store.partition.slot} is on the move"))
            else:
                again.append(renewal)
        return again

    async def _at_length(self, groups: list[list[Renewal]]) -> None:
        """One after another, until one of them has taken its time in vain."""
        failure: Exception | None = None
        for renewal in [renewal for group in groups for renewal in group]:
            if failure is not None:
                renewal.end(StoreUnavailable(f"not asked in time, for another node was silent: {failure}"))
                continue
            try:
                renewal.end(await self.heartbeat(*renewal.begin()))
            except (StoreUnavailable, OutcomeUnknown, SetupError) as error:
                if self._now() - renewal.sent > renewal.session.patience / 4:
                    failure = error
                renewal.end(error)
