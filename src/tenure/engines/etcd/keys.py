"""Where everything lies in etcd: keys, lease ids and what a claim's value says.

Promises: two names, namespaces or sessions never share a key; all keys of a namespace begin with `ROOT/NAMESPACE/`, so
that one permission of etcd covers them.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Final, NamedTuple

from tenure.model import Contender, Kind, Mode, UtcTime

if TYPE_CHECKING:
    from tenure.engines.etcd.messages import Kv
    from tenure.model import Seconds
    from tenure.ports import Entry

_KIND: Final = {Kind.EXCLUSIVE: "e", Kind.SHARED: "s", Kind.PERMITS: "p"}
_KINDS: Final = {letter: kind for kind, letter in _KIND.items()}

END: Final = b"\0"
"""Ends a name in a key; no name has a control character."""


class Keys:
    """The keys of one namespace under one root."""

    def __init__(self, root: str, namespace: str) -> None:
        self.prefix = f"{root}/{namespace}/".encode()
        self.genesis = self.prefix + b"genesis"
        self.queues = self.prefix + b"c/"

    def session(self, session: str) -> bytes:
        """A session's record; bound to its lease."""
        return self.prefix + b"s/" + session.encode()

    def queue(self, name: str) -> bytes:
        """What all claims of a name begin with."""
        return self.queues + name.encode() + END

    def claim(self, name: str, session: str, claim: int) -> bytes:
        """A claim."""
        return b"%b%b/%d" % (self.queue(name), session.encode(), claim)

    def tombstone(self, session: str, claim: int) -> bytes:
        """What refuses a claim's late enqueue; bound to its session's lease."""
        return b"%bt/%b/%d" % (self.prefix, session.encode(), claim)

    def lease(self, session: str, delay: int = 0) -> int:
        """The id of a session's lease, or of that of its claims with this lock_delay.

        Drawn from the session's own random id, so that a repeated request for it finds the first.
        """
        digest = hashlib.blake2b(b"%b%b/%d" % (self.prefix, session.encode(), delay), digest_size=8).digest()
        return (int.from_bytes(digest, "big") >> 1) | 1

    def split(self, key: bytes) -> tuple[str, str, int] | None:
        """Name, session and id of a claim's key; None if it is no claim's."""
        if not key.startswith(self.queues):
            return None
        name, _, rest = key[len(self.queues) :].partition(END)
        session, _, claim = rest.partition(b"/")
        if not claim.isdigit():
            return None
        return name.decode("utf-8", "replace"), session.decode("utf-8", "replace"), int(claim)


def after(prefix: bytes) -> bytes:
    """The first key behind all that begin with a prefix."""
    bare = prefix.rstrip(b"\xff")
    return bare[:-1] + bytes((bare[-1] + 1,))


def whole_ttl(ttl: Seconds) -> int:
    """A session's ttl as etcd counts: in whole seconds, no more than was asked for, but for the least."""
    return max(1, int(ttl))


def whole_delay(delay: Seconds) -> int:
    """A lock_delay as etcd counts: in whole seconds, no less than was asked for."""
    return max(1, math.ceil(delay))


class Row(NamedTuple):
    """A claim as it lies in etcd.

    Attributes:
        number: its number and token: its create revision and the store's base.
        create, mod: its revisions.
        delay: its lock_delay in whole seconds, 0 for none.
        taken: it has been granted and keeps the name closed for its delay, should its session end.
        freed: it was closed uncleanly, and only keeps the name closed.
        value: as it was written.
    """

    key: bytes
    session: str
    claim: int
    number: int
    mode: Mode
    create: int
    mod: int
    delay: int
    taken: bool
    freed: bool
    value: bytes


def value_of(entry: Entry, now: UtcTime) -> bytes:
    """What a claim says of itself."""
    card, mode = entry.session, entry.mode
    said: dict[str, object] = {
        "m": _KIND[mode.kind],
        "n": mode.permits,
        "l": mode.limit,
        "c": card.client,
        "h": card.host,
        "p": card.pid,
        "t": round(now, 3),
    }
    if entry.info:
        said["i"] = entry.info
    if entry.delay:
        said["d"] = whole_delay(entry.delay)
    return _packed(said)


def marked(value: bytes, mark: str) -> bytes:
    """The same, taken or freed; what other releases have added is kept."""
    return _packed({**_unpacked(value), mark: 1})


def row(keys: Keys, kv: Kv, base: int) -> Row | None:
    """Read a claim; None if it is none of ours. Without a value (keys only) it is exclusive."""
    parts = keys.split(kv.key)
    if parts is None:
        return None
    said = _unpacked(kv.value)
    kind = _KINDS.get(str(said.get("m")), Kind.EXCLUSIVE)
    mode = Mode(kind, _int(said, "n", 1), _int(said, "l", 1))
    delay, taken, freed = _int(said, "d", 0), bool(said.get("taken")), bool(said.get("freed"))
    return Row(kv.key, parts[1], parts[2], kv.create + base, mode, kv.create, kv.mod, delay, taken, freed, kv.value)


def contender(found: Row) -> Contender:
    """A claim for people."""
    said = _unpacked(found.value)
    since = said.get("t")
    return Contender(
        found.number,
        found.mode,
        False,
        str(said.get("c", "")),
        str(said.get("h", "")),
        _int(said, "p", 0),
        str(said.get("i", "")),
        UtcTime(float(since) if isinstance(since, int | float) else 0.0),
    )


def _int(said: dict[str, object], key: str, default: int) -> int:
    value = said.get(key)
    return value if isinstance(value, int) else default


def _packed(said: dict[str, object]) -> bytes:
    return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()


def _unpacked(value: bytes) -> dict[str, object]:
    if not value:
        return {}
    try:
        said = json.loads(value)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
