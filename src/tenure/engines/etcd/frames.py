"""The frames of HTTP/2, without I/O: what comes is cut into frames, and each is what the protocol allows it to be.

Promises: what is fed in any pieces gives the same frames; headers come whole, whatever frames they came in, and without
padding; a frame of a wrong size, on a stream where it does not belong, or out of order is `Broken`.
Does not promise that a frame makes sense in the state of its stream: that is the connection's.

Source: RFC 9113, sections 4 and 6.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
"""The kinds; others are ignored, as the protocol wants it."""

END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 0x1, 0x1, 0x4, 0x8, 0x20
"""The flags."""

FRAME_MOST: Final = 16_384
"""Bytes of a frame's payload, as long as nobody has said that it takes more; we never do."""

_PARTS_MOST: Final = 64
"""Frames in which headers may come: before the last of them nothing is known of what they say."""

_HEAD: Final = struct.Struct(">HBBBL")
_STREAM: Final = 0x7FFFFFFF
_SIZES: Final = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
_OF_THE_CONNECTION: Final = frozenset({SETTINGS, PING, GOAWAY})
_OF_A_STREAM: Final = frozenset({DATA, HEADERS, PRIORITY, RST_STREAM, CONTINUATION})


class Broken(OSError):
    """The server has closed the connection, or does not speak HTTP/2; what was asked for may have been done."""


class Frame(NamedTuple):
    """What came.

    Attributes:
        size: bytes of its payload on the wire, with the padding, which flow control counts.
    """

    kind: int
    flags: int
    stream: int
    payload: bytes
    size: int


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame to send."""
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 255, kind, flags, stream) + payload


class Frames:
    """The frames of one connection, as they come."""

    def __init__(self) -> None:
        self._rest = b""
        self._is_first = True
        self._parts: list[Frame] = []
        """Headers that go on in the next frame."""

    def feed(self, chunk: bytes) -> list[Frame]:
        """Take what has come.

        Raises:
            Broken: it is no HTTP/2, or breaks it.
        """
        data = self._rest + chunk if self._rest else chunk
        found: list[Frame] = []
        at, end = 0, len(data)
        # A server's first frame is its settings. What is no server says something else, and not a whole frame of it.
        if self._is_first and data[3:5] not in (b"", b"\x04", b"\x04\x00"):
            raise Broken("what answers is no HTTP/2 server (TLS where none is expected, or the other way round?)")
        while end - at >= 9:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            size = high << 8 | low
            if size > FRAME_MOST:
                raise Broken(f"a frame of {size} bytes, which is more than was allowed")
            if end - at < 9 + size:
                break
            payload = data[at + 9 : at + 9 + size]
            at += 9 + size
            self._is_first = False
            one = self._checked(Frame(kind, flags, stream & _STREAM, payload, size))
            if one is not None:
                found.append(one)
        self._rest = data[at:]
        return found

    def _checked(self, one: Frame) -> Frame | None:
        """A frame that may be; None if there is nothing to say of it yet, or at all."""
        kind, flags, stream, payload, size = one
        if (kind == CONTINUATION) is not bool(self._parts):
            raise Broken("headers that are continued by something else, or were never begun")
        if kind in (_OF_A_STREAM if stream == 0 else _OF_THE_CONNECTION):
            raise Broken(f"a frame of the kind {kind} on stream {stream}, where it does not belong")
        if _SIZES.get(kind, size) != size:
            raise Broken(f"a frame of the kind {kind} with {size} bytes")
        if kind == PUSH_PROMISE:
            raise Broken("a promise to push something, which was forbidden")
        if kind in (DATA, HEADERS):
            if flags & PADDED:
                if not payload or payload[0] >= size:
                    raise Broken("a frame with more padding than it has room for")
                payload = payload[1 : size - payload[0]]
            if kind == HEADERS and flags & PRIORITIZED:
                if len(payload) < 5:
                    raise Broken("headers that are cut off")
                payload = payload[5:]
            one = Frame(kind, flags, stream, payload, size)
        if kind in (HEADERS, CONTINUATION):
            return self._joined(one)
        return one

    def _joined(self, one: Frame) -> Frame | None:
        """Headers, once they are whole."""
        if one.kind == HEADERS and one.flags & END_HEADERS:
            return one
        self._parts.append(one)
        first = self._parts[0]
        if one.stream != first.stream or len(self._parts) > _PARTS_MOST:
            raise Broken("headers that go on elsewhere, or for ever")
        if not one.flags & END_HEADERS:
            return None
        payload = b"".join(part.payload for part in self._parts)
        self._parts = []
        return first._replace(flags=first.flags | END_HEADERS, payload=payload)
