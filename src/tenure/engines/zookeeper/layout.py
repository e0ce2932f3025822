"""What lies where in the tree, and what a node's name says.

    /chroot/NAMESPACE                           the genesis record (B12), as JSON
    /chroot/NAMESPACE/FORMAT-ID                 everything that goes by this record: no request reaches another's
        /sessions/SESSION                       written by each heartbeat (C3); SESSION.SERIAL for one with a lock_delay
        /sessions/SESSION:steals                written by steals, which its version counts (A2)
        /queues/NAME/CLAIM                      a claim: MODE.SESSION.NUMBER~SEQUENCE; its data says who it is

Sessions and claims are ephemeral, claims sequential. A name's node is a container, which the server removes once it is
empty. Promises: pure functions. Does not promise that a node of somebody else's making is understood: it is ignored.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, unquote

from tenure.model import EXCLUSIVE, SHARED, Contender, Kind, Mode, UtcTime

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tenure.engines.zookeeper.jute import Stat
    from tenure.ports import SessionCard

FORMAT: Final = 1
SPOKEN: Final = (1,)

_CLAIM: Final = re.compile(r"(e|s|p[0-9]{1,7}of[0-9]{1,7})\.([A-Za-z0-9_-]{1,64})\.([0-9]{1,18})~(-?[0-9]{1,10})")
_HALF: Final = 1 << 31
_WHOLE: Final = 1 << 32


class Row(NamedTuple):
    """A claim as its node's name tells it; `number` is its sequence, which orders it among its siblings and no more."""

    node: str
    mode: Mode
    session: str
    claim: int
    number: int


class Genesis(NamedTuple):
    """The record that names a store (B12).

    Attributes:
        base: added to every number; raised after a restore (D4).
    """

    format: int
    id: str
    base: int

    @property
    def data(self) -> bytes:
        """As it is kept."""
        return json.dumps({"format": self.format, "id": self.id, "base": self.base}).encode()


class Layout:
    """The paths of one namespace under one chroot."""

    def __init__(self, chroot: str, namespace: str) -> None:
        self.prefix = f"{namespace}:"
        # "." and ".." are namespaces, and no names of nodes.
        self.root = f"{chroot}/{_quoted(namespace)}"
        self.adopt(Genesis(FORMAT, "none", 0))

    def adopt(self, genesis: Genesis) -> None:
        """Go by this record from now on."""
        self.tree = f"{self.root}/{genesis.format}-{genesis.id}"
        self.sessions = f"{self.tree}/sessions"
        self.queues = f"{self.tree}/queues"

    def above(self) -> list[str]:
        """Every path down to the namespace's own, without it, in the order in which they are made."""
        parts = self.root.split("/")[1:-1]
        return ["/" + "/".join(parts[: n + 1]) for n in range(len(parts))]

    def session(self, session: str, serial: int = 0) -> str:
        """The node that heartbeats write; each of its sessions with a lock_delay has one of its own."""
        return f"{self.sessions}/{session}" + (f".{serial}" if serial else "")

    def steals(self, session: str) -> str:
        """The node that steals write."""
        return f"{self.sessions}/{session}:steals"

    def queue(self, name: str) -> str:
        """The container of a name, which comes with its namespace."""
        return f"{self.queues}/{_quoted(name[len(self.prefix) :])}"

    def name(self, node: str) -> str:
        """The name of a container."""
        return self.prefix + unquote(node)


def _quoted(text: str) -> str:
    return quote(text, safe="").replace(".", "%2E")


def claim_node(mode: Mode, session: str, claim: int) -> str:
    """The name of a claim's node, to which the server adds the sequence."""
    if mode.kind is Kind.PERMITS:
        shown = f"p{mode.permits}of{mode.limit}"
    else:
        shown = "e" if mode.kind is Kind.EXCLUSIVE else "s"
    return f"{shown}.{session}.{claim}~"


def rows(nodes: Iterable[str]) -> list[Row]:
    """The claims of a name, in the order of its queue.

    The sequence is an int32 that wraps, so it is compared by wrapping difference (B7): no queue is two thousand million
    claims long.
    """
    found = []
    for node in nodes:
        match = _CLAIM.fullmatch(node)
        if match is not None:
            mode, session, claim, sequence = match.groups()
            found.append(Row(node, _mode(mode), session, int(claim), int(sequence)))
    if found:
        zero = found[0].number
        found.sort(key=lambda row: (row.number - zero + _HALF) % _WHOLE)
    return found


def ahead(nodes: Sequence[str], own: str, mode: Mode) -> list[Row] | None:
    """The claims in front of one, in order; of an exclusive one the nearest alone, which blocks it. None if it is gone.

    Whoever enters behind hundreds reads as many names: for them a text of ten digits is compared, and one is parsed.
    """
    if mode.kind is Kind.EXCLUSIVE and own in nodes and not any("~-" in node for node in nodes):
        place = own[-10:]
        nearest = max((node for node in nodes if node[-10:] < place), key=lambda node: node[-10:], default=None)
        found = rows([nearest]) if nearest is not None else []
        if found or nearest is None:
            return found
    queue = rows(nodes)
    at = next((n for n, row in enumerate(queue) if row.node == own), -1)
    return None if at < 0 else queue[:at]


def _mode(shown: str) -> Mode:
    if shown == "e":
        return EXCLUSIVE
    if shown == "s":
        return SHARED
    permits, _, limit = shown[1:].partition("of")
    return Mode(Kind.PERMITS, int(permits), int(limit))


def who(card: SessionCard, info: str) -> bytes:
    """A claim's data: who it is, for people. At most a few kilobytes, as each part is bounded where it is given."""
    return json.dumps([card.client, card.host, card.pid, info], ensure_ascii=False).encode()


def contender(row: Row, data: bytes, stat: Stat, base: int, *, holds: bool) -> Contender:
    """A claim as an operator sees it."""
    try:
        client, host, pid, info = json.loads(data)
    except ValueError:
        client, host, pid, info = "", "", 0, ""
    return Contender(
        stat.czxid + base, row.mode, holds, str(client), str(host), int(pid), str(info), UtcTime(stat.ctime_ms / 1000)
    )


def read_genesis(data: bytes) -> Genesis | None:
    """The record; None if it is none of ours."""
    try:
        found: Any = json.loads(data)
        return Genesis(int(found["format"]), str(found["id"]), int(found.get("base", 0)))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
