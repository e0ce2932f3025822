"""The transports alone, against a peer whose every byte is the test's, and as clients over each kind of connection."""

# ruff: noqa: ASYNC110 - what is polled has no event

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Self

import pytest

from tenure import AsyncClient, Client, OutcomeUnknown, StoreUnavailable
from tenure.engines.redis.pipe import Pipe
from tenure.engines.redis.transport_aio import BURST, AioWire
from tenure.engines.redis.transport_blocking import BlockingWire
from tenure.runtimes.blocking import run
from tests.faces.watched import Attempt
from tests.servers import certificates, redis
from tests.servers.redis import RedisServer
from tests.timing import SLACK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

LONG: Final = 30.0

TASKS: Final = 50


class Peer:
    """The server's end of one connection; the client's end is what `Link` is to a pipe."""

    def __init__(self, send_buffer: int | None = None) -> None:
        self.socket, self._far = socket.socketpair()
        if send_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        self._far.settimeout(5.0)

    def disconnect(self) -> None:
        self.socket.close()

    def say(self, data: bytes) -> None:
        self._far.sendall(data)

    def hear(self, size: int) -> bytes:
        """So many bytes of what the client sent."""
        heard = b""
        while len(heard) < size:
            chunk = self._far.recv(size - len(heard))
            assert chunk, "the client closed the connection"
            heard += chunk
        return heard

    def has_heard(self) -> int:
        """How many bytes are there already."""
        self._far.settimeout(0.0)
        try:
            return len(self._far.recv(65_536, socket.MSG_PEEK))
        except BlockingIOError:
            return 0
        finally:
            self._far.settimeout(5.0)

    def hang_up(self) -> None:
        self._far.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()
        self.hang_up()


def aio(scene: Callable[[AioWire], Awaitable[None]], *peers: Peer) -> None:
    """Play a scene on a wire that connects to these peers, one after the other."""
    left = list(peers)

    async def main() -> None:
        wire = AioWire(lambda _: Pipe(left.pop(0)), asyncio.get_running_loop())
        try:
            await wire._connect(LONG)
            await scene(wire)
        finally:
            wire.shut()
            await asyncio.sleep(0)

    asyncio.run(main())


def reply(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


async def ask(wire: AioWire, timeout: float = LONG, payload: bytes = b"?", replies: int = 1) -> list[Any]:
    return await wire.exchange(payload, replies, timeout)


async def outcome(request: Awaitable[Any]) -> tuple[str, float]:
    """How a request without an answer ended, and after how many seconds."""
    begun = time.monotonic()
    with pytest.raises(OutcomeUnknown) as caught:
        await request
    return str(caught.value), time.monotonic() - begun


# -- time --------------------------------------------------------------------------------------------------------------


def test_of_many_requests_under_way_none_ends_before_the_first_is_due_nor_after_its_own_time() -> None:
    """A request that comes later may be due earlier; then the connection is given up for all."""

    async def scene(wire: AioWire) -> None:
        ends = await asyncio.gather(*(outcome(ask(wire, 0.3 + 0.3 * (number % 7))) for number in reversed(range(40))))
        assert {text for text, _ in ends} == {"Redis did not answer within 0.3 s"}
        assert all(0.29 < after < 0.3 + SLACK for _, after in ends), ends

    with Peer() as peer:
        aio(scene, peer)


def test_positive_control_without_the_watchdog_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AioWire, "_watch", lambda self, until: None)

    async def scene(wire: AioWire) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(ask(wire, 0.1), 0.6)

    with Peer() as peer:
        aio(scene, peer)


def test_a_request_is_given_its_whole_time_whatever_was_asked_before_it() -> None:
    async def scene(wire: AioWire) -> None:
        for _ in range(3):
            peer.say(reply(b"!"))
            assert await ask(wire, 0.4) == [b"!"]
            await asyncio.sleep(0.1)
        cancelled = asyncio.create_task(ask(wire, 0.2))
        await asyncio.sleep(0)
        cancelled.cancel()
        _, after = await outcome(ask(wire, 0.4))
        assert 0.39 < after < 0.4 + SLACK

    with Peer() as peer:
        aio(scene, peer)


