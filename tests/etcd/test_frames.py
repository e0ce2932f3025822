"""The frames of HTTP/2: whatever comes is a frame that may be, or `Broken`; and a server by h2 finds nothing wrong."""

from __future__ import annotations

from contextlib import suppress

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived
from h2.settings import SettingCodes
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from tenure.engines.etcd import grpc
from tenure.engines.etcd.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_MOST,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITIZED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Broken,
    Frame,
    Frames,
    frame,
)
from tenure.engines.etcd.grpc import Answer, Connection

GREETING = frame(SETTINGS, 0, 0, b"")
PATH = "/etcdserverpb.KV/Range"
OK = [(b":status", b"200"), (b"content-type", b"application/grpc")]
DONE = [(b"grpc-status", b"0")]


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """In pieces of these sizes, and the rest."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [piece for piece in (*pieces, data[at:]) if piece]


def greeted() -> Frames:
    frames = Frames()
    frames.feed(GREETING)
    return frames


# -- one frame after another ------------------------------------------------------------------------------------------

PAYLOADS = st.binary(max_size=40)
FRAMES = st.lists(
    st.one_of(
        st.builds(lambda stream, payload: frame(DATA, 0, stream, payload), st.integers(1, 9), PAYLOADS),
        st.builds(lambda stream, payload: frame(HEADERS, END_HEADERS, stream, payload), st.integers(1, 9), PAYLOADS),
        st.builds(lambda kind, payload: frame(kind, 0, 3, payload), st.integers(10, 255), PAYLOADS),
        st.just(frame(PING, 0, 0, b"12345678")),
        st.just(frame(HEADERS, 0, 5, b"in ") + frame(CONTINUATION, END_HEADERS, 5, b"two")),
    ),
    max_size=8,
)


@given(FRAMES, st.lists(st.integers(0, 30), max_size=20))
def test_what_comes_in_any_pieces_is_the_same_frames(said: list[bytes], sizes: list[int]) -> None:
    data = GREETING + b"".join(said)
    frames = Frames()
    found = [one for piece in cut(data, sizes) for one in frames.feed(piece)]
    assert found == Frames().feed(data)
    assert len(found) == len(said) + 1


def test_padding_and_priorities_are_taken_off_and_the_size_is_that_on_the_wire() -> None:
    padded = frame(DATA, PADDED | END_STREAM, 1, b"\3body\0\0\0")
    headers = frame(HEADERS, PADDED | PRIORITIZED | END_HEADERS, 1, b"\2" + b"prior" + b"block\0\0")
    assert greeted().feed(padded + headers) == [
        Frame(DATA, PADDED | END_STREAM, 1, b"body", 8),
        Frame(HEADERS, PADDED | PRIORITIZED | END_HEADERS, 1, b"block", 13),
    ]
    assert greeted().feed(frame(DATA, PADDED, 1, b"\0"))[0].payload == b""


def test_headers_come_whole() -> None:
    first = frame(HEADERS, END_STREAM | PADDED, 7, b"\1one \0")
    frames = greeted()
    assert frames.feed(first + frame(CONTINUATION, 0, 7, b"two ")) == []
    (whole,) = frames.feed(frame(CONTINUATION, END_HEADERS, 7, b"three"))
    assert (whole.kind, whole.stream, whole.payload) == (HEADERS, 7, b"one two three")
    assert whole.flags & END_STREAM
    assert frames.feed(frame(HEADERS, END_HEADERS, 9, b"next"))[0].payload == b"next"


LONG = b"x" * (FRAME_MOST + 1)
WRONG = {
    "too long": frame(DATA, 0, 1, LONG),
    "data of the connection": frame(DATA, 0, 0, b"x"),
    "headers of the connection": frame(HEADERS, END_HEADERS, 0, b"x"),
    "a reset of the connection": frame(RST_STREAM, 0, 0, bytes(4)),
    "a priority of the connection": frame(PRIORITY, 0, 0, bytes(5)),
    "settings of a stream": frame(SETTINGS, 0, 1, b""),
    "a ping of a stream": frame(PING, 0, 1, bytes(8)),
    "a farewell of a stream": frame(GOAWAY, 0, 1, bytes(8)),
    "a short ping": frame(PING, 0, 0, bytes(7)),
    "a short reset": frame(RST_STREAM, 0, 1, bytes(3)),
    "a long priority": frame(PRIORITY, 0, 1, bytes(6)),
    "a short window": frame(WINDOW_UPDATE, 0, 1, bytes(3)),
    "a push": frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)),
    "padding without its size": frame(DATA, PADDED, 1, b""),
    "all padding and more": frame(DATA, PADDED, 1, b"\4abc"),
    "a priority that is cut off": frame(HEADERS, PRIORITIZED | END_HEADERS, 1, b"four"),
    "what continues nothing": frame(CONTINUATION, END_HEADERS, 1, b"x"),
    "a ping amid headers": frame(HEADERS, 0, 1, b"x") + frame(PING, 0, 0, bytes(8)),
    "an unknown kind amid headers": frame(HEADERS, 0, 1, b"x") + frame(77, 0, 1, b"x"),
    "other headers amid headers": frame(HEADERS, 0, 1, b"x") + frame(HEADERS, END_HEADERS, 1, b"x"),
    "continued elsewhere": frame(HEADERS, 0, 1, b"x") + frame(CONTINUATION, END_HEADERS, 3, b"x"),
    "continued for ever": frame(HEADERS, 0, 1, b"x") + frame(CONTINUATION, 0, 1, b"") * 64,
}


@pytest.mark.parametrize("what", WRONG)
def test_what_breaks_the_protocol_is_broken(what: str) -> None:
    with pytest.raises(Broken):
        greeted().feed(WRONG[what])


@pytest.mark.parametrize("first", [frame(PING, 0, 0, bytes(8)), frame(SETTINGS, ACK, 0, b"")])
def test_a_servers_first_frame_is_its_settings(first: bytes) -> None:
    with pytest.raises(Broken, match="no HTTP/2 server"):
        Frames().feed(first)


# -- what a server may not say ----------------------------------------------------------------------------------------


def block(*headers: tuple[bytes, bytes]) -> bytes:
    """Headers that change no table."""
    return Encoder().encode([(name, value, True) for name, value in headers])


HEAD = frame(HEADERS, END_HEADERS, 1, block(*OK))


def setting(key: SettingCodes, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, int(key).to_bytes(2, "big") + value.to_bytes(4, "big"))


def window(stream: int, more: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, more.to_bytes(4, "big"))


FORBIDDEN = {
    "an answer that nobody asked for": frame(HEADERS, END_HEADERS, 3, block(*OK)),
    "a stream of the server's": frame(HEADERS, END_HEADERS, 2, block(*OK)),
    "data that nobody asked for": frame(DATA, 0, 3, b""),
    "a reset of what was not begun": frame(RST_STREAM, 0, 3, bytes(4)),
    "a window of what was not begun": window(3, 1),
    "data before headers": frame(DATA, 0, 1, b""),
    "headers in the middle": HEAD + HEAD,
    "headers that cannot be read": frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
    "an index of nothing": frame(HEADERS, END_HEADERS, 1, b"\xfe"),
    "headers without a bound": frame(HEADERS, END_HEADERS, 1, block((b"x", b"y" * 70_000))[:FRAME_MOST]),
    "a window of nothing more": window(1, 0),
    "a window without an end": window(1, 2**31 - 1),
    "the connection's without an end": window(0, 2**31 - 1),
    "streams' windows without an end": setting(SettingCodes.INITIAL_WINDOW_SIZE, 2**31),
    "settings that make one so": window(1, 2**31 - 65_536) + setting(SettingCodes.INITIAL_WINDOW_SIZE, 70_000),
    "frames that are too small": setting(SettingCodes.MAX_FRAME_SIZE, FRAME_MOST - 1),
    "frames that are too large": setting(SettingCodes.MAX_FRAME_SIZE, 1 << 24),
    "settings that are cut off": frame(SETTINGS, 0, 0, bytes(7)),
    "settings and their confirmation": frame(SETTINGS, ACK, 0, bytes(6)),
    "a farewell that is cut off": frame(GOAWAY, 0, 0, bytes(7)),
}


def asked() -> Connection:
    """A connection with a request under way."""
    client = Connection("peer:1")
    client.feed(GREETING)
    client.request(PATH, b"question")
    client.take()
    return client


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_makes_no_sense_where_it_comes_is_broken(what: str) -> None:
    with pytest.raises(Broken):
        asked().feed(FORBIDDEN[what])


@pytest.mark.parametrize("cancels", [False, True])
def test_more_than_the_window_is_broken(cancels: bool) -> None:
    """Nobody sends so much before we could say that it may: the client confirms at half of it."""
    client = asked()
    client.feed(HEAD)
    if cancels:
        client.cancel(1)
    client._taken = grpc.WINDOW - 10
    with pytest.raises(Broken, match="more than it was allowed"):
        client.feed(frame(DATA, 0, 1, bytes(11)))


def test_what_a_server_may_say_at_any_time_is_no_answer() -> None:
    client = asked()
    early = frame(HEADERS, END_HEADERS, 1, block((b":status", b"103"), (b"link", b"x")))
    odd = frame(PRIORITY, 0, 1, bytes(5)) + frame(99, 255, 1, b"whatever") + frame(PING, ACK, 0, bytes(8))
    assert client.feed(early + odd + early + frame(SETTINGS, ACK, 0, b"") + setting(SettingCodes(6), 1)) == []
    done = frame(HEADERS, END_HEADERS | END_STREAM, 1, block(*DONE))
    assert client.feed(HEAD + frame(DATA, 0, 1, b"\0\0\0\0\1x") + done) == [Answer(1, [b"x"]), Answer(1, [], 0)]
    # It is over, and what comes late is dropped.
    assert client.feed(HEAD + frame(DATA, 0, 1, b"x") + window(1, 5) + frame(RST_STREAM, 0, 1, bytes(4))) == []


def test_headers_of_a_stream_that_is_over_still_change_the_table() -> None:
    client, encoder = asked(), Encoder()
    second = client.request(PATH, b"question")
    client.cancel(1)
    shown = [(b"grpc-status", b"5"), (b"grpc-message", b"told once")]
    client.feed(frame(HEADERS, END_HEADERS | END_STREAM, 1, encoder.encode([*OK, *shown])))
    said = encoder.encode([*OK, *shown])
    assert len(said) < 10, "the second time they are a few indexes"
    assert client.feed(frame(HEADERS, END_HEADERS | END_STREAM, second, said)) == [Answer(second, [], 5, "told once")]


def test_the_same_indexes_may_mean_something_else_later() -> None:
    client, encoder = asked(), Encoder()
    streams = [1, *(client.request(PATH, b"question") for _ in range(5))]
    shown = [(5, "one"), (5, "one"), (6, "two"), (6, "two"), (5, "one"), (6, "two")]
    found, blocks = [], []
    for stream, (status, text) in zip(streams, shown, strict=True):
        blocks.append(encoder.encode([OK[0], (b"grpc-status", b"%d" % status), (b"grpc-message", text.encode())]))
        found += client.feed(frame(HEADERS, END_HEADERS | END_STREAM, stream, blocks[-1]))
    assert blocks[1] == blocks[3], "the same indexes"
    assert [(answer.status, answer.text) for answer in found] == shown


# -- h2 finds nothing wrong -------------------------------------------------------------------------------------------


def test_headers_that_do_not_fit_into_one_frame_go_on_in_others() -> None:
    server, client = H2Connection(H2Configuration(client_side=False)), Connection("peer:1")
    server.initiate_connection()
    client.feed(server.data_to_send())
    client.request(PATH, b"question", token="t" * 40_000)
    (request,) = [event for event in server.receive_data(client.take()) if isinstance(event, RequestReceived)]
    assert dict(request.headers)[b"token"] == b"t" * 40_000


@pytest.mark.parametrize("sizes", [[0], [100], [0, 4096], [100, 0, 200], [10_000]])
def test_a_server_that_wants_another_table_of_headers_is_told_that_it_has_it(sizes: list[int]) -> None:
    server, client = H2Connection(H2Configuration(client_side=False)), Connection("peer:1")
    server.initiate_connection()
    for size in sizes:
        server.update_settings({SettingCodes.HEADER_TABLE_SIZE: size})
    client.feed(server.data_to_send())
    for _ in range(3):
        client.request(PATH, b"question")
    events = server.receive_data(client.take())
    assert sum(isinstance(event, RequestReceived) for event in events) == 3


class Both:
    """A client under test and a server by h2, which raises whenever the client breaks the protocol."""

    def __init__(self, sizes: list[int]) -> None:
        self.server, self.client = H2Connection(H2Configuration(client_side=False)), Connection("peer:1")
        self.sizes = sizes
        self.asked: dict[int, bytes] = {}
        self.got: dict[int, bytearray] = {}
        self.said: dict[int, bytes] = {}
        self.heard: dict[int, list[Answer]] = {}
        self.cancelled: set[int] = set()
        self.server.initiate_connection()
        self.turn()

    def hear(self) -> None:
        for event in self.server.receive_data(self.client.take()):
            if isinstance(event, DataReceived):
                self.got.setdefault(event.stream_id, bytearray()).extend(event.data)

    def turn(self) -> None:
        self.hear()
        for piece in cut(self.server.data_to_send(), self.sizes):
            for answer in self.client.feed(piece):
                self.heard.setdefault(answer.stream, []).append(answer)
        self.hear()

    def waiting(self) -> list[int]:
        return [number for number in self.asked if number not in self.said and number not in self.cancelled]

    def request(self, size: int) -> None:
        self.asked[self.client.request(PATH, b"x" * size)] = b"x" * size

    def answer(self, size: int) -> None:
        if waiting := self.waiting():
            body = b"\0" + size.to_bytes(4, "big") + b"y" * size
            self.server.send_headers(waiting[0], OK)
            for at in range(0, len(body), 10_000):
                self.server.send_data(waiting[0], body[at : at + 10_000], pad_length=at % 200 or None)
            self.server.send_headers(waiting[0], DONE, end_stream=True)
            self.said[waiting[0]] = body[5:]

    def cancel(self, which: int) -> None:
        if waiting := self.waiting():
            number = waiting[which % len(waiting)]
            self.cancelled.add(number)
            self.client.cancel(number)

    def widen(self, more: int) -> None:
        self.server.increment_flow_control_window(more)

    def ping(self, _: int) -> None:
        self.server.ping(b"12345678")

    def windows(self, size: int) -> None:
        self.server.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: size})

    def frames(self, size: int) -> None:
        self.server.update_settings({SettingCodes.MAX_FRAME_SIZE: FRAME_MOST + size})

    def table(self, size: int) -> None:
        self.server.update_settings({SettingCodes.HEADER_TABLE_SIZE: size})


STEPS = st.lists(
    st.one_of(
        *(st.tuples(st.just(step), st.integers(0, 100_000)) for step in ("request", "answer", "windows", "frames")),
        *(st.tuples(st.just(step), st.integers(1, 5000)) for step in ("widen", "table", "ping", "cancel", "request")),
    ),
    max_size=25,
)


@settings(max_examples=200, deadline=None)
@given(STEPS, st.lists(st.integers(0, 50), max_size=10))
def test_whatever_both_do_they_understand_each_other(steps: list[tuple[str, int]], sizes: list[int]) -> None:
    both = Both(sizes)
    for step, value in steps:
        getattr(both, step)(value)
        both.turn()
    both.windows(1 << 20)
    both.widen(1 << 24)
    both.turn()
    for number in both.waiting():
        assert both.got[number][5:] == both.asked[number]
    for number, body in both.said.items():
        answers = both.heard[number]
        assert b"".join(message for answer in answers for message in answer.messages) == body
        assert [answer.status for answer in answers][-1] == 0
    assert not both.cancelled & both.heard.keys()


NOISE = st.builds(
    frame,
    st.integers(0, 11),
    st.integers(0, 255),
    st.integers(0, 5),
    st.one_of(st.binary(max_size=20), st.just(block(*OK)), st.just(block(*DONE)), st.just(bytes(8))),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(NOISE, max_size=12), st.lists(st.integers(0, 30), max_size=5))
def test_whatever_frames_come_it_is_answers_or_broken(noise: list[bytes], sizes: list[int]) -> None:
    client = Connection("peer:1")
    client.feed(GREETING)
    open_streams = {client.request(PATH, b"question"), client.request(PATH, b"question", more=True)}
    with suppress(Broken):
        for piece in cut(b"".join(noise), sizes):
            for answer in client.feed(piece):
                assert answer.stream in open_streams
                if answer.status is not None:
                    open_streams.remove(answer.stream)
