"""The client's part of HTTP/2 against frames as a server sends them, in pieces of any size."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure.engines.etcd import http2
from tenure.engines.etcd.hpack import decoded, literal, named
from tenure.engines.etcd.http2 import Answer, Broken, Connection


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def setting(key: int, value: int) -> bytes:
    return key.to_bytes(2, "big") + value.to_bytes(4, "big")


def message(text: bytes) -> bytes:
    return b"\0" + len(text).to_bytes(4, "big") + text


def sent(connection: Connection) -> list[tuple[int, int, int, bytes]]:
    """The frames that the client sends now."""
    out, found = connection.take().removeprefix(http2.PREFACE), []
    while out:
        size = int.from_bytes(out[:3], "big")
        found.append((out[3], out[4], int.from_bytes(out[5:9], "big"), out[9 : 9 + size]))
        out = out[9 + size :]
    return found


GREETING = frame(http2.SETTINGS, 0, 0)
OK = frame(http2.HEADERS, http2.END_HEADERS, 1, b"\x88" + named(b"content-type", b"application/grpc"))
TRAILERS = named(b"grpc-status", b"0") + named(b"grpc-message", b"")


def greeted() -> Connection:
    connection = Connection("h:1")
    connection.feed(GREETING)
    connection.take()
    return connection


WHOLE = (
    GREETING
    + OK
    + frame(http2.DATA, 0, 1, message(b"one") + message(b"tw"[:1] * 3)[:4])
    + frame(http2.PING, 0, 0, b"12345678")
    + frame(http2.DATA, http2.PADDED, 1, b"\x02" + message(b"ttt")[4:] + b"\0\0")
    + frame(http2.HEADERS, http2.END_STREAM, 1, TRAILERS[:5])
    + frame(http2.CONTINUATION, http2.END_HEADERS, 1, TRAILERS[5:])
)


@given(st.lists(st.integers(1, len(WHOLE)), max_size=12))
def test_however_it_is_cut_the_answer_is_the_same(cuts: list[int]) -> None:
    connection = Connection("h:1")
    connection.request("/x", b"")
    answers: list[Answer] = []
    ends = sorted({0, len(WHOLE), *cuts})
    for start, end in itertools.pairwise(ends):
        answers += connection.feed(WHOLE[start:end])
    assert [m for answer in answers for m in answer.messages] == [b"one", b"ttt"]
    assert [answer.status for answer in answers if answer.status is not None] == [0]
    assert (http2.PING, http2.ACK, 0, b"12345678") in sent(connection)


def test_windows_are_kept_of_the_stream_and_of_the_connection() -> None:
    connection = greeted()
    stream = connection.request("/x", bytes(100_000))
    data = [payload for kind, _, _, payload in sent(connection) if kind == http2.DATA]
    assert sum(map(len, data)) == 65_535
    assert max(map(len, data)) <= 16_384
    connection.feed(frame(http2.WINDOW_UPDATE, 0, stream, (10_000).to_bytes(4, "big")))
    assert sent(connection) == [], "the connection's window is used up too"
    connection.feed(frame(http2.WINDOW_UPDATE, 0, 0, (1 << 20).to_bytes(4, "big")))
    assert sum(len(payload) for *_, payload in sent(connection)) == 10_000
    connection.feed(frame(http2.SETTINGS, 0, 0, setting(http2.INITIAL_WINDOW, 200_000)))
    rest = [each for each in sent(connection) if each[0] == http2.DATA]
    assert sum(len(payload) for *_, payload in rest) == 100_005 - 75_535
    assert rest[-1][1] == http2.END_STREAM


def test_what_is_taken_is_given_back_to_the_server() -> None:
    connection = greeted()
    stream = connection.request("/x", b"")
    connection.take()
    connection.feed(frame(http2.HEADERS, http2.END_HEADERS, stream, b"\x88"))
    for _ in range(2 * http2.REFILL // 16_000):
        connection.feed(frame(http2.DATA, 0, stream, bytes(16_000)))
    updates = [number for kind, _, number, _ in sent(connection) if kind == http2.WINDOW_UPDATE]
    assert updates == [0, stream]


def test_a_stream_that_was_given_up_says_nothing_more() -> None:
    connection = greeted()
    first, second = connection.request("/x", b"a"), connection.request("/x", b"b")
    connection.cancel(first)
    assert (http2.RST_STREAM, 0, first, http2.CANCEL.to_bytes(4, "big")) in sent(connection)
    late = frame(http2.HEADERS, http2.END_HEADERS, first, b"\x88") + frame(http2.DATA, 0, first, message(b"late"))
    assert connection.feed(late + frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, first, TRAILERS)) == []
    answers = connection.feed(frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, second, TRAILERS))
    assert answers == [Answer(second, [], 0, "")]


def test_a_server_that_goes_away_has_not_touched_what_it_did_not_begin() -> None:
    connection = greeted()
    first, second = connection.request("/x", b""), connection.request("/x", b"")
    (answer,) = connection.feed(frame(http2.GOAWAY, 0, 0, first.to_bytes(4, "big") + bytes(4)))
    assert (answer.stream, answer.untouched) == (second, True)
    assert connection.is_spent
    assert connection.feed(frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, first, TRAILERS))[0].status == 0


@pytest.mark.parametrize(("code", "untouched"), [(7, True), (2, False)])
def test_a_reset_tells_whether_it_was_touched(code: int, untouched: bool) -> None:
    connection = greeted()
    stream = connection.request("/x", b"")
    (answer,) = connection.feed(frame(http2.RST_STREAM, 0, stream, code.to_bytes(4, "big")))
    assert (answer.status, answer.untouched) == (http2.UNAVAILABLE, untouched)


def test_as_many_streams_as_the_server_allows() -> None:
    connection = greeted()
    connection.feed(frame(http2.SETTINGS, 0, 0, setting(http2.MAX_STREAMS, 1)))
    assert not connection.is_full
    stream = connection.request("/x", b"")
    assert connection.is_full
    assert not connection.is_spent
    connection.feed(frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, stream, TRAILERS))
    assert not connection.is_full


def test_the_ids_of_streams_are_used_once_and_end() -> None:
    connection = greeted()
    connection._next = http2.LAST_STREAM + 2
    assert connection.is_spent


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02F extra",
        frame(http2.DATA, 0, 1, b"before its settings"),
        b"",
    ],
)
def test_what_is_no_http2_breaks_the_connection(nonsense: bytes) -> None:
    with pytest.raises(Broken):
        Connection("h:1").feed(nonsense)


@given(st.binary(max_size=200))
def test_whatever_comes_is_understood_or_breaks_the_connection(junk: bytes) -> None:
    connection = greeted()
    connection.request("/x", b"")
    try:
        connection.feed(junk or b"\0")
    except Broken:
        return


def test_a_web_server_that_answers_is_no_etcd() -> None:
    connection = greeted()
    stream = connection.request("/x", b"")
    (answer,) = connection.feed(frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, stream, b"\x8d"))
    assert answer.status == http2.UNKNOWN
    assert "404" in answer.text


# -- headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        # The examples of RFC 7541, appendix C, as far as no table is needed.
        (bytes.fromhex("400a637573746f6d2d6b65790d637573746f6d2d686561646572"), {b"custom-key": b"custom-header"}),
        (bytes.fromhex("100870617373776f726406736563726574"), {b"password": b"secret"}),
        (bytes.fromhex("4088 25a849e95ba97d7f 89 25a849e95bb8e8b4bf"), {b"custom-key": b"custom-value"}),
        (bytes.fromhex("4882 6402"), {b":status": b"302"}),
        (b"\x88" + named(b"grpc-status", b"14"), {b":status": b"200", b"grpc-status": b"14"}),
        (b"\x20" + literal(b"\x08", b"200"), {b":status": b"200"}),
        (named(b"long", b"x" * 5000), {b"long": b"x" * 5000}),
    ],
)
def test_headers_are_read(block: bytes, expected: dict[bytes, bytes]) -> None:
    assert decoded(block) == expected


@pytest.mark.parametrize("block", [b"\xbe", b"\x3f\xe1\x1f", b"\x40\x0a12", bytes.fromhex("00 01 61 81 ff 00")[:5]])
def test_headers_that_make_no_sense_are_refused(block: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        decoded(block)
