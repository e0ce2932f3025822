"""The few messages of etcd's API that a lock needs, written and read by hand.

Promises: no generated code and no descriptor pool, so that nothing clashes with another package for etcd in the same
process; fields that are not known here are skipped.

Source: protobuf's wire format, and etcd's `rpc.proto`, `kv.proto` (3.4 and newer).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

RANGE: Final = "/etcdserverpb.KV/Range"
TXN: Final = "/etcdserverpb.KV/Txn"
GRANT: Final = "/etcdserverpb.Lease/LeaseGrant"
REVOKE: Final = "/etcdserverpb.Lease/LeaseRevoke"
KEEP_ALIVE: Final = "/etcdserverpb.Lease/LeaseKeepAlive"
TIME_TO_LIVE: Final = "/etcdserverpb.Lease/LeaseTimeToLive"
WATCH: Final = "/etcdserverpb.Watch/Watch"
AUTHENTICATE: Final = "/etcdserverpb.Auth/Authenticate"
STATUS: Final = "/etcdserverpb.Maintenance/Status"
ALARM: Final = "/etcdserverpb.Maintenance/Alarm"
MEMBER_LIST: Final = "/etcdserverpb.Cluster/MemberList"

EQUAL, LESS = 0, 2
VERSION, CREATE, MOD, VALUE, LEASE = 0, 1, 2, 3, 4
ASCEND, DESCEND = 1, 2
NO_PUT: Final = 0

_TARGET: Final = {VERSION: 4, CREATE: 5, MOD: 6, VALUE: 7, LEASE: 8}
_VARINT, _BYTES = 0, 2

# -- writing -----------------------------------------------------------------------------------------------------------


_BYTE: Final = tuple(bytes((value,)) for value in range(128))


def _varint(value: int) -> bytes:
    if value < 128:
        return _BYTE[value]
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def message(*fields: tuple[int, int | bytes | bool]) -> bytes:
    """A message of these fields; those with the value of their absence are left out."""
    return b"".join(
        [
            _inner(number, value) if isinstance(value, bytes) else _varint(number << 3) + _varint(int(value))
            for number, value in fields
            if value
        ]
    )


def _inner(number: int, value: bytes) -> bytes:
    """A message in a message; there, and empty, is not the same as absent."""
    size = len(value)
    if number < 16 and size < 128:
        return _BYTE[number << 3 | _BYTES] + _BYTE[size] + value
    return _varint(number << 3 | _BYTES) + _varint(size) + value


def get(
    key: bytes,
    end: bytes = b"",
    *,
    limit: int = 0,
    order: int = 0,
    keys_only: bool = False,
    below: int = 0,
) -> bytes:
    """A RangeRequest, linearizable.

    Args:
        key: the key, or the first of a range.
        end: the first key behind the range; empty for one key.
        limit: how many at most; 0 for all.
        order: by create revision; 0 for the order of the keys.
        keys_only: without the values.
        below: only those with a smaller create revision; 0 for all.
    """
    return message(
        (1, key), (2, end), (3, limit), (5, order), (6, 2 if order else 0), (8, keys_only), (13, max(0, below - 1))
    )


def get_op(request: bytes) -> bytes:
    """A range as a part of a transaction."""
    return _inner(1, request)


def put_op(key: bytes, value: bytes, lease: int) -> bytes:
    """A put, bound to a lease, as a part of a transaction."""
    return _inner(2, message((1, key), (2, value), (3, lease)))


def touch_op(key: bytes) -> bytes:
    """A put of what is there already, which raises its revision."""
    return _inner(2, message((1, key), (5, True), (6, True)))


def delete_op(key: bytes) -> bytes:
    """A deletion as a part of a transaction."""
    return _inner(3, message((1, key)))


def txn_op(request: bytes) -> bytes:
    """A transaction as a part of another."""
    return _inner(4, request)


def compare(key: bytes, target: int, value: int | bytes, *, end: bytes = b"", result: int = EQUAL) -> bytes:
    """A comparison; of a range it holds if it holds for every key in it. A key that is not there is all zeros."""
    field = _TARGET[target]
    # The value is one of several that exclude each other, so a zero must be there to be seen.
    wanted = _inner(field, value) if isinstance(value, bytes) else _varint(field << 3) + _varint(value)
    return message((1, result), (2, target), (3, key)) + wanted + message((64, end))


def txn(compares: Iterable[bytes], success: Iterable[bytes], failure: Iterable[bytes] = ()) -> bytes:
    """A TxnRequest."""
    return b"".join(
        [
            *(_inner(1, part) for part in compares),
            *(_inner(2, part) for part in success),
            *(_inner(3, part) for part in failure),
        ]
    )


def watch(watch_id: int, key: bytes, *, puts: bool) -> bytes:
    """A request to watch a key from now on; without `puts` only its end."""
    create = message((1, key), (7, watch_id))
    if not puts:
        create += _inner(5, bytes((NO_PUT,)))
    return _inner(1, create)


def unwatch(watch_id: int) -> bytes:
    """A request to watch no longer."""
    return _inner(2, message((1, watch_id)))


# -- reading -----------------------------------------------------------------------------------------------------------

Fields = dict[int, "list[int | bytes]"]


class Malformed(ValueError):
    """What came is no message of this kind."""


def fields(data: bytes) -> Fields:
    """The fields of a message, in order."""
    found: Fields = {}
    at, end = 0, len(data)
    try:
        while at < end:
            # Most numbers have one byte, and this is where a client's time goes: those are read on the spot.
            tag = data[at]
            at += 1
            if tag >= 128:
                tag, at = _read(data, at - 1)
            kind = tag & 7
            if kind not in (_VARINT, _BYTES):
                at += _skipped(kind)
                continue
            value: int | bytes
            value = data[at]
            at += 1
            if value >= 128:
                value, at = _read(data, at - 1)
            if kind == _BYTES:
                size = value
                value = data[at : at + size]
                at += size
            elif value >= 1 << 63:
                value -= 1 << 64
            found.setdefault(tag >> 3, []).append(value)
    except IndexError:
        raise Malformed("a message is cut off") from None
    if at != end:
        raise Malformed("a message is cut off")
    return found


def _skipped(kind: int) -> int:
    """How many bytes a number of a kind has that etcd has no use for."""
    if kind not in (1, 5):
        raise Malformed(f"a field of the unknown kind {kind}")
    return 8 if kind == 1 else 4


def _read(data: bytes, at: int) -> tuple[int, int]:
    """A number of several bytes, and where it ends."""
    value, shift = 0, 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def number(found: Fields, field: int) -> int:
    """A number; 0 if it is absent."""
    values = found.get(field)
    value = values[-1] if values else 0
    if isinstance(value, bytes):
        raise Malformed("a text where a number is expected")
    return value


def data(found: Fields, field: int) -> bytes:
    """Bytes; none if they are absent."""
    values = found.get(field)
    value = values[-1] if values else b""
    if isinstance(value, int):
        raise Malformed("a number where a text is expected")
    return value


def every(found: Fields, field: int) -> list[bytes]:
    """All values of a repeated field of messages or bytes."""
    return [value for value in found.get(field, ()) if isinstance(value, bytes)]


class Header(NamedTuple):
    """What every answer begins with."""

    cluster: int
    revision: int
    term: int


class Kv(NamedTuple):
    """A key as it stands."""

    key: bytes
    create: int
    mod: int
    value: bytes
    lease: int


class Part(NamedTuple):
    """The answer to one operation of a transaction.

    Attributes:
        kvs: what a range found.
        more: there is more than was asked for.
        deleted: how many keys a deletion removed.
        inner: of a transaction in it.
    """

    kvs: list[Kv]
    more: bool
    deleted: int
    inner: Txn | None


class Txn(NamedTuple):
    """The answer to a transaction."""

    header: Header
    succeeded: bool
    parts: Sequence[Part]


def header(found: Fields) -> Header:
    """The header of an answer, whose first field it is everywhere."""
    inner = fields(data(found, 1))
    return Header(number(inner, 1) % 2**64, number(inner, 3), number(inner, 4))


def kv(raw: bytes) -> Kv:
    """A KeyValue."""
    found = fields(raw)
    return Kv(data(found, 1), number(found, 2), number(found, 3), data(found, 5), number(found, 6))


def read_txn(raw: bytes) -> Txn:
    """A TxnResponse."""
    found = fields(raw)
    return Txn(header(found), bool(number(found, 2)), [_part(part) for part in every(found, 3)])


def _part(raw: bytes) -> Part:
    found = fields(raw)
    if 1 in found:
        inner = fields(data(found, 1))
        return Part([kv(row) for row in every(inner, 2)], bool(number(inner, 3)), 0, None)
    if 3 in found:
        return Part([], False, number(fields(data(found, 3)), 2), None)
    return Part([], False, 0, read_txn(data(found, 4)) if 4 in found else None)


class Watched(NamedTuple):
    """A WatchResponse.

    Attributes:
        watch_id: which watch.
        created: it has begun, and tells what happens after `revision`.
        canceled: it has ended; `reason` may say why.
        events: the keys of which something happened.
    """

    watch_id: int
    created: bool
    revision: int
    canceled: bool
    reason: str
    events: list[bytes]


def read_watched(raw: bytes) -> Watched:
    """A WatchResponse."""
    found = fields(raw)
    events = [kv(data(fields(event), 2)).key for event in every(found, 11)]
    return Watched(
        number(found, 2),
        bool(number(found, 3)),
        header(found).revision,
        bool(number(found, 4)),
        data(found, 6).decode("utf-8", "replace"),
        events,
    )
