"""ZooKeeper's wire format: requests as bytes, replies as values.

Promises: pure functions of bytes; big-endian integers, and strings and buffers behind their length, as ZooKeeper's own
`zookeeper.jute` has them. Only what the engine asks for is here.
Does not promise to check what a server sends beyond what Python does: a reply that is cut off raises `struct.error`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tenure.engines.zookeeper.url import Login

_INT: Final = struct.Struct(">i")
_HEADER: Final = struct.Struct(">ii")
_REPLY: Final = struct.Struct(">iqi")
_STAT: Final = struct.Struct(">qqqqiiiqiiq")
_CONNECT: Final = struct.Struct(">iqiq")
_CONNECTED: Final = struct.Struct(">iiq")
_SUB: Final = struct.Struct(">i?i")

CREATE: Final = 1
DELETE: Final = 2
EXISTS: Final = 3
GET_DATA: Final = 4
SET_DATA: Final = 5
SYNC: Final = 9
GET_CHILDREN: Final = 8
CHECK: Final = 13
MULTI: Final = 14
CREATE2: Final = 15
CREATE_CONTAINER: Final = 19
AUTH: Final = 100
SASL: Final = 102
GET_EPHEMERALS: Final = 103
CLOSE: Final = -11

WATCH_XID: Final = -1
AUTH_XID: Final = -4

PERSISTENT: Final = 0
EPHEMERAL: Final = 1
EPHEMERAL_SEQUENTIAL: Final = 3
CONTAINER: Final = 4

OK: Final = 0
RUNTIME_INCONSISTENCY: Final = -2
CONNECTION_LOSS: Final = -4
UNIMPLEMENTED: Final = -6
NO_NODE: Final = -101
NO_AUTH: Final = -102
BAD_VERSION: Final = -103
NODE_EXISTS: Final = -110
SESSION_EXPIRED: Final = -112
AUTH_FAILED: Final = -115
SESSION_MOVED: Final = -118
QUOTA_EXCEEDED: Final = -125
THROTTLED: Final = -127

CHANGED: Final = 3
"""The type of a watch's event: its node was written."""


class Stat(NamedTuple):
    """What a server tells of a node beside its data."""

    czxid: int
    mzxid: int
    ctime_ms: int
    mtime_ms: int
    version: int
    cversion: int
    aversion: int
    owner: int
    length: int
    children: int
    pzxid: int


class Event(NamedTuple):
    """A watch fired."""

    type: int
    path: str


class Refusal(NamedTuple):
    """The answer to a request that was refused; the code is ZooKeeper's."""

    code: int


class Request(NamedTuple):
    """One request, and how its answer is read; `read` is None where an answer says no more than that it was done."""

    type: int
    body: bytes
    read: Callable[[bytes, int], Any] | None = None


class Connected(NamedTuple):
    """The answer to a connect request; a timeout of 0 means that there is no such session any more."""

    timeout_ms: int
    session: int
    password: bytes


# -- parts -------------------------------------------------------------------------------------------------------------


def _string(text: str) -> bytes:
    return _buffer(text.encode())


def _buffer(data: bytes) -> bytes:
    return _INT.pack(len(data)) + data


def _acls(login: Login | None) -> bytes:
    """Everything is allowed to whoever made the node, where we are somebody; else to all."""
    scheme, who = ("auth", "") if login is not None else ("world", "anyone")
    return _INT.pack(1) + _INT.pack(31) + _string(scheme) + _string(who)


def _read_buffer(data: bytes, at: int) -> tuple[bytes, int]:
    (length,) = _INT.unpack_from(data, at)
    at += 4
    return (b"", at) if length < 0 else (data[at : at + length], at + length)


def _read_string(data: bytes, at: int) -> tuple[str, int]:
    raw, at = _read_buffer(data, at)
    return raw.decode(), at


def _stat(data: bytes, at: int) -> Stat:
    return Stat._make(_STAT.unpack_from(data, at))


def _data(data: bytes, at: int) -> tuple[bytes, Stat]:
    found, at = _read_buffer(data, at)
    return found, _stat(data, at)


def _strings(data: bytes, at: int) -> list[str]:
    (count,) = _INT.unpack_from(data, at)
    at += 4
    found = []
    unpack = _INT.unpack_from
    for _ in range(count):
        (length,) = unpack(data, at)
        at += 4
        found.append(data[at : at + length].decode())
        at += length
    return found


# -- requests ----------------------------------------------------------------------------------------------------------


def exists(path: str, *, watch: bool = False) -> Request:
    """Answered by a `Stat`."""
    return Request(EXISTS, _string(path) + bytes([watch]), _stat)


def get(path: str, *, watch: bool = False) -> Request:
    """Answered by the data and a `Stat`. A watch is set only on a node that is there."""
    return Request(GET_DATA, _string(path) + bytes([watch]), _data)


def children(path: str) -> Request:
    """Answered by names, in any order."""
    return Request(GET_CHILDREN, _string(path) + b"\0", _strings)


