"""gRPC over HTTP/2, the client's part, without I/O: requests become bytes, and bytes become answers.

Promises: what is fed in any pieces gives the same answers; a stream that was cancelled or given up never answers; flow
control is kept in both directions; whatever breaks the protocol is `Broken`, and the connection is of no use any more.
Does not promise more than gRPC needs: no push, no priorities, no compression, no dynamic header table.

Source: RFC 9113 (HTTP/2), and gRPC's protocol over HTTP/2.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple
from urllib.parse import unquote

from tenure.engines.etcd.hpack import decoded, literal, named

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, PADDED, PRIORITY, ACK = 0x1, 0x4, 0x8, 0x20, 0x1
CANCEL: Final = 8
REFUSED_STREAM: Final = 7

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME = 1, 2, 3, 4, 5

WINDOW: Final = 1 << 24
"""Bytes that the server may send ahead, on a stream and on the connection."""

REFILL: Final = 1 << 20
"""Bytes taken after which the server is told that it may send as many more."""

LAST_STREAM: Final = 2**31 - 1024
"""Stream ids are used once; close to their end the connection is replaced."""

UNKNOWN: Final = 2
UNAVAILABLE: Final = 14


class Broken(OSError):
    """The server has closed the connection, or does not speak HTTP/2; what was asked for may have been done."""


class Answer(NamedTuple):
    """What has come on a stream.

    Attributes:
        stream: which one.
        messages: whole messages, perhaps none.
        status: gRPC's code once the stream has ended, 0 for success; None while more may come.
        text: gRPC's message, if it ended badly.
        untouched: the server says that it has not begun with it.
    """

    stream: int
    messages: list[bytes]
    status: int | None = None
    text: str = ""
    untouched: bool = False


class _Stream:
    __slots__ = ("buffer", "headers", "taken", "window")

    def __init__(self, window: int) -> None:
        self.buffer = bytearray()
        self.headers: dict[bytes, bytes] = {}
        self.window = window
        self.taken = 0


class Connection:
    """One connection; what is to be sent collects in `out`."""

    def __init__(self, authority: str, *, tls: bool = False) -> None:
        self.out = bytearray(PREFACE)
        settings = ((HEADER_TABLE_SIZE, 0), (ENABLE_PUSH, 0), (INITIAL_WINDOW, WINDOW))
        self._frame(SETTINGS, 0, 0, b"".join(k.to_bytes(2, "big") + v.to_bytes(4, "big") for k, v in settings))
        self._frame(WINDOW_UPDATE, 0, 0, WINDOW.to_bytes(4, "big"))
        self.is_greeted = False
        """The server's settings have come: it is alive, and speaks HTTP/2."""
        self.is_leaving = False
        """The server takes no more streams."""
        self.streams_most = 2**31
        # Every request has the same headers, but for its path and its token; those with a colon come first.
        self._head = b"\x83" + (b"\x87" if tls else b"\x86") + literal(b"\x01", authority.encode())
        self._tail = (
            literal(b"\x0f\x10", b"application/grpc") + named(b"te", b"trailers") + literal(b"\x0f\x2b", b"tenure")
        )
        self._blocks: dict[tuple[str, str], bytes] = {}
        self._buffer = bytearray()
        self._streams: dict[int, _Stream] = {}
        self._block: tuple[int, int, bytearray] | None = None
        self._next = 1
        self._window = 65_535
        self._stream_window = 65_535
        self._frame_most = 16_384
        self._taken = 0
        self._queue: deque[tuple[int, bytes, bool]] = deque()

    # -- out --------------------------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """No other stream may be opened now."""
        return self.is_leaving or self._next > LAST_STREAM or len(self._streams) >= self.streams_most

    @property
    def is_spent(self) -> bool:
        """No other stream can ever be opened."""
        return self.is_leaving or self._next > LAST_STREAM

    def request(self, path: str, message: bytes, *, token: str = "", more: bool = False) -> int:
        """Open a stream with a message.

        Args:
            path: the method, such as `/etcdserverpb.KV/Range`.
            message: its first message.
            token: who asks; empty for nobody in particular.
            more: other messages will follow; the stream is refused, or ended, by a server without a leader.
        """
        stream = self._next
        self._next += 2
        block = self._blocks.get((path, token))
        if block is None:
            block = self._head + literal(b"\x04", path.encode()) + self._tail
            if token:
                block += named(b"token", token.encode())
            if more:
                block += named(b"hasleader", b"true")
            if len(self._blocks) > 64:
                self._blocks.clear()  # tokens come and go
            self._blocks[path, token] = block
        self._streams[stream] = _Stream(self._stream_window)
        self._frame(HEADERS, END_HEADERS, stream, block)
        self.send(stream, message, more=more)
        return stream

    def send(self, stream: int, message: bytes, *, more: bool = True) -> None:
        """Send another message on a stream."""
        self._queue.append((stream, b"\0" + len(message).to_bytes(4, "big") + message, not more))
        self._flush()

    def cancel(self, stream: int) -> None:
        """Give a stream up; nothing more comes of it."""
        if self._streams.pop(stream, None) is not None:
            self._frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big"))

    def ping(self) -> None:
        """Ask whether the server is there: it answers with something, at once."""
        self._frame(PING, 0, 0, bytes(8))

    def take(self) -> bytes:
        """What is to be sent now."""
        out = bytes(self.out)
        self.out.clear()
        return out

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self.out += len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload

    def _flush(self) -> None:
        while self._queue:
            number, data, last = self._queue.popleft()
            stream = self._streams.get(number)
            if stream is None:
                continue  # ended or given up meanwhile
            size = min(len(data), self._window, stream.window, self._frame_most)
            if size <= 0:
                self._queue.appendleft((number, data, last))
                return
            rest = data[size:]
            self._frame(DATA, END_STREAM if last and not rest else 0, number, data[:size])
            self._window -= size
            stream.window -= size
            if rest:
                self._queue.appendleft((number, rest, last))

    # -- in ---------------------------------------------------------------------------------------------------------

    def feed(self, chunk: bytes) -> list[Answer]:
        """Take what has come.

        Raises:
            Broken: the connection is of no use any more.
        """
        if not chunk:
            raise Broken("the server has closed the connection")
        buffer = self._buffer
        buffer += chunk
        answers: list[Answer] = []
        start, end = 0, len(buffer)
        while end - start >= 9:
            size = int.from_bytes(buffer[start : start + 3], "big")
            if size > 1 << 20 or (not self.is_greeted and buffer[start + 3] != SETTINGS):
                raise Broken("what answers is no HTTP/2 server (TLS where none is expected, or the other way round?)")
            if end - start < 9 + size:
                break
            kind, flags = buffer[start + 3], buffer[start + 4]
            stream = int.from_bytes(buffer[start + 5 : start + 9], "big") & 0x7FFFFFFF
            payload = bytes(buffer[start + 9 : start + 9 + size])
            start += 9 + size
            try:
                self._took(kind, flags, stream, payload, answers)
            except (IndexError, ValueError) as error:
                raise Broken(f"a frame makes no sense: {error}") from error
        del buffer[:start]
        return answers

    def _took(self, kind: int, flags: int, number: int, payload: bytes, answers: list[Answer]) -> None:
        if kind == DATA:
            self._data(flags, number, payload, answers)
        elif kind in (HEADERS, CONTINUATION):
            self._block_of_headers(kind, flags, number, payload, answers)
        elif kind == RST_STREAM:
            if self._streams.pop(number, None) is not None:
                code = int.from_bytes(payload, "big")
                text = f"the server has given the request up (HTTP/2 error {code})"
                answers.append(Answer(number, [], UNAVAILABLE, text, code == REFUSED_STREAM))
        elif kind == SETTINGS and not flags & ACK:
            self._settings(payload)
        elif kind == PING and not flags & ACK:
            self._frame(PING, ACK, 0, payload)
        elif kind == GOAWAY:
            self._goaway(payload, answers)
        elif kind == WINDOW_UPDATE:
            self._widen(number, int.from_bytes(payload, "big") & 0x7FFFFFFF)
        # Unknown kinds are ignored, as the protocol wants it.

    def _widen(self, number: int, more: int) -> None:
        """The server takes more bytes."""
        if number == 0:
            self._window += more
        elif number in self._streams:
            self._streams[number].window += more
        self._flush()

    def _settings(self, payload: bytes) -> None:
        self.is_greeted = True
        for start in range(0, len(payload), 6):
            key = int.from_bytes(payload[start : start + 2], "big")
            value = int.from_bytes(payload[start + 2 : start + 6], "big")
            if key == INITIAL_WINDOW:
                for stream in self._streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value
            elif key == MAX_FRAME:
                self._frame_most = value
            elif key == MAX_STREAMS:
                self.streams_most = value
        self._frame(SETTINGS, ACK, 0, b"")
        self._flush()

    def _goaway(self, payload: bytes, answers: list[Answer]) -> None:
        self.is_leaving = True
        last = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
        for number in [n for n in self._streams if n > last]:
            del self._streams[number]
            answers.append(Answer(number, [], UNAVAILABLE, "the server is going away", untouched=True))

    def _data(self, flags: int, number: int, payload: bytes, answers: list[Answer]) -> None:
        self._taken += len(payload)
        if self._taken >= REFILL:
            self._frame(WINDOW_UPDATE, 0, 0, self._taken.to_bytes(4, "big"))
            self._taken = 0
        stream = self._streams.get(number)
        if stream is None:
            return  # given up
        stream.taken += len(payload)
        if stream.taken >= REFILL:
            self._frame(WINDOW_UPDATE, 0, number, stream.taken.to_bytes(4, "big"))
            stream.taken = 0
        buffer = stream.buffer
        buffer += _unpadded(flags, payload)
        messages = []
        while len(buffer) >= 5:
            size = int.from_bytes(buffer[1:5], "big")
            if len(buffer) < 5 + size:
                break
            if buffer[0]:
                raise ValueError("a compressed message, which nobody asked for")
            messages.append(bytes(buffer[5 : 5 + size]))
            del buffer[: 5 + size]
        if flags & END_STREAM:
            del self._streams[number]
            answers.append(Answer(number, messages, UNKNOWN, "the answer has ended without a status"))
        elif messages:
            answers.append(Answer(number, messages))

    def _block_of_headers(self, kind: int, flags: int, number: int, payload: bytes, answers: list[Answer]) -> None:
        if kind == HEADERS:
            payload = _unpadded(flags, payload)
            self._block = (number, flags, bytearray(payload[5:] if flags & PRIORITY else payload))
        elif self._block is not None:
            self._block[2].extend(payload)
        if flags & END_HEADERS:
            self._headers(answers)

    def _headers(self, answers: list[Answer]) -> None:
        if self._block is None:
            raise ValueError("headers out of order")
        number, flags, block = self._block
        self._block = None
        found = decoded(bytes(block))
        stream = self._streams.get(number)
        if stream is None:
            return  # given up
        stream.headers.update(found)
        if not flags & END_STREAM:
            return
        del self._streams[number]
        headers = stream.headers
        status = headers.get(b"grpc-status", b"")
        if status.isdigit():
            text = unquote(headers.get(b"grpc-message", b"").decode("ascii", "replace"))
            answers.append(Answer(number, [], int(status), text))
        else:
            code = headers.get(b":status", b"none").decode("ascii", "replace")
            answers.append(Answer(number, [], UNKNOWN, f"what answers is no gRPC server (HTTP status {code})"))


def _unpadded(flags: int, payload: bytes) -> bytes:
    return payload[1 : len(payload) - payload[0]] if flags & PADDED else payload
