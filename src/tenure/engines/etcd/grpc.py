"""gRPC's client over HTTP/2, without I/O: requests become bytes, and bytes become answers.

Promises: what is fed in any pieces gives the same answers; a stream that was cancelled or given up never answers; flow
control is kept in both directions; whatever breaks the protocol is `Broken`, and the connection is of no use any more.
Does not promise more of gRPC than etcd needs: no compression, no deadlines, no metadata of the answer. Nor more of
HTTP/2 than gRPC needs: no push, and no priorities.

Source: gRPC's protocol over HTTP/2; RFC 9113.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import unquote

from tenure.engines.etcd.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_MOST,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Broken,
    Frame,
    Frames,
    frame,
)
from tenure.errors import UsageError

try:
    from hpack import Decoder, Encoder, HPACKError
except ImportError as missing:
    raise UsageError("url: etcd needs hpack 4 or later: pip install 'tenure[etcd]'") from missing

WINDOW: Final = 1 << 24
"""Bytes that the server may send ahead, on a stream and on the connection."""

LAST_STREAM: Final = 2**31 - 1024
"""Stream ids are used once; close to their end the connection is replaced."""

UNKNOWN: Final = 2
UNAVAILABLE: Final = 14

_NO_ERROR, _REFUSED_STREAM, _CANCEL = 0, 7, 8
_ENABLE_PUSH, _MAX_STREAMS, _INITIAL_WINDOW, _MAX_FRAME = 2, 3, 4, 5

_WINDOW_FIRST: Final = 65_535
_WINDOW_MOST: Final = 2**31 - 1
"""Bytes of a window before anybody has said anything else, and at most."""

_NO_TABLE: Final = b"\x20"
"""That the table of our headers has no room. Said once, it fits whatever room the server gives it later."""

_BLOCKS_MOST: Final = 64
"""Sets of headers that are kept encoded: of each method, with each token."""


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
    """What has come of an answer so far, and what the server takes of the request."""

    __slots__ = ("buffer", "headers", "taken", "window")

    def __init__(self, window: int) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.buffer = bytearray()
        self.window = window
        self.taken = 0


class Connection:
    """One connection; what is to be sent collects in `out`, and in `pongs` what a server may wait for a little."""

    def __init__(self, authority: str, *, tls: bool = False) -> None:
        self.is_greeted = False
        """The server's settings have come: it is alive, and speaks HTTP/2."""
        self.is_leaving = False
        """The server takes no more streams."""
        self._head = (
            (b":method", b"POST"),
            (b":scheme", b"https" if tls else b"http"),
            (b":authority", authority.encode()),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (b"user-agent", b"tenure"),
        )
        self._encoder, self._decoder, self._frames = Encoder(), Decoder(), Frames()
        self._blocks: dict[tuple[str, str, bool], bytes] = {}
        self._opening = _NO_TABLE
        """What the first headers begin with."""
        self._known: dict[bytes, dict[bytes, bytes]] = {}
        """What sets of indexes have meant since the table last changed: most answers have the same few headers."""
        self._streams: dict[int, _Stream] = {}
        self._next = 1
        self._streams_most = 2**32
        self._unsent: dict[int, tuple[bytes, bool]] = {}
        """What the server does not take yet, and whether more may follow."""
        self._window = _WINDOW_FIRST
        self._window_of_streams = _WINDOW_FIRST
        self._frame_most = FRAME_MOST
        self._taken = 0
        """Bytes that have come since the server was last told that it may send as many more."""
        settings = ((_ENABLE_PUSH, 0), (_INITIAL_WINDOW, WINDOW))
        self.out, self.pongs = bytearray(PREFACE), bytearray()
        self._say(SETTINGS, 0, b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in settings))
        self._say(WINDOW_UPDATE, 0, (WINDOW - _WINDOW_FIRST).to_bytes(4, "big"))

    # -- out --------------------------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """No other stream may be opened now."""
        return self.is_spent or len(self._streams) >= self._streams_most

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

        Raises:
            Broken: the server takes no stream at all.
        """
        if self.is_full:
            raise Broken("the server takes no request: it is leaving, or has as many as it allows")
        number = self._next
        self._next += 2
        block = self._opening + self._block(path, token, more)
        self._opening = b""
        for at in range(0, len(block), FRAME_MOST):
            is_last = at + FRAME_MOST >= len(block)
            kind, flags = CONTINUATION if at else HEADERS, END_HEADERS if is_last else 0
            self._say(kind, number, block[at : at + FRAME_MOST], flags)
        self._streams[number] = _Stream(self._window_of_streams)
        self.send(number, message, more=more)
        return number

    def send(self, stream: int, message: bytes, *, more: bool = True) -> None:
        """Send another message on a stream; none if it has ended meanwhile."""
        if stream in self._streams:
            before, _ = self._unsent.get(stream, (b"", True))
            self._unsent[stream] = (before + b"\0" + len(message).to_bytes(4, "big") + message, more)
            self._flush()

    def cancel(self, stream: int) -> None:
        """Give a stream up; nothing more comes of it."""
        if self._forget(stream):
            self._say(RST_STREAM, stream, _CANCEL.to_bytes(4, "big"))

    def ping(self) -> None:
        """Ask whether the server is there: it answers with something, at once."""
        self._say(PING, 0, bytes(8))

    def take(self) -> bytes:
        """What is to be sent now."""
        # The pongs last: etcd asks anew, with each request, as soon as it has the answer to what it asked last.
        out = bytes(self.out + self.pongs)
        self.out.clear()
        self.pongs.clear()
        return out

    def _say(self, kind: int, stream: int, payload: bytes, flags: int = 0) -> None:
        self.out += frame(kind, flags, stream, payload)

    def _block(self, path: str, token: str, more: bool) -> bytes:
        """The headers of a request, which are the same each time: never indexed, they change no table."""
        block = self._blocks.get((path, token, more))
        if block is None:
            headers = [(b":path", path.encode()), *self._head]  # those with a colon come first
            if token:
                headers.append((b"token", token.encode()))
            if more:
                headers.append((b"hasleader", b"true"))
            block = self._encoder.encode([(name, value, True) for name, value in headers], huffman=False)
            if len(self._blocks) >= _BLOCKS_MOST:
                self._blocks.clear()  # tokens come and go
            self._blocks[path, token, more] = block
        return block

    def _flush(self) -> None:
        """Send what the server takes now."""
        for number, (data, more) in list(self._unsent.items()):
            stream, rest = self._streams[number], data
            while rest:
                size = min(stream.window, self._window, self._frame_most)
                if size <= 0:
                    break
                part, rest = rest[:size], rest[size:]
                self._say(DATA, number, part, END_STREAM if not more and not rest else 0)
                stream.window -= len(part)
                self._window -= len(part)
            if rest:
                self._unsent[number] = (rest, more)
            else:
                del self._unsent[number]

    # -- in ---------------------------------------------------------------------------------------------------------

    def feed(self, chunk: bytes) -> list[Answer]:
        """Take what has come.

        Raises:
            Broken: the connection is of no use any more.
        """
        if not chunk:
            raise Broken("the server has closed the connection")
        answers: list[Answer] = []
        for one in self._frames.feed(chunk):
            self._took(one, answers)
        # Only now, for a stream may be over by what came next.
        if self._unsent:
            self._flush()
        return answers

    def _took(self, one: Frame, answers: list[Answer]) -> None:
        kind = one.kind
        if kind == DATA:
            self._data(one, answers)
        elif kind == HEADERS:
            self._headers(one, answers)
        elif kind == PING:
            if not one.flags & ACK:
                self.pongs += frame(PING, ACK, 0, one.payload)
        elif kind == WINDOW_UPDATE:
            self._widen(one)
        elif kind == SETTINGS:
            self._settings(one)
        elif kind == RST_STREAM:
            self._reset(one, answers)
        elif kind == GOAWAY:
            self._leaves(one, answers)

    def _stream(self, number: int) -> _Stream | None:
        """A stream of ours; None if it is over.

        Raises:
            Broken: it never was.
        """
        if number % 2 == 0 or number >= self._next:
            raise Broken(f"something on stream {number}, which nobody has opened")
        return self._streams.get(number)

    def _data(self, one: Frame, answers: list[Answer]) -> None:
        # Given back also where nobody listens any more: the connection's window is everybody's.
        self._taken = self._gave_back(0, self._taken + one.size)
        stream = self._stream(one.stream)
        if stream is None:
            return
        if not stream.headers:
            raise Broken("data without headers before it")
        stream.buffer += one.payload
        if messages := _messages(stream.buffer):
            answers.append(Answer(one.stream, messages))
        if one.flags & END_STREAM:
            self._ended(one.stream, answers)
        else:
            stream.taken = self._gave_back(one.stream, stream.taken + one.size)

    def _gave_back(self, stream: int, taken: int) -> int:
        """Let the server send as many bytes more as it has sent, if they are many; how many are left to be given."""
        if taken > WINDOW:
            raise Broken("the server has sent more than it was allowed to")
        if taken < WINDOW // 2:
            return taken
        self._say(WINDOW_UPDATE, stream, taken.to_bytes(4, "big"))
        return 0

    def _headers(self, one: Frame, answers: list[Answer]) -> None:
        found = self._decoded(one.payload)
        stream = self._stream(one.stream)
        if stream is None:
            return
        is_end = one.flags & END_STREAM
        if found.get(b":status", b"").startswith(b"1") and not is_end:
            return  # those that count are still to come
        if stream.headers and not is_end:
            raise Broken("other headers than the last after the first")
        stream.headers.update(found)
        if is_end:
            self._ended(one.stream, answers)

    def _decoded(self, block: bytes) -> dict[bytes, bytes]:
        """Headers; also of a stream that is over, for they may change the table."""
        if (found := self._known.get(block)) is not None:
            return found
        try:
            found = {bytes(name): bytes(value) for name, value in self._decoder.decode(block, raw=True)}
        except (HPACKError, IndexError, TypeError) as error:
            raise Broken(f"headers that make no sense: {error!r}") from error
        # Indexes alone, of one byte each, change nothing.
        if min(block, default=0) < 128 or len(self._known) >= _BLOCKS_MOST:
            self._known.clear()
        else:
            self._known[block] = found
        return found

    def _widen(self, one: Frame) -> None:
        """The server takes more."""
        more = int.from_bytes(one.payload, "big") & _WINDOW_MOST
        if not more:
            raise Broken("a window that is widened by nothing")
        if one.stream == 0:
            self._window = _widened(self._window, more)
        elif stream := self._stream(one.stream):
            stream.window = _widened(stream.window, more)

    def _settings(self, one: Frame) -> None:
        if one.flags & ACK:
            if one.payload:
                raise Broken("settings that are both said and confirmed")
            return
        if len(one.payload) % 6:
            raise Broken("settings that are cut off")
        for at in range(0, len(one.payload), 6):
            key = int.from_bytes(one.payload[at : at + 2], "big")
            value = int.from_bytes(one.payload[at + 2 : at + 6], "big")
            if key == _INITIAL_WINDOW:
                if value > _WINDOW_MOST:
                    raise Broken("a window without an end")
                for stream in self._streams.values():
                    # It may fall below nothing.
                    stream.window = _widened(stream.window, value - self._window_of_streams)
                self._window_of_streams = value
            elif key == _MAX_STREAMS:
                self._streams_most = value
            elif key == _MAX_FRAME:
                if not FRAME_MOST <= value < 1 << 24:
                    raise Broken(f"frames of {value} bytes at most, which is not allowed")
                self._frame_most = value
        self._say(SETTINGS, 0, b"", ACK)
        self.is_greeted = True

    def _reset(self, one: Frame, answers: list[Answer]) -> None:
        self._stream(one.stream)
        if self._forget(one.stream):
            code = int.from_bytes(one.payload, "big")
            text = f"the server has given the request up (HTTP/2 error {code})"
            answers.append(Answer(one.stream, [], UNAVAILABLE, text, code == _REFUSED_STREAM))

    def _leaves(self, one: Frame, answers: list[Answer]) -> None:
        if one.size < 8:
            raise Broken("a farewell that is cut off")
        self.is_leaving = True
        last = int.from_bytes(one.payload[:4], "big") & _WINDOW_MOST
        for number in [n for n in self._streams if n > last]:
            self._forget(number)
            answers.append(Answer(number, [], UNAVAILABLE, "the server is going away", untouched=True))

    def _ended(self, number: int, answers: list[Answer]) -> None:
        if number in self._unsent:  # it is answered, and the rest of the request is not wanted
            self._say(RST_STREAM, number, _NO_ERROR.to_bytes(4, "big"))
        if stream := self._forget(number):
            answers.append(Answer(number, [], *_status(stream.headers)))

    def _forget(self, stream: int) -> _Stream | None:
        self._unsent.pop(stream, None)
        return self._streams.pop(stream, None)


def _widened(window: int, more: int) -> int:
    """A window that the server has changed.

    Raises:
        Broken: into one that cannot be.
    """
    if window + more > _WINDOW_MOST:
        raise Broken("a window without an end")
    return window + more


def _messages(buffer: bytearray) -> list[bytes]:
    """Take the whole messages from the start of a buffer.

    Raises:
        Broken: one is compressed, which nobody asked for.
    """
    messages = []
    while len(buffer) >= 5 and len(buffer) >= (end := 5 + int.from_bytes(buffer[1:5], "big")):
        if buffer[0]:
            raise Broken("a compressed message, which nobody asked for")
        messages.append(bytes(buffer[5:end]))
        del buffer[:end]
    return messages


def _status(headers: dict[bytes, bytes]) -> tuple[int, str]:
    """How an answer has ended, and gRPC's or our words for it."""
    status = headers.get(b"grpc-status", b"")
    if status.isdigit():
        return int(status), unquote(headers.get(b"grpc-message", b"").decode("ascii", "replace"))
    code = headers.get(b":status", b"none").decode("ascii", "replace")
    text = "the answer has ended without a status" if code == "200" else "what answers is no gRPC server"
    return UNKNOWN, f"{text} (HTTP status {code})"