def test_a_wire_at_rest_has_no_timer_that_comes_again() -> None:
    async def scene(wire: AioWire) -> None:
        peer.say(reply(b"!"))
        await ask(wire, 0.1)
        await asyncio.sleep(0.15)
        assert wire._watchdog is None

    with Peer() as peer:
        aio(scene, peer)


# -- order -------------------------------------------------------------------------------------------------------------


def test_cancelled_requests_leave_the_replies_of_the_others_in_order() -> None:
    async def scene(wire: AioWire) -> None:
        tasks = [asyncio.create_task(ask(wire)) for _ in range(30)]
        await asyncio.sleep(0)
        for number in (0, 3, 4, 17, 29):
            tasks[number].cancel()
        peer.say(b"".join(reply(b"%d" % number) for number in range(30)))
        for number, task in enumerate(tasks):
            if number in (0, 3, 4, 17, 29):
                await asyncio.wait([task])
                assert task.cancelled()
            else:
                assert await task == [b"%d" % number]

    with Peer() as peer:
        aio(scene, peer)


def test_replies_in_pieces_reach_whom_they_are_for() -> None:
    async def scene(wire: AioWire) -> None:
        tasks = [asyncio.create_task(ask(wire, replies=1 + number % 3)) for number in range(9)]
        await asyncio.sleep(0)
        for byte in b"".join(reply(b"%d.%d" % (number, part)) for number in range(9) for part in range(1 + number % 3)):
            peer.say(bytes([byte]))
            await asyncio.sleep(0)
        for number, task in enumerate(tasks):
            assert await task == [b"%d.%d" % (number, part) for part in range(1 + number % 3)]

    with Peer() as peer:
        aio(scene, peer)


def test_what_the_kernel_does_not_take_follows_in_order() -> None:
    payloads = [bytes([65 + number % 26]) * 10_000 for number in range(60)]

    async def scene(wire: AioWire) -> None:
        tasks = [asyncio.create_task(ask(wire, payload=payload)) for payload in payloads]
        await asyncio.sleep(0.01)
        assert wire._is_full, "the buffer was to be too small"
        late = asyncio.create_task(ask(wire, payload=b"late"))
        expected = b"".join(payloads) + b"late"
        assert await asyncio.to_thread(peer.hear, len(expected)) == expected
        peer.say(b"".join(reply(b"%d" % number) for number in range(61)))
        assert await asyncio.gather(*tasks, late) == [[b"%d" % number] for number in range(61)]
        assert not wire._is_full

    with Peer(send_buffer=16_384) as peer:
        aio(scene, peer)


def test_a_server_has_work_before_the_turn_of_the_loop_is_over() -> None:
    async def scene(wire: AioWire) -> None:
        futures = [wire.exchange(b"?", 1, LONG) for _ in range(2 * BURST)]
        assert BURST < peer.has_heard() < 2 * BURST
        await asyncio.sleep(0)
        assert peer.has_heard() == 2 * BURST
        peer.say(2 * BURST * reply(b"!"))
        await asyncio.gather(*futures)

    with Peer() as peer:
        aio(scene, peer)


