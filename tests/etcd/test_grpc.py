"""gRPC over HTTP/2: what a server may do to a connection, by a scripted peer; and by etcd where it can be made to."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, PingAckReceived, RequestReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from tenure.engines.etcd import grpc
from tenure.engines.etcd import messages as m
from tenure.engines.etcd.dial import Dialer
from tenure.engines.etcd.frames import Broken
from tenure.engines.etcd.grpc import Answer, Connection
from tenure.engines.etcd.pipe import Refused
from tenure.engines.etcd.transport_aio import AioWire
from tenure.engines.etcd.url import parse
from tenure.errors import StoreUnavailable
from tests.etcd.rig import PATIENCE, Bare, fresh
from tests.servers import etcd
from tests.servers.etcd import EtcdServer

if TYPE_CHECKING:
    from collections.abc import Iterator

OK = [(b":status", b"200"), (b"content-type", b"application/grpc")]
DONE = [(b"grpc-status", b"0")]
PATH = "/etcdserverpb.KV/Range"


def framed(*messages: bytes) -> bytes:
    return b"".join(b"\0" + len(message).to_bytes(4, "big") + message for message in messages)


class Peer:
    """A server that does what it is told, and a client connected to it without a network.

    Attributes:
        client: under test.
        h2: the server.
        got: what the client's streams have brought, and which of them are whole.
    """

    def __init__(self, **initial: int) -> None:
        self.client = Connection("peer:1")
        self.h2 = H2Connection(H2Configuration(client_side=False))
        chosen = {SettingCodes[name]: value for name, value in initial.items()}
        self.h2.local_settings = Settings(client=False, initial_values=chosen)
        self.h2.initiate_connection()
        self.got: dict[int, bytes] = {}
        self.headers: dict[int, dict[bytes, bytes]] = {}
        self.whole: list[int] = []
        self.resets: dict[int, int] = {}
        self.pongs = 0
        assert self.turn() == []
        assert self.client.is_greeted

    def hear(self) -> None:
        """Take what the client says."""
        for event in self.h2.receive_data(self.client.take()):
            if isinstance(event, RequestReceived):
                self.headers[event.stream_id] = dict(event.headers)
                self.got[event.stream_id] = b""
            elif isinstance(event, DataReceived):
                self.got[event.stream_id] += event.data
            elif isinstance(event, StreamEnded):
                self.whole.append(event.stream_id)
            elif isinstance(event, StreamReset):
                self.resets[event.stream_id] = int(event.error_code)
            elif isinstance(event, PingAckReceived):
                self.pongs += 1

    def turn(self) -> list[Answer]:
        """Each side hears what the other has said."""
        self.hear()
        answers = self.say()
        self.hear()
        return answers

    def say(self) -> list[Answer]:
        out = self.h2.data_to_send()
        return self.client.feed(out) if out else []

    def answer(self, stream: int, *messages: bytes) -> None:
        self.h2.send_headers(stream, OK)
        self.h2.send_data(stream, framed(*messages))
        self.h2.send_headers(stream, DONE, end_stream=True)


def test_a_request_and_its_answer() -> None:
    peer = Peer()
    stream = peer.client.request(PATH, b"question", token="who")  # noqa: S106 - no secret
    peer.turn()
    assert peer.got == {stream: framed(b"question")}
    assert peer.whole == [stream]
    headers = peer.headers[stream]
    assert headers[b":path"] == PATH.encode()
    assert (headers[b"te"], headers[b"token"]) == (b"trailers", b"who")
    peer.answer(stream, b"one", b"", b"three")
    assert peer.turn() == [Answer(stream, [b"one", b"", b"three"]), Answer(stream, [], 0)]


def test_a_stream_with_more_messages_wants_a_leader_and_stays_open() -> None:
    peer = Peer()
    stream = peer.client.request(PATH, b"first", more=True)
    peer.client.send(stream, b"second")
    peer.turn()
    assert peer.headers[stream][b"hasleader"] == b"true"
    assert peer.got[stream] == framed(b"first", b"second")
    assert peer.whole == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_what_comes_in_any_pieces_gives_the_same_answers(size: int) -> None:
    peer = Peer()
    stream = peer.client.request(PATH, b"question")
    peer.hear()
    peer.h2.ping(b"12345678")
    peer.h2.send_headers(stream, OK)
    peer.h2.send_data(stream, framed(b"a" * 500), pad_length=20)
    peer.h2.send_data(stream, framed(b"b"))
    peer.h2.send_headers(stream, DONE, end_stream=True)
    said = peer.h2.data_to_send()
    answers = [answer for at in range(0, len(said), size) for answer in peer.client.feed(said[at : at + size])]
    assert b"".join(message for answer in answers for message in answer.messages) == b"a" * 500 + b"b"
    assert answers[-1].status == 0


@pytest.mark.parametrize("size", [1, 2, 3, 4, 1000])
def test_the_greeting_may_come_in_any_pieces(size: int) -> None:
    client, server = Connection("peer:1"), H2Connection(H2Configuration(client_side=False))
    server.initiate_connection()
    said = server.data_to_send()
    for at in range(0, len(said), size):
        assert not client.is_greeted
        client.feed(said[at : at + size])
    assert client.is_greeted


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x16", b"SSH-2.0-x"])
def test_what_is_no_http2_server_is_told_at_its_first_words(said: bytes) -> None:
    with pytest.raises(Broken, match="no HTTP/2 server"):
        Connection("peer:1").feed(said)


# -- answers ----------------------------------------------------------------------------------------------------------


def test_an_error_without_a_body_is_one_block_of_headers() -> None:
    peer = Peer()
    stream = peer.client.request(PATH, b"question")
    peer.hear()
    peer.h2.send_headers(
        stream, [*OK, (b"grpc-status", b"5"), (b"grpc-message", b"no%20such%20thing")], end_stream=True
    )
    assert peer.turn() == [Answer(stream, [], 5, "no such thing")]


def test_what_is_no_grpc_server_is_an_error_with_its_http_status() -> None:
    peer = Peer()
    first, second = peer.client.request(PATH, b"question"), peer.client.request(PATH, b"question")
    peer.hear()
    peer.h2.send_headers(first, [(b":status", b"502")], end_stream=True)
    peer.h2.send_headers(second, OK)
    peer.h2.send_data(second, framed(b"half"), end_stream=True)
    failed, half, ended = peer.turn()
    assert (failed.status, "502" in failed.text) == (grpc.UNKNOWN, True)
    assert half == Answer(second, [b"half"])
    assert (ended.status, "without a status" in ended.text) == (grpc.UNKNOWN, True)


def test_a_message_in_many_frames_is_one_message() -> None:
    peer = Peer()
    stream = peer.client.request(PATH, b"question")
    peer.hear()
    peer.h2.send_headers(stream, OK)
    data = framed(b"x" * 50_000)
    for at in range(0, len(data), 1000):
        peer.h2.send_data(stream, data[at : at + 1000])
    peer.h2.send_headers(stream, DONE, end_stream=True)
    assert peer.turn() == [Answer(stream, [b"x" * 50_000]), Answer(stream, [], 0)]


def test_headers_that_do_not_fit_into_one_frame() -> None:
    peer = Peer()
    stream = peer.client.request(PATH, b"question")
    peer.hear()
    text = b"~" * 40_000
    peer.h2.send_headers(stream, [*OK, (b"grpc-status", b"5"), (b"grpc-message", text)], end_stream=True)
    said = peer.h2.data_to_send()
    assert said[4] & 0x4 == 0, "its headers end in another frame"
    assert peer.client.feed(said) == [Answer(stream, [], 5, text.decode())]


def test_a_compressed_message_breaks_the_connection() -> None:
    peer = Peer()
    stream = peer.client.request(PATH, b"question")
    peer.hear()
    peer.h2.send_headers(stream, OK)
    peer.h2.send_data(stream, b"\1" + framed(b"x")[1:])
    with pytest.raises(Broken, match="compressed"):
        peer.turn()


# -- flow control -----------------------------------------------------------------------------------------------------


def test_nothing_is_sent_that_the_server_does_not_take() -> None:
    peer = Peer(INITIAL_WINDOW_SIZE=100, MAX_FRAME_SIZE=16_384)
    first = peer.client.request(PATH, b"x" * 1000)
    second = peer.client.request(PATH, b"y" * 50)
    peer.turn()
    # One that is blocked is in nobody's way.
    assert (len(peer.got[first]), peer.got[second]) == (100, framed(b"y" * 50))
    assert peer.whole == [second]
    peer.h2.increment_flow_control_window(500, first)
    peer.turn()
    assert len(peer.got[first]) == 600
    peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1000})
    peer.turn()
    assert peer.got[first] == framed(b"x" * 1000)
    assert peer.whole == [second, first]


def test_the_window_of_the_connection_is_kept_too() -> None:
    peer = Peer(INITIAL_WINDOW_SIZE=1 << 20)
    streams = [peer.client.request(PATH, b"x" * 30_000) for _ in range(4)]
    peer.turn()
    assert sum(map(len, peer.got.values())) == 65_535
    peer.h2.increment_flow_control_window(1 << 20)
    peer.turn()
    assert peer.whole == streams


def test_what_waits_for_a_window_is_dropped_with_its_stream() -> None:
    peer = Peer(INITIAL_WINDOW_SIZE=100)
    cancelled, refused, answered = (peer.client.request(PATH, b"x" * 1000) for _ in range(3))
    peer.turn()
    peer.client.cancel(cancelled)
    # It takes more, and none of it, in one go.
    peer.h2.increment_flow_control_window(500, refused)
    peer.h2.reset_stream(refused, ErrorCodes.NO_ERROR)
    peer.h2.send_headers(answered, [*OK, (b"grpc-status", b"8")], end_stream=True)
    assert {(answer.stream, answer.status) for answer in peer.turn()} == {(refused, grpc.UNAVAILABLE), (answered, 8)}
    peer.h2.increment_flow_control_window(1 << 20)
    assert peer.turn() == []
    assert [len(got) for got in peer.got.values()] == [100, 100, 100]
    assert peer.resets == {cancelled: ErrorCodes.CANCEL, answered: ErrorCodes.NO_ERROR}


@pytest.mark.parametrize("cancels", [False, True])
def test_the_server_may_go_on_for_ever(cancels: bool) -> None:
    """What was taken is given back, also of a stream that nobody listens to."""
    peer = Peer()
    stream = peer.client.request(PATH, b"question", more=True)
    peer.turn()
    peer.h2.send_headers(stream, OK)
    message, got = b"x" * (1 << 14) * 9, 0
    peer.client.take()
    for number in range(2 * grpc.WINDOW // len(message)):
        if cancels and number == 20:
            peer.client.cancel(stream)
            peer.client.take()  # still on its way
        for at in range(0, len(framed(message)), 1 << 14):
            peer.h2.send_data(stream, framed(message)[at : at + (1 << 14)])
        got += sum(len(answer.messages) for answer in peer.say())
        if cancels:
            # Only what is told of the whole connection: of the stream, nothing more is known here.
            said = peer.client.take()
            windows = [said[at : at + 13] for at in range(0, len(said), 13) if said[at : at + 9] == WINDOW_0]
            if windows:
                assert int.from_bytes(windows[0][9:], "big") > grpc.WINDOW // 3
                return
        peer.hear()
    assert not cancels
    assert got == 2 * grpc.WINDOW // len(message)


WINDOW_0 = b"\0\0\4\x08\0\0\0\0\0"
"""How a WINDOW_UPDATE of the connection begins."""

# -- ends -------------------------------------------------------------------------------------------------------------


def test_a_cancelled_stream_is_told_to_the_server_and_never_answers() -> None:
    peer = Peer()
    cancelled, other = peer.client.request(PATH, b"question"), peer.client.request(PATH, b"question")
    peer.hear()
    peer.answer(cancelled, b"too late")
    peer.answer(other, b"answer")
    peer.client.cancel(cancelled)
    peer.client.cancel(cancelled)
    assert peer.turn() == [Answer(other, [b"answer"]), Answer(other, [], 0)]
    peer.client.send(cancelled, b"nobody listens")
    assert peer.turn() == []


def test_a_cancelled_stream_ends_at_the_server() -> None:
    peer = Peer()
    stream = peer.client.request(PATH, b"question")
    peer.turn()
    peer.client.cancel(stream)
    peer.turn()
    assert peer.resets == {stream: ErrorCodes.CANCEL}


@pytest.mark.parametrize(("code", "untouched"), [(ErrorCodes.REFUSED_STREAM, True), (ErrorCodes.INTERNAL_ERROR, False)])
def test_a_stream_that_the_server_gives_up_is_untouched_only_if_it_says_so(code: ErrorCodes, untouched: bool) -> None:
    peer = Peer()
    stream = peer.client.request(PATH, b"question")
    peer.hear()
    peer.h2.reset_stream(stream, code)
    (answer,) = peer.turn()
    assert (answer.status, answer.untouched) == (grpc.UNAVAILABLE, untouched)


def going_away(last: int) -> bytes:
    return GoAwayFrame(0, last_stream_id=last).serialize()


def test_a_server_that_leaves_answers_what_it_has_begun_with() -> None:
    peer = Peer()
    first, second, third = (peer.client.request(PATH, b"question") for _ in range(3))
    peer.hear()
    # First that it will leave, then with which stream; a ping in between, as etcd's library does it.
    peer.h2.ping(b"12345678")
    answers = peer.client.feed(going_away(2**31 - 1) + peer.h2.data_to_send())
    assert (answers, peer.client.is_spent, peer.client.is_full) == ([], True, True)
    (gone,) = peer.client.feed(going_away(second))
    assert (gone.stream, gone.status, gone.untouched) == (third, grpc.UNAVAILABLE, True)
    peer.hear()
    assert peer.pongs == 1
    peer.answer(first, b"one")
    peer.answer(second, b"two")
    said = [answer for answer in peer.turn() if answer.status is None]
    assert said == [Answer(first, [b"one"]), Answer(second, [b"two"])]


def test_what_was_asked_before_the_server_said_that_it_leaves_is_still_sent() -> None:
    peer = Peer()
    stream = peer.client.request(PATH, b"question")
    assert peer.client.feed(going_away(2**31 - 1)) == []
    peer.hear()
    assert peer.whole == [stream]


def test_pings_are_answered_and_ours_are_of_the_right_form() -> None:
    peer = Peer()
    peer.h2.ping(b"12345678")
    assert peer.turn() == []
    assert peer.pongs == 1
    peer.client.ping()
    peer.hear()
    assert peer.say() == []
    assert not peer.client.take()


def test_no_more_streams_than_the_server_allows() -> None:
    peer = Peer(MAX_CONCURRENT_STREAMS=2)
    first = peer.client.request(PATH, b"question")
    assert not peer.client.is_full
    second = peer.client.request(PATH, b"question")
    assert peer.client.is_full
    with pytest.raises(Broken, match="takes no request"):
        peer.client.request(PATH, b"question")
    peer.hear()
    peer.answer(first, b"answer")
    peer.turn()
    assert not peer.client.is_full
    peer.client.cancel(second)
    for _ in range(2):
        peer.client.request(PATH, b"question")
    assert peer.client.is_full
    assert not peer.client.is_spent


def test_close_to_the_last_stream_the_connection_is_spent() -> None:
    peer = Peer()
    peer.client._next = grpc.LAST_STREAM
    assert peer.client.is_spent is False
    peer.client.request(PATH, b"question")
    assert peer.client.is_spent


def test_nothing_is_remembered_of_closed_streams() -> None:
    peer = Peer()
    for _ in range(100):
        peer.client.cancel(peer.client.request(PATH, b"question"))
        peer.client.take()
    assert not peer.client._streams
    assert not peer.client._unsent


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 400), noise=st.binary(min_size=1, max_size=12), cut=st.booleans())
def test_whatever_comes_is_answers_or_broken(at: int, noise: bytes, cut: bool) -> None:
    peer = Peer()
    first, second = peer.client.request(PATH, b"question"), peer.client.request(PATH, b"question", more=True)
    peer.hear()
    peer.answer(first, b"x" * 100)
    peer.h2.ping(b"12345678")
    peer.h2.send_headers(second, OK)
    peer.h2.send_data(second, framed(b"y" * 100))
    said = peer.h2.data_to_send()
    at %= len(said)
    with suppress(Broken):
        for answer in peer.client.feed(said[:at] + noise + said[at + (len(noise) if cut else 0) :]):
            assert answer.stream in (first, second)


@pytest.mark.parametrize("most", [0, 1])
def test_a_node_that_takes_no_requests_is_passed_over(most: int) -> None:
    server = H2Connection(H2Configuration(client_side=False))
    server.local_settings = Settings(client=False, initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: most})
    server.initiate_connection()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        with ThreadPoolExecutor(1) as others:
            dialing = others.submit(Dialer(parse(f"etcd://{host}:{port}")).dial, PATIENCE)
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(server.data_to_send())
                if most:
                    dialing.result().close()
                else:
                    with pytest.raises(StoreUnavailable, match="takes no requests"):
                        dialing.result()


# -- etcd -------------------------------------------------------------------------------------------------------------

needs_etcd = pytest.mark.skipif(etcd.missing() is not None, reason=etcd.missing() or "")
BIG = 1_000_000
"""Bytes of a value; etcd takes requests of half as much again."""


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
def bare(server: EtcdServer) -> Iterator[Bare]:
    with Bare(fresh(server.url)) as bare:
        yield bare


@needs_etcd
def test_large_requests_and_replies_of_etcd(bare: Bare) -> None:
    pipe = bare.dialer.dial(PATIENCE)
    try:
        for number in range(30):
            value = bytes([65 + number]) * BIG
            (done,) = pipe.exchange(m.TXN, m.txn([], [m.put_op(b"big", value, 0)]), "", PATIENCE)
            assert m.read_txn(done).succeeded
            (row,) = m.every(m.fields(pipe.exchange(m.RANGE, m.get(b"big"), "", PATIENCE)[0]), 2)
            assert m.kv(row).value == value
    finally:
        pipe.close()


@needs_etcd
def test_etcd_answers_a_ping_and_an_error_without_a_body(bare: Bare) -> None:
    pipe = bare.dialer.dial(PATIENCE)
    try:
        pipe.http2.ping()
        with pytest.raises(Refused) as raised:
            pipe.exchange(m.TXN, m.txn([], [m.put_op(b"k", b"v", 12345)]), "", PATIENCE)
        assert "lease" in raised.value.text
        pipe.exchange(m.RANGE, m.get(b"k"), "", PATIENCE)
    finally:
        pipe.close()


@needs_etcd
def test_two_hundred_large_requests_share_a_connection(bare: Bare) -> None:
    async def ask(wire: AioWire, number: int) -> int:
        key, value = b"big%d" % number, b"v" * 50_000
        await wire.exchange(m.TXN, m.txn([], [m.put_op(key, value, 0)]), 4 * PATIENCE)
        (answer,) = await wire.exchange(m.RANGE, m.get(key), 4 * PATIENCE)
        (row,) = m.every(m.fields(answer), 2)
        return len(m.kv(row).value)

    async def main() -> list[int]:
        wire = AioWire(bare.dialer, asyncio.get_running_loop())
        sizes = await asyncio.gather(*(ask(wire, number) for number in range(200)))
        wire.forget()
        return sizes

    assert asyncio.run(main()) == [50_000] * 200


# -- without hpack ----------------------------------------------------------------------------------------------------


def test_without_hpack_the_error_names_what_to_install() -> None:
    program = """
import sys
sys.modules["hpack"] = None
from tenure import Client, UsageError
try:
    Client("etcd://localhost")
except UsageError as error:
    print(error)
"""
    ran: Any = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert "pip install 'tenure[etcd]'" in ran.stdout
