"""A store that forgets: whatever the server loses, its holders are told at their next contact; tokens keep rising."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

from tenure import Client, LossReason
from tenure.engines.redis import life
from tenure.engines.redis.life import Life
from tenure.engines.redis.store import RedisStore
from tenure.model import EXCLUSIVE
from tenure.observe.events import Lost, Renewed
from tenure.ports import Entry, SessionCard
from tenure.runtimes import native
from tenure.runtimes.blocking import run
from tests.faces.watched import Attempt, Told, waits
from tests.redis.rig import PERIOD, TTL, SocketWire, is_told, socket_wire, stays, through
from tests.servers import clock as clocks
from tests.servers import redis
from tests.servers.processes import until
from tests.servers.proxy import Proxy
from tests.servers.redis import PERSISTENCE, RedisServer
from tests.timing import SLACK

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(redis.missing() is not None, reason=redis.missing() or "")
movable = pytest.mark.skipif(clocks.missing() is not None, reason=clocks.missing() or "")

LONG: Final = 60.0


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def client(server: RedisServer, told: Told) -> Iterator[Client]:
    with Client(server.url, ttl=TTL, on_event=told) as client:
        yield client


@pytest.fixture
def other(server: RedisServer) -> Iterator[Client]:
    with Client(server.url, ttl=TTL) as client:
        yield client


# -- killed and restarted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("persistence", PERSISTENCE)
def test_after_a_kill_and_a_restart_the_holder_is_told_the_truth(persistence: Any, told: Told) -> None:
    with (
        RedisServer(persistence=persistence) as server,
        Client(server.url, ttl=TTL, on_event=told) as client,
        Client(server.url, ttl=TTL) as other,
    ):
        lease = client.lock("n").acquire()
        server.restart()
        back = native.now()
        if persistence in ("everysec", "always"):
            # SIGKILL keeps what was written to the kernel.
            stays(lease, told, back)
            assert other.lock("n").try_acquire() is None
            lease.release()
        else:
            is_told(lease, told, back)
        with other.lock("n", wait=5) as successor:
            assert successor.token > lease.token


def test_a_snapshot_that_knows_one_lease_and_not_the_other_keeps_the_one(told: Told) -> None:
    with (
        RedisServer(persistence="rdb") as server,
        Client(server.url, ttl=TTL, on_event=told) as client,
        Client(server.url, ttl=TTL) as other,
    ):
        kept, released = client.lock("kept").acquire(), client.lock("released").acquire()
        server.cli("SAVE")
        lost = client.lock("lost").acquire()
        released.release()
        server.restart()
        back = native.now()
        is_told(lost, told, back)
        assert kept.held
        assert other.lock("kept").try_acquire() is None
        # What the snapshot brought back is nobody's: the keeper closes it.
        until(lambda: other.names() == ["kept"], "the restored claim is closed")
        for name in ("lost", "released"):
            with other.lock(name, wait=5) as successor:
                assert successor.token > lost.token
        kept.release()


# -- emptied ----------------------------------------------------------------------------------------------------------

GENESIS: Final = "{tenure:0}:genesis"


@pytest.mark.parametrize("command", ["FLUSHALL", "FLUSHDB"])
def test_after_a_flush_the_holder_is_told_and_tokens_rise(
    server: RedisServer, client: Client, other: Client, told: Told, command: str
) -> None:
    lease = client.lock("n").acquire()
    other.lock("warm").acquire().release()
    server.cli(command)
    since = native.now()
    with other.lock("n", wait=5) as successor:
        assert successor.token > lease.token
        is_told(lease, told, since)
    with client.lock("n", wait=5) as again:
        assert again.token > successor.token


def test_a_waiter_of_an_emptied_store_asks_again(server: RedisServer, client: Client, other: Client) -> None:
    lease = client.lock("n").acquire()
    attempt = Attempt(other.lock("n", wait=20).acquire)
    waits(client, "n")
    server.cli("FLUSHALL")
    since = native.now()
    successor = attempt.outcome()
    print(f"granted {attempt.ended_at - since:.3f} s after FLUSHALL")
    assert successor.token > lease.token
    assert attempt.ended_at - since < PERIOD + SLACK
    successor.release()


@pytest.mark.parametrize("how", ["try", "wait"])
def test_an_idle_client_of_an_emptied_store_gets_what_is_free_at_once(
    server: RedisServer, client: Client, how: str
) -> None:
    with Client(server.url, ttl=LONG) as idle:
        idle.lock("warm").acquire().release()
        server.cli("FLUSHALL")
        begun = native.now()
        lease = idle.lock("n").try_acquire() if how == "try" else idle.lock("n", wait=5).acquire()
        assert lease is not None, "nobody has it"
        print(f"granted {native.now() - begun:.3f} s after it asked")
        assert native.now() - begun < SLACK
        lease.release()


@pytest.mark.parametrize("anew", [False, True])
def test_without_its_genesis_record_a_store_keeps_its_leases_and_its_order(
    server: RedisServer, client: Client, other: Client, told: Told, anew: bool
) -> None:
    lease = client.lock("n").acquire()
    assert server.cli("DEL", GENESIS) == 1
    since = native.now()
    if anew:
        with Client(server.url) as stranger:
            stranger.lock("other").acquire().release()
    # Another life of the store: the claims are looked up, and found.
    stays(lease, told, since)
    assert other.lock("n").try_acquire() is None
    lease.release()
    with other.lock("n", wait=5) as successor:
        assert successor.token > lease.token


def test_a_loss_beside_a_new_connection_is_not_taken_for_the_life_in_which_a_session_was_opened(
    server: RedisServer,
) -> None:
    """The session is opened, its queue is evicted, another thread connects, and only then is the reply read."""
    known = Life()

    class Slow(SocketWire):
        async def exchange(self, payload: bytes, replies: int, timeout: float) -> list[Any]:
            answers = await super().exchange(payload, replies, timeout)
            known.note([b"\r\nrun_id:1\r\nmaster_replid:1\r\nevicted_keys:1\r\n"])
            return answers

    known.note([b"\r\nrun_id:1\r\nmaster_replid:1\r\nevicted_keys:0\r\n"])
    with socket_wire(server) as plain:
        run(RedisStore(plain, "tenure", known, native.now).authority(5.0))
    wire = Slow(server.socket_path)
    try:
        card = SessionCard("s", LONG, "", "", "", 1)
        entry = Entry(card, True, False, 1, "tenure:n", EXCLUSIVE, 0.0, "", False, False)
        place = run(RedisStore(wire, "tenure", known, native.now).enter(entry, 5.0))
    finally:
        wire.disconnect()
    assert place.facts is not None
    assert place.facts.life != known.value


# -- evicted ----------------------------------------------------------------------------------------------------------


def is_idle(server: RedisServer, key: str, seconds: int) -> bool:
    return bool(server.cli("OBJECT", "IDLETIME", key) >= seconds)


def evict(server: RedisServer, key: str) -> None:
    """Have the server throw this key away, and of others only what is large: a small one makes little room."""
    used = [one for one in server.cli("KEYS", "*") if one != key]
    for idle in (1, 2):
        server.clock.jump(1.1)  # the clock of LRU counts seconds
        until(functools.partial(is_idle, server, key, idle), "time has passed for the server")
        if idle == 1:
            for number in range(20):
                server.cli("SET", f"filler{number}", "x" * 50_000)
    server.cli("TOUCH", *used)
    server.cli("CONFIG", "SET", "maxmemory", int(server.info("memory")["used_memory"]) - 100_000)
    until(lambda: not server.cli("EXISTS", key), "it is evicted")
    server.cli("CONFIG", "SET", "maxmemory", 0)
    # What a session owns may be put right by a keeper that has noticed by now.
    kept = [one for one in used if ":o:" not in one]
    assert server.cli("EXISTS", *kept) == len(kept)


@pytest.fixture
def cache() -> Iterator[RedisServer]:
    with RedisServer(clock=True, policy="allkeys-lru", extra=["maxmemory-samples 64", "hz 500"]) as server:
        yield server


QUEUE: Final = "{tenure:0}:q:n"


@movable
def test_a_queue_that_was_evicted_is_told_at_the_next_heartbeat(cache: RedisServer, told: Told) -> None:
    with Client(cache.url, ttl=9, on_event=told) as client, Client(cache.url, ttl=LONG) as other:
        lease = client.lock("n").acquire()
        other.lock("warm").acquire().release()
        evict(cache, QUEUE)
        # The session lives on: its heartbeat alone would see nothing.
        since = native.now()
        with other.lock("n", wait=5) as successor:
            assert successor.token > lease.token
            at = told.wait(Lost)
            print(f"told after {at - since:.3f} s at a ttl of 9 s")
            assert lease.lost is LossReason.STORE_LOST
            assert at - since < 3 + SLACK


@movable
def test_positive_control_who_ignores_evictions_learns_nothing(
    cache: RedisServer, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "_FIELDS", (b"run_id", b"master_replid"))
    with Client(cache.url, ttl=9, on_event=told) as client, Client(cache.url, ttl=LONG) as other:
        lease = client.lock("n").acquire()
        evict(cache, QUEUE)
        told.wait(Renewed, native.now())
        with other.lock("n", wait=0):
            assert lease.held, "two holders"
        lease._own.lost = LossReason.STORE_LOST


def test_a_server_that_evicts_all_the_time_keeps_the_leases_that_it_has(told: Told) -> None:
    """Each heartbeat sees another count of evictions; each is answered by a look, and none by another heartbeat."""
    going = threading.Event()
    with (
        RedisServer(maxmemory="3mb", policy="volatile-lru") as server,
        Proxy(server.address) as proxy,
        Client(through(proxy), ttl=TTL, on_event=told) as client,
    ):

        def fill() -> bool:
            with server.connect() as connection:
                number = 0
                while not going.wait(0.001):
                    connection.call("SET", f"filler{number % 400}", "x" * 20_000, "EX", 1000)
                    number += 1
            return True

        filling = Attempt(fill)
        until(lambda: int(server.info("stats")["evicted_keys"]) > 10, "it evicts")
        proxy.delay(0.002)
        lease = client.lock("n").acquire()
        since = native.now()
        try:
            until(lambda: lease.lost or told.count(Renewed) >= 4, "renewed beyond its first deadline")
        finally:
            going.set()
            filling.outcome()
        assert lease.held, lease.lost
        assert native.now() - since > TTL
        calls = server.info("commandstats")["cmdstat_evalsha"].split(",")[0]
        assert int(calls.partition("=")[2]) < 30, "three requests for each heartbeat"
        proxy.heal()
        lease.release()


# -- what is asked ----------------------------------------------------------------------------------------------------


def test_a_life_that_cannot_be_asked_for_is_not_another_life() -> None:
    """As while a script keeps the server busy, or where INFO is not allowed."""
    seen = Life()
    seen.note([b"\r\nrun_id:1\r\n", b"\r\nmaster_replid:2\r\n", b"\r\nevicted_keys:0\r\n"])
    value = seen.value
    seen.note([Exception("BUSY")] * 3)
    assert seen.value == value
    seen.note([b"\r\nrun_id:3\r\n", Exception("BUSY"), Exception("BUSY")])
    assert seen.value != value


@pytest.mark.parametrize("protocol", [2, 3])
def test_the_life_of_a_store_is_read_in_both_protocols(server: RedisServer, protocol: int) -> None:
    with Client(f"{server.url}?protocol={protocol}") as client:
        engine: Any = client._core.engine
        run_id, replid, evicted = engine._life._facts
        assert run_id.decode() == server.info("server")["run_id"]
        assert replid.decode() == server.info("replication")["master_replid"]
        assert evicted == b"0"