def ephemerals(prefix: str) -> Request:
    """Answered by the paths of this session's ephemeral nodes (ZooKeeper 3.6 and later)."""
    return Request(GET_EPHEMERALS, _string(prefix), _strings)


def sync(path: str) -> Request:
    """What is read behind it on this connection is no older than the request."""
    return Request(SYNC, _string(path))


def create(path: str, data: bytes, login: Login | None, flags: int = PERSISTENT) -> Request:
    """Answered by the path and a `Stat`."""
    kind = CREATE_CONTAINER if flags == CONTAINER else CREATE2
    body = _string(path) + _buffer(data) + _acls(login) + _INT.pack(flags)
    return Request(kind, body, _created)


def _created(data: bytes, at: int) -> tuple[str, Stat]:
    path, at = _read_string(data, at)
    return path, _stat(data, at)


def delete(path: str) -> Request:
    """Delete a node, whatever its version."""
    return Request(DELETE, _string(path) + _INT.pack(-1))


def write(path: str, data: bytes = b"", version: int = -1) -> Request:
    """Set a node's data. Answered by a `Stat`."""
    return Request(SET_DATA, _string(path) + _buffer(data) + _INT.pack(version), _stat)


def check(path: str, version: int = -1) -> Request:
    """Part of a multi: the node is there, in this version."""
    return Request(CHECK, _string(path) + _INT.pack(version))


def multi(*parts: Request) -> Request:
    """All of them or none. Answered by a list: what each part answers; or `Refusal`s, 0 for a part not at fault."""
    body = b"".join(_SUB.pack(part.type, False, -1) + part.body for part in parts)
    return Request(MULTI, body + _SUB.pack(-1, True, -1), _results)


def _results(data: bytes, at: int) -> list[Any]:
    found: list[Any] = []
    while True:
        kind, is_done, _ = _SUB.unpack_from(data, at)
        at += _SUB.size
        if is_done:
            return found
        result: Any = None
        if kind == -1:
            (code,) = _INT.unpack_from(data, at)
            result, at = Refusal(code), at + 4
        elif kind in (CREATE2, CREATE_CONTAINER):
            path, at = _read_string(data, at)
            result, at = (path, _stat(data, at)), at + _STAT.size
        elif kind == CREATE:
            result, at = _read_string(data, at)
        elif kind == SET_DATA:
            result, at = _stat(data, at), at + _STAT.size
        found.append(result)


CLOSING: Final = Request(CLOSE, b"")
"""Ends the session and removes its nodes."""


# -- frames ------------------------------------------------------------------------------------------------------------


def frame(xid: int, request: Request) -> bytes:
    """A request as it is sent."""
    return _INT.pack(8 + len(request.body)) + _HEADER.pack(xid, request.type) + request.body


def connect(seen: int, timeout_ms: int, session: int, password: bytes) -> bytes:
    """The first message of a connection: open a session (0), or go on with one. Never read-only."""
    body = _CONNECT.pack(0, seen, timeout_ms, session) + _buffer(password) + b"\0"
    return _INT.pack(len(body)) + body


def connected(data: bytes) -> Connected:
    """The answer to the first message."""
    _, timeout_ms, session = _CONNECTED.unpack_from(data, 0)
    password, _ = _read_buffer(data, _CONNECTED.size)
    return Connected(timeout_ms, session, password)


def login(scheme: str, proof: bytes) -> bytes:
    """Say who we are; answered under `AUTH_XID`."""
    return frame(AUTH_XID, Request(AUTH, _INT.pack(0) + _string(scheme) + _buffer(proof)))


def sasl(token: bytes) -> Request:
    """One step of a SASL handshake; answered by the server's token."""
    return Request(SASL, _buffer(token), lambda data, at: _read_buffer(data, at)[0])


def header(data: bytes) -> tuple[int, int, int]:
    """Of a reply: the xid, the last zxid that the server has seen, and the error."""
    xid, zxid, code = _REPLY.unpack_from(data, 0)
    return xid, zxid, code


def answer(request: Request, data: bytes, code: int) -> Any:
    """The value of a reply; a `Refusal` if it was refused."""
    if code != OK:
        return Refusal(code)
    return None if request.read is None else request.read(data, _REPLY.size)


def event(data: bytes) -> Event:
    """What a watch tells."""
    kind, _ = _HEADER.unpack_from(data, _REPLY.size)
    path, _ = _read_string(data, _REPLY.size + 8)
    return Event(kind, path)


def frames(received: bytearray) -> list[bytes]:
    """Take the whole messages out of what was received."""
    found: list[bytes] = []
    at = 0
    while len(received) - at >= 4:
        (length,) = _INT.unpack_from(received, at)
        if len(received) - at - 4 < length:
            break
        found.append(bytes(received[at + 4 : at + 4 + length]))
        at += 4 + length
    del received[:at]
    return found


def refused(results: Sequence[Any]) -> tuple[int, int]:
    """Of the answer to a multi: which part was at fault, and its code; (-1, 0) if it was done."""
    for index, result in enumerate(results):
        if isinstance(result, Refusal) and result.code not in (OK, RUNTIME_INCONSISTENCY):
            return index, result.code
    return -1, OK
