"""Which node of a cluster serves a slot, and requests that find it wherever it has moved.

Promises: a request goes to the master that the cluster names; one that a node refuses because the slot is elsewhere, or
on its way, certainly had no effect, and is asked again as long as its time lasts; a lost node makes the map be learnt
anew from the others.
Does not promise to follow ASK. While a slot is being moved its keys are on two nodes, and a script on either sees some
of them: a name that is held would be granted again. So a slot on the move is waited for (`lua/moving.lua`).

Source: "Redis cluster specification", redis.io: slots and hash tags, redirection, live resharding.
"""

from __future__ import annotations

import binascii
import bisect
import time
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from redis.exceptions import RedisError, ResponseError

from tenure.engines.address import Address
from tenure.engines.redis.dial import Access, share
from tenure.engines.redis.explain import explain
from tenure.engines.redis.life import Life
from tenure.engines.redis.store import Wire, genesis_key
from tenure.errors import OutcomeUnknown, SetupError, StoreUnavailable, UnsafeSetup
from tenure.model import Instant
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from tenure.engines.redis.dial import Dialer
    from tenure.errors import TenureError
    from tenure.model import Seconds
    from tenure.ports import Runtime

SLOTS: Final = 16_384

PAUSE_FIRST_S: Final = 0.005
PAUSE_MOST_S: Final = 0.1
"""Seconds, with jitter, before a request is repeated whose slot is on the move."""

DOUBT_LEAST_S: Final = 0.1
"""Seconds for which a map is trusted although a node that it names cannot be reached."""

_MOVING: Final = ("ASK ", "TRYAGAIN")


def is_moving(answer: Any) -> bool:
    """Whether a node has refused a script because the slot is on its way to another."""
    return answer == [b"moving"] or (isinstance(answer, ResponseError) and str(answer).startswith(_MOVING))


def slot_of(key: str) -> int:
    """The slot of a key that begins with its hash tag in braces."""
    return binascii.crc_hqx(key[1 : key.index("}")].encode(), 0) % SLOTS


class Node:
    """A master, as far as is known."""

    def __init__(self, address: Address, dialer: Dialer) -> None:
        self.address = address
        self.dialer = dialer
        self.lives: set[Life] = set()
        """Of the partitions that it has."""
        self._answers: Sequence[Any] = ()

    def note(self, answers: Sequence[Any]) -> None:
        """A new connection was asked about the life of this node."""
        self._answers = answers
        for life in list(self.lives):
            life.note(answers)

    def take(self, life: Life) -> None:
        """A partition is here from now on."""
        self.lives.add(life)
        if self._answers:
            life.note(self._answers)


class Partition:
    """A part of a namespace: all keys under one hash tag, in one slot, with a life of its own."""

    def __init__(self, namespace: str, index: int) -> None:
        self.index = index
        self.slot = slot_of(genesis_key(namespace, index))
        self.life = Life()
        self._node: Node | None = None
        self._mutex = native.mutex()

    def served_by(self, node: Node) -> None:
        """It is asked for there. Elsewhere than before means another life: it may have come without its last writes."""
        if node is self._node:
            return
        with self._mutex:
            old, self._node = self._node, node
            if old is node:
                return
            if old is not None:
                old.lives.discard(self.life)
                self.life.moved()
            node.take(self.life)


