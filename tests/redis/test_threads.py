"""Many threads on one client of a real server, and Ctrl-C in one that waits."""

from __future__ import annotations

import functools
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, Final, Literal

import pytest

from tenure import Client, OutcomeUnknown, StoreUnavailable
from tenure.engines.redis.transport_blocking import CONNECTIONS_MOST
from tests.cancellation.moments import SCENES, at_every_moment
from tests.faces.programs import PATIENCE, heard, program, tell
from tests.faces.watched import Attempt, has_paid, waits
from tests.redis.rig import listens, through
from tests.servers import redis
from tests.servers.processes import until
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cancellation.moments import Scene

pytestmark = pytest.mark.skipif(redis.missing() is not None, reason=redis.missing() or "")

THREADS: Final = 50
LONG: Final = 60.0


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer(extra=["databases 1000"]) as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[Client]:
    with Client(server.url, ttl=LONG) as client:
        yield client


def test_fifty_threads_take_one_name_in_turn(server: RedisServer, client: Client) -> None:
    inside: list[int] = []
    tokens: list[int] = []

    def work(number: int) -> bool:
        for _ in range(4):
            with client.lock("n", wait=30) as lease:
                inside.append(number)
                assert inside == [number]
                tokens.append(lease.token)
                inside.pop()
        return True

    attempts = [Attempt(functools.partial(work, number)) for number in range(THREADS)]
    for attempt in attempts:
        attempt.outcome()
    assert len(tokens) == 4 * THREADS
    assert tokens == sorted(set(tokens))
    assert client.names() == []
    # The callers' connections, the keeper's, the mailbox's, and the one that asks.
    assert int(server.info("clients")["connected_clients"]) <= CONNECTIONS_MOST + 3


def test_fifty_threads_hold_fifty_names_at_once(client: Client) -> None:
    barrier = threading.Barrier(THREADS)

    def work(number: int) -> int:
        with client.lock(f"n{number}", wait=30) as lease:
            barrier.wait(20)
            assert lease.held
            return lease.token

    attempts = [Attempt(functools.partial(work, number)) for number in range(THREADS)]
    tokens = [attempt.outcome() for attempt in attempts]
    assert len(set(tokens)) == THREADS
    assert client.names() == []


def has_passed(proxy: Proxy, count: int) -> bool:
    return proxy.passed["replies"] >= count


def test_fifty_threads_behind_a_failing_network_all_end_and_leave_nothing(server: RedisServer, client: Client) -> None:
    with Proxy(server.address) as proxy, Client(through(proxy), ttl=1.5) as victim:
        going = True

        def work(number: int) -> bool:
            while going:
                try:
                    with victim.lock(f"n{number % 10}", wait=2) as lease:
                        assert lease.token
                except (StoreUnavailable, OutcomeUnknown, TimeoutError):
                    pass
            return True

        attempts = [Attempt(functools.partial(work, number)) for number in range(THREADS)]
        hows: list[Literal["rst", "fin"]] = ["rst", "fin", "rst", "fin"]
        for how in hows:
            enough = proxy.passed["replies"] + 20_000
            until(functools.partial(has_passed, proxy, enough), "it is at work")
            proxy.cut(how)
        going = False
        for attempt in attempts:
            attempt.outcome()
        until(lambda: has_paid(victim), "the keeper has paid")
        assert client.names() == []


# -- Ctrl-C -----------------------------------------------------------------------------------------------------------


def test_ctrl_c_in_a_waiting_thread_leaves_nothing_in_the_queue(server: RedisServer, client: Client) -> None:
    held = client.lock("name").acquire()
    code = """
client = Client(url)
for turn in range(3):
    sys.stdin.readline()
    say("waits")
    try:
        client.lock("name", wait=None).acquire()
    except KeyboardInterrupt:
        say("interrupted")
with client.lock("other"):
    say("goes on")
sys.stdin.readline()
client.close()
"""
    # Ctrl-C while redis-py connects leaves its socket to the collector, which says so on stderr.
    with program(code, server.url, stderr=subprocess.DEVNULL) as process:
        for turn in range(3):
            tell(process)
            assert heard(process) == "waits"
            waits(client, "name")
            if turn:
                # Also while it listens, not only while it connects.
                listens(server)
            process.send_signal(signal.SIGINT)
            assert heard(process) == "interrupted"
            waits(client, "name", 0)
        assert heard(process) == "goes on"
        tell(process)
        assert process.wait(PATIENCE) == 0
    held.release()


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.filterwarnings("ignore")  # a lease that nobody got is collected, and so is a coroutine not yet begun
def test_ctrl_c_at_any_moment(server: RedisServer, scene: Scene) -> None:
    at_every_moment(server.url, scene)
