"""A real Redis Cluster for tests: slots that move, replicas that take over."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tests.servers.processes import HOST, PATIENCE, Group, until
from tests.servers.redis import ADMIN, ADMIN_PASSWORD, RedisServer, fields

if TYPE_CHECKING:
    from tests.servers.resp import Word

SLOTS = 16384


class RedisCluster(Group):
    """A Redis Cluster; the masters share the slots evenly.

    Two seconds pass before it serves: so long a master without a past waits before it takes writes
    (CLUSTER_WRITABLE_DELAY), whatever the configuration. Share one between tests that do not break it.

    Args:
        masters: how many.
        replicas: how many each master has. Without one, a lost master's slots stay down.
        node_timeout_ms: silence after which a node is taken for dead. Far below a second, a busy machine alone
            brings fail-overs.
        options: of every `RedisServer`.

    Attributes:
        masters, replicas: the nodes as they were started.
    """

    def __init__(self, masters: int = 3, replicas: int = 0, *, node_timeout_ms: int = 1000, **options: Any) -> None:
        super().__init__()
        self.masters = [RedisServer(node_timeout_ms=node_timeout_ms, **options) for _ in range(masters)]
        self.replicas = [RedisServer(node_timeout_ms=node_timeout_ms, **options) for _ in range(masters * replicas)]

    @property
    def nodes(self) -> list[RedisServer]:
        return [*self.masters, *self.replicas]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [node.address for node in self.nodes]

    def slot_of(self, key: str) -> int:
        """The slot of a key."""
        slot: int = self._anyone().cli("CLUSTER", "KEYSLOT", key)
        return slot

    def master_of(self, slot: int) -> RedisServer:
        """Who serves a slot, as the first node that is up sees it."""
        for first, last, (_, port, *_), *_ in self._anyone().cli("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise LookupError(f"nobody serves slot {slot}")

    def cli(self, key: str, *words: Word) -> Any:
        """Run a command where a key lives."""
        return self.master_of(self.slot_of(key)).cli(*words)

    def open_migration(self, slot: int, to: RedisServer) -> None:
        """Begin to move a slot: keys that its old master has not are asked for at the new one (ASK)."""
        old = self.master_of(slot)
        to.cli("CLUSTER", "SETSLOT", slot, "IMPORTING", _id(old))
        old.cli("CLUSTER", "SETSLOT", slot, "MIGRATING", _id(to))

    def move_keys(self, slot: int, to: RedisServer) -> int:
        """Within an open migration, move the keys that the slot has; how many."""
        old = self.master_of(slot)
        keys = old.cli("CLUSTER", "GETKEYSINSLOT", slot, 1_000_000)
        login = ["AUTH2", ADMIN, ADMIN_PASSWORD] if to.is_guarded else []
        if keys:
            old.cli("MIGRATE", HOST, to.port, "", 0, round(PATIENCE * 1000), *login, "KEYS", *keys)
        return len(keys)

    def close_migration(self, slot: int, to: RedisServer) -> None:
        """End the move of a slot; from now on its old master answers MOVED."""
        old = self.master_of(slot)
        # The new one first: were the old one first, nobody would serve the slot for a moment.
        for node in [to, old, *(node for node in self.masters if node not in (to, old))]:
            if node.is_up and node.role == "master":
                node.cli("CLUSTER", "SETSLOT", slot, "NODE", _id(to))

    def migrate(self, slot: int, to: RedisServer) -> None:
        """Move a slot with its keys to another master."""
        self.open_migration(slot, to)
        self.move_keys(slot, to)
        self.close_migration(slot, to)

    def wait_ok(self) -> None:
        """Wait until all that are up see all slots served."""

        def is_ok(node: RedisServer) -> bool:
            told = fields(node.cli("CLUSTER", "INFO"))
            return told["cluster_state"] == "ok" and int(told["cluster_slots_ok"]) == SLOTS

        up = [node for node in self.nodes if node.is_up]
        until(lambda: all(is_ok(node) for node in up), "the cluster is ok")

    def wait_failover(self, lost: RedisServer) -> RedisServer:
        """Wait until a replica serves what a master served that is gone or cut off; the replica, now master."""
        mine = [replica for index, replica in enumerate(self.replicas) if index % len(self.masters) == self._rank(lost)]

        def promoted() -> RedisServer | None:
            return next((node for node in mine if node.is_up and node.role == "master"), None)

        found: RedisServer = until(promoted, "a replica is promoted")
        until(
            lambda: all(
                re.search(rf":{lost.port}@\S* \S*(master,fail(?!\?)|slave)", node.cli("CLUSTER", "NODES"))
                for node in self.nodes
                if node.is_up and node is not lost
            ),
            "all nodes know of it",
        )
        return found

    def _rank(self, master: RedisServer) -> int:
        return self.masters.index(master)

    def _anyone(self) -> RedisServer:
        return next(node for node in self.nodes if node.is_up)

    def set_up(self) -> None:
        nodes = self.nodes
        self.start_all(nodes)
        for index, node in enumerate(nodes):
            # Before they meet: two masters of one epoch would have to settle that first.
            node.cli("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            # All pairs, as gossip alone takes seconds to make them known.
            for other in nodes[:index]:
                node.cli("CLUSTER", "MEET", HOST, other.tls_port or other.port, other.bus_port)
        for index, master in enumerate(self.masters):
            first, beyond = (SLOTS * place // len(self.masters) for place in (index, index + 1))
            master.cli("CLUSTER", "ADDSLOTSRANGE", first, beyond - 1)
        until(lambda: all(_knows(node) == len(nodes) for node in nodes), "all nodes have met")
        for index, replica in enumerate(self.replicas):
            replica.cli("CLUSTER", "REPLICATE", _id(self.masters[index % len(self.masters)]))
        self.wait_ok()
        for replica in self.replicas:
            replica.wait_replicated()


def _id(node: RedisServer) -> str:
    identity: str = node.cli("CLUSTER", "MYID")
    return identity


def _knows(node: RedisServer) -> int:
    """How many nodes a node knows well; those that still shake hands are not counted."""
    lines: list[str] = node.cli("CLUSTER", "NODES").splitlines()
    return sum("handshake" not in line and ":0@" not in line for line in lines)