class Cluster:
    """The map of slots, as the nodes tell it. Shared by threads; each map is whole, and any of them will do."""

    def __init__(self, access: Access, seeds: Sequence[Address]) -> None:
        self.access = access
        self.shown = f"cluster of {', '.join(map(str, seeds))}"
        self._seeds = tuple(seeds)
        self._nodes: dict[Address, Node] = {}
        self._map: tuple[list[int], list[tuple[int, Node]]] = ([], [])
        self._is_known = False
        self._order: tuple[Address, ...] = ()
        """Whom to ask for the map, the most promising first."""
        self._learnt_at = float("-inf")
        self.version = 0
        """Counts the maps."""

    @property
    def nodes(self) -> list[Node]:
        """The masters of the map in force."""
        return list(self._nodes.values())

    def owner(self, slot: int) -> Node | None:
        """Who serves a slot; None if nobody does, or the map is in doubt: then `learn`."""
        if not self._is_known:
            return None
        firsts, ranges = self._map
        place = bisect.bisect_right(firsts, slot) - 1
        if place < 0:
            return None
        last, node = ranges[place]
        return node if slot <= last else None

    def doubt(self, version: int, first: Address | None = None) -> None:
        """The map is wrong, or may be.

        Args:
            version: of the map that is meant; another thread may have learnt the next one meanwhile.
            first: whom to ask first, who certainly knows better.
        """
        if version != self.version:
            return
        if first is not None:
            self._order = (first, *self._order)
        elif time.monotonic() < self._learnt_at + DOUBT_LEAST_S:
            # A node that is lost fails many requests, and those to the others must not wait for a map each time.
            return
        self._is_known = False

    def learn(self, timeout: Seconds) -> None:
        """Ask the nodes in turn for the map, unless another thread has meanwhile. Blocks.

        Raises:
            StoreUnavailable, UnsafeSetup, IncompatibleStore: nobody could be asked.
        """
        until, version = time.monotonic() + timeout, self.version
        asked = tuple(dict.fromkeys((*self._order, *self._nodes, *self._seeds)))
        problems: list[TenureError] = []
        for place, address in enumerate(asked):
            if self.version != version:
                return
            try:
                # One that is silent leaves the others their part of the time.
                self._adopt(self._ask(address, share(until, len(asked) - place)))
            except (StoreUnavailable, SetupError) as error:
                problems.append(error)
                continue
            self._order = (*asked[place:], *asked[:place])
            return
        never = all(isinstance(error, SetupError) for error in problems)
        text = f"no node of the {self.shown} could be asked: {'; '.join(map(str, problems))}"
        raise (UnsafeSetup if never else StoreUnavailable)(text) from problems[0]

    def _ask(self, address: Address, until: float) -> list[tuple[int, int, Address]]:
        connection = self.access.open(address, until)
        try:
            answer = connection.ask("CLUSTER", "SLOTS")
        except (RedisError, OSError) as error:
            if "cluster support disabled" in str(error):
                raise UnsafeSetup(f"{address} is no node of a cluster; use redis:// for a single server") from error
            raise explain(error, sent=False, at=self.access.shown(address)) from error
        finally:
            connection.disconnect()
        if not answer:
            raise StoreUnavailable(f"{address} knows of nobody who serves a slot")
        found = []
        for first, last, (host, port, *_), *_ in answer:
            # A node that does not know its own name means: where you have asked me.
            name = host.decode() if host and host != b"?" else address.host
            found.append((int(first), int(last), Address(name, int(port))))
        return found

    def _adopt(self, found: Iterable[tuple[int, int, Address]]) -> None:
        nodes: dict[Address, Node] = {}
        firsts, ranges = [], []
        for first, last, address in sorted(found):
            node = nodes.get(address) or self._nodes.get(address) or self._new(address)
            nodes[address] = node
            firsts.append(first)
            ranges.append((last, node))
        self._nodes, self._map = nodes, (firsts, ranges)
        self.version += 1
        self._learnt_at = time.monotonic()
        self._is_known = True

    def _new(self, address: Address) -> Node:
        return Node(address, self.access.node(address.host, address.port))


class Closable(Wire, Protocol):
    """A wire that is made for one node."""

    def shut(self) -> None:
        """Close what is idle; what is in use is closed after its request."""
        ...

    def disown(self) -> None:
        """In a forked child: let go of the parent's connections."""
        ...


W = TypeVar("W", bound=Closable)