def test_who_asks_in_the_moment_of_connecting_shares_that_connection() -> None:
    """Two connections for one queue of requests would give one's replies to another's sender."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        opened: list[asyncio.Future[Any]] = []

        def run_in_executor(*_: Any) -> asyncio.Future[Any]:
            opened.append(loop.create_future())
            return opened[-1]

        wire = AioWire(lambda _: pytest.fail("the test connects"), loop)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "run_in_executor", run_in_executor)
            first = asyncio.create_task(ask(wire))
            await asyncio.sleep(0)
            # Connected, and nobody has been told yet.
            opened[0].set_result(Pipe(peer))
            asking = ask(wire)
            asking.send(None)
            assert len(opened) == 1
            second = asyncio.create_task(asking)
            peer.say(reply(b"1") + reply(b"2"))
            assert sorted([await first, await second]) == [[b"1"], [b"2"]]
        wire.shut()
        await asyncio.sleep(0)

    with Peer() as peer:
        asyncio.run(scenario())


# -- the end of a connection -------------------------------------------------------------------------------------------


def test_a_connection_cut_in_the_middle_of_a_reply_is_made_anew() -> None:
    async def scene(wire: AioWire) -> None:
        tasks = [asyncio.create_task(ask(wire, replies=2 if number == 5 else 1)) for number in range(20)]
        while first.has_heard() < 20:
            await asyncio.sleep(0.001)
        first.say(6 * reply(b"whole") + reply(b"half")[:6])
        first.hang_up()
        for number, task in enumerate(tasks):
            if number < 5:
                assert await task == [b"whole"]
            else:
                text, _ = await outcome(task)
                assert "broke during a request" in text
        second.say(reply(b"anew"))
        assert await ask(wire) == [b"anew"]

    with Peer() as first, Peer() as second:
        aio(scene, first, second)


def test_closing_tells_whoever_waits_and_whoever_asks_later() -> None:
    async def scene(wire: AioWire) -> None:
        tasks = [asyncio.create_task(ask(wire)) for _ in range(20)]
        await asyncio.sleep(0)
        threading.Thread(target=wire.shut).start()
        for task in tasks:
            text, _ = await outcome(task)
            assert "was closed" in text
        with pytest.raises(StoreUnavailable, match="was closed"):
            await ask(wire)
        assert wire._watchdog is None

    with Peer() as peer:
        aio(scene, peer)


# -- threads -----------------------------------------------------------------------------------------------------------


def test_a_thread_is_told_in_time_though_signals_come_all_the_while() -> None:
    """A timeout of the kernel's begins anew with each signal that interrupts it, and so never ends."""
    ticks = 0

    def tick(*_: object) -> None:
        nonlocal ticks
        ticks += 1

    before = signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        with Peer() as peer:
            wire = BlockingWire(lambda _: Pipe(peer))
            begun = time.monotonic()
            with pytest.raises(OutcomeUnknown, match="did not answer within 0"):
                run(wire.exchange(b"?", 1, 0.3))
            assert 0.29 < time.monotonic() - begun < 0.3 + SLACK
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert ticks > 5


def test_a_thread_is_told_in_time_though_nobody_takes_what_it_sends() -> None:
    with Peer(send_buffer=16_384) as peer:
        wire = BlockingWire(lambda _: Pipe(peer))
        begun = time.monotonic()
        with pytest.raises(OutcomeUnknown, match="did not answer within 0"):
            run(wire.exchange(b"?" * 1_000_000, 1, 0.3))
        assert 0.29 < time.monotonic() - begun < 0.3 + SLACK


def test_a_thread_waits_for_replies_in_pieces_no_longer_than_it_would_for_one() -> None:
    with Peer() as peer:
        wire = BlockingWire(lambda _: Pipe(peer))
        going = threading.Event()

        def trickle() -> bool:
            for _ in range(100):
                if going.wait(0.05):
                    break
                peer.say(b"$")
            return True

        peer.say(b"$9999")
        attempt = Attempt(trickle)
        begun = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            run(wire.exchange(b"?", 1, 0.4))
        assert 0.3 < time.monotonic() - begun < 0.4 + SLACK
        going.set()
        attempt.end()


# -- each kind of connection -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    if reason := redis.missing() or certificates.missing():
        pytest.skip(reason)
    with RedisServer(certificates=certificates.make_certificates(tmp_path_factory.mktemp("tls"))) as server:
        yield server


@pytest.fixture(params=["tcp", "tls", "unix"])
def url(request: pytest.FixtureRequest, server: RedisServer) -> str:
    if request.param == "tls":
        assert server.certificates is not None
        return f"{server.tls_url}?ca={server.certificates.authority}"
    return server.url if request.param == "tcp" else f"redis+unix://{server.socket_path}"


def test_fifty_tasks_by_tcp_tls_and_unix_socket(url: str) -> None:
    async def work(client: AsyncClient, number: int) -> None:
        last = 0
        for _ in range(20):
            async with client.lock(f"n{number}", wait=LONG) as lease:
                assert lease.token > last
                last = lease.token

    async def main() -> list[str]:
        async with AsyncClient(url) as client:
            await asyncio.gather(*(work(client, number) for number in range(TASKS)))
            return await client.names()

    assert asyncio.run(main()) == []


def test_twenty_threads_by_tcp_tls_and_unix_socket(url: str) -> None:
    def work() -> bool:
        for _ in range(10):
            with client.lock("n", wait=LONG) as lease:
                assert lease.held
        return True

    with Client(url) as client:
        for attempt in [Attempt(work) for _ in range(20)]:
            attempt.outcome()
        assert client.names() == []
