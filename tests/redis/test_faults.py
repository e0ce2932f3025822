"""A network that fails between a client and a real server: every call ends in a grant or a typed error, never a guess.

Nothing is held after an error once the keeper has paid; a lost connection is not a lost lease.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from tenure import AcquireTimeout, Client, LossReason, OutcomeUnknown
from tenure.engines.redis.store import RedisStore
from tenure.observe.events import Lost, Renewed, Suspect
from tenure.runtimes import native
from tests.faces.watched import LONG, Attempt, Looped, Told, has_paid, waits, warm
from tests.redis.rig import PERIOD, TTL, listens, through
from tests.servers import redis
from tests.servers.processes import until
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer
from tests.timing import SLACK, Bound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faces.watched import AnyClient

pytestmark = pytest.mark.skipif(redis.missing() is not None, reason=redis.missing() or "")

PATIENCE: Final = TTL / 6
# -- faults that pass -------------------------------------------------------------------------------------------------


def test_a_try_and_an_inspection_after_all_connections_were_closed_are_answered(
    client: AnyClient, proxy: Proxy
) -> None:
    """As a server closes idle connections, or a balancer on the way does."""
    proxy.cut("fin")
    if isinstance(client, Looped):
        wire: Any = client._core.store
        until(lambda: wire._wire._pipe is None, "the loop has noticed")
    time.sleep(0.15)  # a connection in steady use is not looked at
    lease = client.lock("n").try_acquire()
    assert lease is not None
    lease.release()


# -- faults that stay -------------------------------------------------------------------------------------------------


def test_an_acquire_that_is_never_answered_is_unknown_and_nothing_is_left_of_it(
    client: AnyClient, witness: Client, proxy: Proxy, server: RedisServer
) -> None:
    last = ("HGET", "{tenure:0}:genesis", "last")
    before = int(server.cli(*last))
    proxy.drop("replies")
    with pytest.raises(OutcomeUnknown):
        client.lock("n", wait=0.5).acquire()
    # Not a guess: the store did get it, and drew its number; the keeper, whose requests pass, may have closed it since.
    assert int(server.cli(*last)) > before
    proxy.heal()
    until(lambda: has_paid(client), "the keeper has paid")
    assert witness.names() == []


def test_a_slow_way_to_the_server_never_hides_the_deadline(proxy: Proxy) -> None:
    """Connecting, introducing itself and the heartbeat share the time of one request."""
    told = Told()
    with Client(through(proxy), ttl=TTL, on_event=told) as client:
        lease = client.lock("n").acquire()
        deadline = lease.deadline
        proxy.delay(PATIENCE * 0.45)  # one round trip is almost all the patience there is
        proxy.cut()
        lost_at = told.wait(Lost)
        deadline = max(deadline, lease.deadline)
        assert lease.lost is LossReason.DEADLINE
        assert deadline <= lost_at < deadline + Bound(0.1)
        proxy.heal()
        proxy.cut()


# -- a stopped server -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stopped(server: RedisServer) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.cont()


@contextlib.contextmanager
def asleep(server: RedisServer) -> Iterator[None]:
    """Busy with one command for two of the leases' ttls."""
    with server.connect() as connection:
        connection.send("DEBUG", "SLEEP", "2")
        try:
            yield
        finally:
            connection.read()


@pytest.mark.parametrize("halted", [stopped, asleep])
def test_a_stopped_server_costs_the_lease_at_its_deadline_and_grants_a_larger_token_afterwards(halted: Any) -> None:
    told = Told()
    with (
        RedisServer() as server,
        Client(server.url, ttl=1.0, on_event=told) as client,
        Client(server.url, ttl=LONG) as other,
    ):
        warm(other)
        lease = client.lock("n").acquire()
        waiting: Attempt[Any] = Attempt(other.lock("n", wait=10).acquire)
        waits(client, "n")
        with halted(server):
            told.wait(Suspect)
            assert lease.held
            lost_at = told.wait(Lost)
            assert lease.lost is LossReason.DEADLINE
            assert lease.deadline <= lost_at < lease.deadline + Bound(0.1)
            assert not waiting.ended_at
        went_on = native.now()
        successor = waiting.outcome()
        print(f"granted {waiting.ended_at - went_on:.3f} s after the server went on")
        assert successor.token > lease.token
        assert [c.token for c in other.inspect("n").holders] == [successor.token]
        assert waiting.ended_at - went_on < 1.0 + SLACK
        successor.release()


# -- while waiting ----------------------------------------------------------------------------------------------------


def test_a_grant_that_is_lost_on_its_way_is_found_with_the_next_heartbeat(
    client: AnyClient, witness: Client, server: RedisServer, proxy: Proxy
) -> None:
    held = witness.lock("n").acquire()
    attempt: Attempt[Any] = Attempt(client.lock("n", wait=20).acquire)
    waits(witness, "n")
    listens(server)
    proxy.drop("replies")
    begun = native.now()
    held.release()
    until(lambda: proxy.dropped["replies"], "the grant is lost")
    proxy.heal()
    lease = attempt.outcome()
    print(f"granted {attempt.ended_at - begun:.3f} s after the release whose message was lost")
    assert attempt.ended_at - begun < PERIOD + 2 * PATIENCE + SLACK
    lease.release()


def test_a_waiter_that_connects_into_silence_hears_of_its_grant_from_the_keeper(
    server: RedisServer, witness: Client, proxy: Proxy
) -> None:
    with Proxy(server.address) as silent, Client(through(proxy), ttl=TTL) as client:
        held = witness.lock("n").acquire()
        warm(client)
        silent.hold()
        # New connections meet silence, those of the keeper and the callers work.
        proxy.target = silent.address
        attempt: Attempt[Any] = Attempt(client.lock("n", wait=20).acquire)
        waits(witness, "n")
        begun = native.now()
        held.release()
        lease = attempt.outcome()
        print(f"granted {attempt.ended_at - begun:.3f} s after the release, without a mailbox")
        assert attempt.ended_at - begun < PERIOD + 0.5 + SLACK
        lease.release()


def test_positive_control_a_heartbeat_that_lists_no_grants_leaves_the_waiter_waiting(
    witness: Client, server: RedisServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    heartbeat = RedisStore.heartbeat
    monkeypatch.setattr(
        RedisStore,
        "heartbeat",
        lambda self, session, ttl, waiting, timeout: heartbeat(self, session, ttl, False, timeout),
    )
    told = Told()
    with Client(through(proxy), ttl=TTL, on_event=told) as client:
        held = witness.lock("n").acquire()
        attempt: Attempt[Any] = Attempt(client.lock("n", wait=1.3).acquire)
        waits(witness, "n")
        listens(server)
        proxy.drop("replies")
        held.release()
        until(lambda: proxy.dropped["replies"], "the grant is lost")
        proxy.heal()
        assert isinstance(attempt.end(), AcquireTimeout)
        assert told.at(Renewed)