class Wires(Generic[W]):
    """One user's wires, one to each node in use: the keeper's, or those of the callers."""

    def __init__(
        self,
        cluster: Cluster,
        make: Callable[[Node], W],
        aside: Callable[[Callable[[], None]], Awaitable[None]],
        runtime: Runtime,
    ) -> None:
        """Make none yet.

        Args:
            cluster: whose nodes.
            make: makes the wire to one; no I/O.
            aside: does what blocks.
            runtime: the user's.
        """
        self.cluster = cluster
        self.runtime = runtime
        self.aside = aside
        self._make = make
        self._made: dict[Node, W] = {}
        self._mutex = native.mutex()

    def to(self, node: Node) -> W:
        """The wire to a node."""
        wire = self._made.get(node)
        return wire if wire is not None else self._add(node)

    def _add(self, node: Node) -> W:
        with self._mutex:
            wire = self._made.setdefault(node, self._make(node))
            masters = {node, *self.cluster.nodes}
            gone = [self._made.pop(other) for other in list(self._made) if other not in masters]
        for other in gone:
            other.shut()
        return wire

    def shut(self) -> None:
        """Close them."""
        for wire in list(self._made.values()):
            wire.shut()

    def disown(self) -> None:
        """In a forked child."""
        self._mutex = native.mutex()
        for wire in list(self._made.values()):
            wire.disown()


async def here(do: Callable[[], None]) -> None:
    """Do what blocks in the calling thread, which may."""
    do()


class RoutedWire(Generic[W]):
    """As `store.Wire`, to wherever a partition is."""

    def __init__(self, wires: Wires[W], partition: Partition) -> None:
        self._wires = wires
        self._cluster = wires.cluster
        self._partition = partition

    async def exchange(self, payload: bytes, replies: int, timeout: Seconds) -> list[Any]:
        """As `Wire.exchange`; the first command's answer says whether the slot is here.

        Cancellation: as that of the wire to the node.
        """
        now = self._wires.runtime.now
        until = now() + timeout
        pause, refused = 0.0, None
        while True:
            version = self._cluster.version
            node = self._cluster.owner(self._partition.slot)
            if node is None:
                node = await self._find(until)
            self._partition.served_by(node)
            try:
                answers = await self._wires.to(node).exchange(payload, replies, max(0.001, until - now()))
            except StoreUnavailable:
                # It cannot be reached, and others may know why. If they still name it, that is the answer.
                self._cluster.doubt(version)
                if refused is node or now() >= until:
                    raise
                refused = node
                continue
            except OutcomeUnknown:
                self._cluster.doubt(version)
                raise
            said = self._elsewhere(answers[0], node, version)
            if said is None:
                return answers
            left = until - now()
            if left <= pause:
                raise StoreUnavailable(f"slot {self._partition.slot} is on the move: {said}")
            if pause:
                await self._wires.runtime.signal().wait(Instant(now() + pause * (0.5 + self._wires.runtime.random())))
            pause = min(max(2 * pause, PAUSE_FIRST_S), PAUSE_MOST_S)

    async def _find(self, until: float) -> Node:
        cluster, now = self._cluster, self._wires.runtime.now
        await self._wires.aside(lambda: cluster.learn(max(0.001, until - now())))
        node = cluster.owner(self._partition.slot)
        if node is None:
            cluster.doubt(cluster.version)
            raise StoreUnavailable(f"no master of the {cluster.shown} serves slot {self._partition.slot}")
        return node

    def _elsewhere(self, answer: Any, node: Node, version: int) -> str | None:
        """Why this node has not done it: the slot is another's, or on its way there."""
        if is_moving(answer):
            return "its keys are on two nodes"
        if not isinstance(answer, ResponseError):
            return None
        text = str(answer)
        if text.startswith("MOVED "):
            self._cluster.doubt(version, named(text, node))
            return text
        if text.startswith("CLUSTERDOWN"):
            self._cluster.doubt(version)
        return None

    def forget(self) -> None:
        """The node says that it is no master any more, or not yet."""
        version, node = self._cluster.version, self._cluster.owner(self._partition.slot)
        if node is not None:
            self._wires.to(node).forget()
            self._cluster.doubt(version)


def named(moved: str, node: Node) -> Address | None:
    """Whom an error MOVED names: "MOVED 7365 host:port"; without a host, it is that of the node that says so."""
    host, _, port = moved.split(" ")[2].rpartition(":")
    return Address(host or node.address.host, int(port)) if port.isdigit() else None
