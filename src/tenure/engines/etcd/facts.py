"""What a cluster tells of itself, as plain facts: node by node, and of the whole.

Promises: nothing is changed, but that a lease which nobody uses is granted and given back; a question that this user
may not ask, or a node that is mute, is said to be so and never raised.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from tenure.engines.etcd import messages as m
from tenure.engines.etcd.keys import Keys, whole_ttl
from tenure.engines.etcd.pipe import NOT_FOUND, PERMISSION_DENIED, Refused
from tenure.errors import StoreUnavailable, UnsafeSetup

if TYPE_CHECKING:
    from tenure.engines.address import Address
    from tenure.engines.etcd.dial import Dialer
    from tenure.engines.etcd.pipe import Pipe
    from tenure.model import Seconds

ASK_S: Final = 5.0
"""Seconds that one node has for its answers."""

TRIPS: Final = 5

ALARMS: Final = {1: "NOSPACE", 2: "CORRUPT"}


class Node(NamedTuple):
    """What one node says; `trouble` if it says nothing."""

    address: Address
    trouble: str = ""
    version: tuple[int, ...] = ()
    said_version: str = ""
    size: int = 0
    leader: int = 0
    errors: tuple[str, ...] = ()


class Facts(NamedTuple):
    """What was found out."""

    nodes: tuple[Node, ...]
    members: int | None
    """How many vote; None if nobody tells."""
    alarms: tuple[str, ...]
    granted: int
    trips: tuple[Seconds, ...]
    genesis: bytes
    has_auth: bool | None
    is_guarded: bool
    logs_in: bool


def ask(dialer: Dialer, namespace: str, ttl: Seconds) -> Facts:
    """Find out; a lease is granted and given back, and nothing else is changed.

    Raises:
        StoreUnavailable, UnsafeSetup: no node serves.
    """
    found = tuple(ask_node(dialer, address) for address in dialer.nodes)
    pipe = dialer.dial(ASK_S)
    try:
        voters = _members(pipe, dialer)
        trips: list[Seconds] = []
        value = b""
        for _ in range(TRIPS):
            sent = time.monotonic()
            answer = _call(pipe, dialer, m.RANGE, m.get(Keys(dialer.root, namespace).genesis))
            trips.append(time.monotonic() - sent)
            value = next((m.kv(raw).value for raw in m.every(m.fields(answer), 2)), b"")
        return Facts(
            found,
            voters,
            _alarms(pipe, dialer),
            _granted(pipe, dialer, ttl),
            tuple(trips),
            value,
            _has_auth(pipe, dialer),
            dialer.is_guarded,
            bool(dialer.login.username),
        )
    except Refused as error:
        kind = UnsafeSetup if error.code == PERMISSION_DENIED or "user name" in error.text else StoreUnavailable
        raise kind(f"etcd ({pipe.address}) refused the request: {error.text}") from error
    except OSError as error:
        raise StoreUnavailable(f"etcd ({pipe.address}) did not answer: {error}") from error
    finally:
        pipe.close()


def _call(pipe: Pipe, dialer: Dialer, path: str, request: bytes) -> bytes:
    return b"".join(pipe.exchange(path, request, dialer.token, ASK_S))


def ask_node(dialer: Dialer, address: Address) -> Node:
    """What one node says."""
    try:
        pipe = dialer.dial_node(address, ASK_S)
    except OSError as error:
        return Node(address, str(error))
    try:
        said = m.fields(_call(pipe, dialer, m.STATUS, b""))
    except (OSError, Refused) as error:
        return Node(address, str(error) or type(error).__name__)
    finally:
        pipe.close()
    text = m.data(said, 2).decode("ascii", "replace")
    parts = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    errors = tuple(raw.decode("utf-8", "replace") for raw in m.every(said, 8))
    return Node(
        address,
        "",
        tuple(map(int, parts.groups())) if parts else (),
        text,
        m.number(said, 3),
        m.number(said, 4),
        errors,
    )


def _members(pipe: Pipe, dialer: Dialer) -> int | None:
    try:
        said = m.fields(_call(pipe, dialer, m.MEMBER_LIST, b""))
    except Refused:
        return None
    return sum(not m.number(m.fields(raw), 5) for raw in m.every(said, 2))


def _alarms(pipe: Pipe, dialer: Dialer) -> tuple[str, ...]:
    try:
        said = m.fields(_call(pipe, dialer, m.ALARM, b""))
    except Refused:
        return ()  # only an administrator may ask
    raised = (m.number(m.fields(raw), 2) for raw in m.every(said, 2))
    return tuple(sorted({ALARMS.get(kind, f"alarm {kind}") for kind in raised}))


def _granted(pipe: Pipe, dialer: Dialer, ttl: Seconds) -> int:
    """What a session's lease would be granted; 0 if none is. One that nobody uses is granted, and given back."""
    lease = secrets.randbits(62) | 1
    try:
        said = m.fields(_call(pipe, dialer, m.GRANT, m.message((1, whole_ttl(ttl)), (2, lease))))
        _call(pipe, dialer, m.REVOKE, m.message((1, lease)))
    except Refused:
        return 0
    return m.number(said, 3)


def _has_auth(pipe: Pipe, dialer: Dialer) -> bool | None:
    """Whether etcd asks who is there. A stranger's question is refused in different words."""
    try:
        pipe.exchange(m.RANGE, m.get(b"\0"), "", ASK_S)
    except Refused as error:
        return True if error.code != NOT_FOUND else None
    return False if dialer.token == "" else None
