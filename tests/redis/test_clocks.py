"""A server whose clock is set, and a replica that takes over: sessions end once, and no token falls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tenure import Client, LossReason
from tenure.observe.events import Lost, Renewed
from tenure.runtimes import native
from tests.faces.watched import Attempt, Told, waits
from tests.redis.rig import TTL, is_told, stays, through
from tests.servers import clock as clocks
from tests.servers import redis
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer
from tests.servers.redis_sentinels import Sentinels
from tests.timing import SLACK

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(redis.missing() is not None, reason=redis.missing() or "")

LONG: Final = 60.0
HOUR: Final = 3600.0


@pytest.fixture
def told() -> Told:
    return Told()


# -- the clock --------------------------------------------------------------------------------------------------------


@pytest.fixture
def moved(told: Told) -> Iterator[RedisServer]:
    if reason := clocks.missing():
        pytest.skip(reason)
    with RedisServer(clock=True) as server:
        yield server


def test_a_clock_set_forward_ends_sessions_and_their_holders_are_told(moved: RedisServer, told: Told) -> None:
    with Client(moved.url, ttl=TTL, on_event=told) as client, Client(moved.url, ttl=LONG) as other:
        lease = client.lock("n").acquire()
        moved.clock.jump(HOUR)
        since = native.now()
        with other.lock("n", wait=5) as successor:
            assert successor.token > lease.token
            is_told(lease, told, since, LossReason.SESSION_ENDED)
        with client.lock("n", wait=5) as again:
            assert again.token > successor.token


def test_a_clock_set_back_ends_no_lease_and_no_token_falls(moved: RedisServer, told: Told) -> None:
    with Client(moved.url, ttl=TTL, on_event=told) as client, Client(moved.url, ttl=TTL) as other:
        lease = client.lock("n").acquire()
        moved.clock.jump(-HOUR)
        stays(lease, told, native.now())
        attempt = Attempt(other.lock("n", wait=20).acquire)
        waits(client, "n")
        tokens = [lease.token]
        lease.release()
        successor = attempt.outcome()
        tokens.append(successor.token)
        successor.release()
        for _ in range(3):
            with client.lock("n", wait=5) as again:
                tokens.append(again.token)
        assert tokens == sorted(set(tokens))


@pytest.mark.parametrize("seen", [True, False])
def test_a_session_that_was_seen_to_end_stays_ended_when_the_clock_is_set_back(
    moved: RedisServer, told: Told, seen: bool
) -> None:
    """`seen` False is the control: nobody looked while the clock was ahead, and the holder never knew."""
    with (
        Proxy(moved.address) as proxy,
        Client(through(proxy), ttl=4.5, on_event=told) as client,
        Client(moved.url, ttl=LONG) as other,
    ):
        other.lock("warm").acquire().release()
        lease = client.lock("n").acquire()
        proxy.hold()
        moved.clock.jump(HOUR)
        if seen:
            other.lock("n", wait=5).acquire().release()
        moved.clock.jump(-HOUR)
        proxy.let_go()
        since = native.now()
        if seen:
            told.wait(Lost, since)
            assert lease.lost is LossReason.SESSION_ENDED
        else:
            told.wait(Renewed, since)
            assert lease.held
            lease.release()


# -- fail-over --------------------------------------------------------------------------------------------------------


def test_a_replica_that_lacks_the_last_writes_takes_over(told: Told) -> None:
    with Sentinels(count=1) as group:  # several may need several elections
        master, replica = group.servers
        hosts = ",".join(f"{host}:{port}" for host, port in group.addresses)
        url = f"redis+sentinel://{hosts}/{group.name}"
        with Client(url, ttl=30, on_event=told) as client, Client(url, ttl=30) as other:
            kept = client.lock("kept").acquire()
            other.lock("warm").acquire().release()
            with master.connect() as connection:
                connection.call("SET", "mark", "1")
                assert connection.call("WAIT", 1, 5000) == 1
            # From here on the replica follows nobody; the sentinels see that it lives.
            replica.cli("CONFIG", "SET", "masterauth", "a password that the master does not want")
            master.cli("CLIENT", "KILL", "TYPE", "replica")
            lost = client.lock("n").acquire()
            attempt = Attempt(other.lock("n", wait=40).acquire)
            waits(client, "n")
            master.kill()
            since = native.now()
            group.wait_failover(master)
            promoted = native.now()
            at = told.wait(Lost)
            print(f"promoted after {promoted - since:.3f} s, told {at - promoted:+.3f} s after that")
            assert lost.lost is LossReason.STORE_LOST
            assert kept.held
            assert at - promoted < 30 / 3 + SLACK
            successor = attempt.outcome()
            print(f"the waiter is served {attempt.ended_at - promoted:+.3f} s after the promotion")
            assert successor.token > lost.token > kept.token
            assert other.lock("kept").try_acquire() is None
            successor.release()
            kept.release()
