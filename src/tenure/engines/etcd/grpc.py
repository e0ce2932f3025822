"""gRPC's client over HTTP/2, without I/O: requests become bytes, and bytes become answers. The frames are h2's.

Promises: what is fed in any pieces gives the same answers; a stream that was cancelled or given up never answers;
whatever breaks the protocol is `Broken`, and the connection is of no use any more.
Does not promise more of gRPC than etcd needs: no compression, no deadlines, no metadata of the answer.

Source: gRPC's protocol over HTTP/2; RFC 9113 for what h2 leaves to its user.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final, NamedTuple
from urllib.parse import unquote

from tenure.errors import UsageError

try:
    from h2 import events
    from h2.config import H2Configuration
    from h2.connection import ConnectionInputs, H2Connection, H2ConnectionStateMachine
    from h2.errors import ErrorCodes
    from h2.exceptions import H2Error
    from h2.settings import SettingCodes, Settings
except ImportError as missing:
    raise UsageError("url: etcd needs h2 4 or later: pip install 'tenure[etcd]'") from missing

WINDOW: Final = 1 << 24
"""Bytes that the server may send ahead, on a stream and on the connection."""

LAST_STREAM: Final = 2**31 - 1024
"""Stream ids are used once; close to their end the connection is replaced."""

UNKNOWN: Final = 2
UNAVAILABLE: Final = 14

_SETTINGS: Final = b"\x04"

# What we send is the same few headers each time, and of the server's we take three, each with a look of its own.
_CONFIG: Final = H2Configuration(
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
    validate_inbound_headers=False,
    normalize_inbound_headers=False,
)


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


class _Draining(H2ConnectionStateMachine):
    """To h2 a GOAWAY is the end. To a server it is not: what it has begun with is still answered (RFC 9113, 6.8)."""

    def process_input(self, input_: ConnectionInputs) -> list[events.Event]:
        return [] if input_ is ConnectionInputs.RECV_GOAWAY else super().process_input(input_)


class _H2(H2Connection):
    # How each closed stream ended is remembered; by default for 65,536 of them, on each connection.
    MAX_CLOSED_STREAMS = 4096


class _Stream(NamedTuple):
    """What has come of an answer so far."""

    headers: dict[bytes, bytes]
    buffer: bytearray


class Connection:
    """One connection; what is to be sent collects in `out`."""

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
        self._first = b""
        self._streams: dict[int, _Stream] = {}
        self._unsent: dict[int, tuple[bytes, bool]] = {}
        """What the server does not take yet, and whether more may follow."""
        self._h2 = _H2(_CONFIG)
        self._h2.state_machine = _Draining()
        initial = {SettingCodes.ENABLE_PUSH: 0, SettingCodes.INITIAL_WINDOW_SIZE: WINDOW}
        self._h2.local_settings = Settings(client=True, initial_values=initial)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(WINDOW)
        # Not left with h2, which forgets what is to be sent when the server says that it is leaving.
        self.out = bytearray(self._h2.data_to_send())

    @property
    def is_full(self) -> bool:
        """No other stream may be opened now."""
        return self.is_spent or len(self._streams) >= self._h2.remote_settings.max_concurrent_streams

    @property
    def is_spent(self) -> bool:
        """No other stream can ever be opened."""
        return self.is_leaving or self._h2.highest_outbound_stream_id > LAST_STREAM

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
        headers = [(b":path", path.encode()), *self._head]  # those with a colon come first
        if token:
            headers.append((b"token", token.encode()))
        if more:
            headers.append((b"hasleader", b"true"))
        number = self._h2.get_next_available_stream_id()
        try:
            self._h2.send_headers(number, headers)
        except H2Error as error:
            raise Broken(f"the server takes no request: {error}") from error
        self._streams[number] = _Stream({}, bytearray())
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
            self._h2.reset_stream(stream, ErrorCodes.CANCEL)
            self._flush()

    def ping(self) -> None:
        """Ask whether the server is there: it answers with something, at once."""
        self._h2.ping(bytes(8))
        self._flush()

    def take(self) -> bytes:
        """What is to be sent now."""
        out = bytes(self.out)
        self.out.clear()
        return out

    def feed(self, chunk: bytes) -> list[Answer]:
        """Take what has come.

        Raises:
            Broken: the connection is of no use any more.
        """
        if not chunk:
            raise Broken("the server has closed the connection")
        if not self.is_greeted:
            # A server's first frame is its settings; h2 would wait for the end of a frame that is none.
            self._first += chunk[:4]
            if self._first[3:4] not in (_SETTINGS, b""):
                raise Broken("what answers is no HTTP/2 server (TLS where none is expected, or the other way round?)")
        answers: list[Answer] = []
        try:
            for event in self._h2.receive_data(chunk):
                self._took(event, answers)
            # Only now: h2 is ahead of the events that it tells, and a stream may be over there already.
            self._flush()
        except H2Error as error:
            raise Broken(f"what the server says makes no sense: {error}") from error
        return answers

    def _flush(self) -> None:
        """Send what the server takes now."""
        for number, (data, more) in list(self._unsent.items()):
            rest = data
            while rest:
                size = min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)
                if size <= 0:
                    break
                part, rest = rest[:size], rest[size:]
                self._h2.send_data(number, part, end_stream=not more and not rest)
            if rest:
                self._unsent[number] = (rest, more)
            else:
                del self._unsent[number]
        self.out += self._h2.data_to_send()

    def _forget(self, stream: int) -> _Stream | None:
        self._unsent.pop(stream, None)
        return self._streams.pop(stream, None)

    def _took(self, event: events.Event, answers: list[Answer]) -> None:
        if isinstance(event, events.DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if stream := self._streams.get(event.stream_id):
                stream.buffer.extend(event.data)
                if messages := _messages(stream.buffer):
                    answers.append(Answer(event.stream_id, messages))
        elif isinstance(event, (events.ResponseReceived, events.TrailersReceived)):
            if stream := self._streams.get(event.stream_id):
                stream.headers.update(event.headers)
        elif isinstance(event, events.StreamEnded):
            self._ended(event.stream_id, answers)
        elif isinstance(event, events.StreamReset):
            if self._forget(event.stream_id):
                text = f"the server has given the request up (HTTP/2 error {int(event.error_code)})"
                is_untouched = event.error_code == ErrorCodes.REFUSED_STREAM
                answers.append(Answer(event.stream_id, [], UNAVAILABLE, text, is_untouched))
        elif isinstance(event, events.RemoteSettingsChanged):
            self.is_greeted = True
        elif isinstance(event, events.ConnectionTerminated):
            self._leaves(event.last_stream_id or 0, answers)

    def _ended(self, number: int, answers: list[Answer]) -> None:
        if number in self._unsent:  # it is answered, and the rest of the request is not wanted
            with suppress(H2Error):  # the server has said so itself
                self._h2.reset_stream(number, ErrorCodes.NO_ERROR)
        if stream := self._forget(number):
            answers.append(Answer(number, [], *_status(stream.headers)))

    def _leaves(self, last: int, answers: list[Answer]) -> None:
        self.is_leaving = True
        for number in [n for n in self._streams if n > last]:
            self._forget(number)
            answers.append(Answer(number, [], UNAVAILABLE, "the server is going away", untouched=True))


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
