"""Networks that fail between a client and a real server: every call ends in a grant or a typed error, never a guess.

Nothing is held after an error once the keeper has paid; a lost connection is not a lost lease. One suite for all
engines that have a server; what is one engine's own, such as what its server has had meanwhile, is tested beside it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from tenure import Client, LossReason, OutcomeUnknown, StoreUnavailable
from tenure.model import LeaseState
from tenure.observe.events import Lost, Renewed, Suspect
from tenure.protocols.ledger import Ledger
from tenure.runtimes import native
from tests.faces.faults import FAULTS, during
from tests.faces.watched import LONG, Attempt, Looped, Told, has_paid, waits, warm
from tests.servers.processes import until
from tests.timing import SLACK, in_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faces.watched import AnyClient
    from tests.network.places import Place, Way
    from tests.servers.proxy import Proxy


@pytest.fixture(params=[Client, Looped])
def client(request: pytest.FixtureRequest, way: Way, witness: Client, proxy: Proxy) -> Iterator[AnyClient]:
    """A client behind the proxy, blocking or asyncio, with its connections made."""
    with request.param(way.url, ttl=way.ttl, **way.options) as client:
        warm(client)
        yield client
        proxy.heal()


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest) -> Callable[[Proxy], object]:
    return FAULTS[request.param]


# -- faults that pass -------------------------------------------------------------------------------------------------


def test_an_acquire_through_a_fault_is_granted_with_one_claim(
    way: Way, client: AnyClient, witness: Client, proxy: Proxy, fault: Callable[[Proxy], object]
) -> None:
    begun = native.now()
    lease = during(fault, proxy, client.lock("n", wait=10).acquire).outcome()
    assert native.now() - begun < way.patience + SLACK
    queue = witness.inspect("n")
    assert [c.token for c in queue.holders] == [lease.token]
    assert queue.waiters == ()
    lease.release()
    assert witness.names() == []


def test_a_release_through_a_fault_raises_nothing_and_frees_the_name(
    way: Way, client: AnyClient, witness: Client, proxy: Proxy, fault: Callable[[Proxy], object]
) -> None:
    lease = client.lock("n").acquire()
    begun = native.now()
    assert during(fault, proxy, lease.release).end() is None
    with witness.lock("n", wait=10) as next_one:
        assert native.now() - begun < 2 * way.patience + SLACK
        assert next_one.token > lease.token
    until(lambda: has_paid(client), "the keeper has paid")


def test_a_fault_during_a_heartbeat_is_not_a_lost_lease(
    way: Way, witness: Client, proxy: Proxy, fault: Callable[[Proxy], object]
) -> None:
    told = Told()
    with way.client(on_event=told) as client:
        lease = client.lock("n").acquire()
        fault(proxy)  # nothing but the heartbeat is sent
        struck = native.now()
        told.wait(Renewed, since=struck)
        assert native.now() - struck < way.patience + SLACK
        assert lease.held
        assert lease.lost is None
        in_time(told.at(Suspect) > 0, "it is the heartbeat that meets the fault")
        assert witness.lock("n").try_acquire() is None
        until(lambda: lease.state is LeaseState.HELD, "no longer suspect")
        lease.release()


def test_after_a_fault_during_a_heartbeat_a_lease_outlives_what_was_proved_before(
    way: Way, witness: Client, proxy: Proxy
) -> None:
    with way.client() as client:
        lease = client.lock("n").acquire()
        FAULTS["lost reply"](proxy)
        struck = native.now()
        until(lambda: native.now() > struck + 1.5 * way.ttl, "a ttl and a half has passed")
        assert lease.held
        assert witness.lock("n").try_acquire() is None
        lease.release()


# -- while waiting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["rst", "fin"])
def test_a_waiter_whose_connections_are_cut_still_gets_its_grant_soon(
    place: Place, client: AnyClient, witness: Client, proxy: Proxy, how: Any
) -> None:
    held = witness.lock("n").acquire()
    attempt: Attempt[Any] = Attempt(client.lock("n", wait=20).acquire)
    waits(witness, "n")
    place.hears()
    proxy.cut(how)
    begun = native.now()
    held.release()
    lease = attempt.outcome()
    print(f"granted {attempt.ended_at - begun:.3f} s after the cut and the release")
    assert attempt.ended_at - begun < SLACK
    assert lease.token > held.token
    lease.release()


def test_a_waiter_survives_an_outage_and_is_granted_when_it_is_over(
    way: Way, client: AnyClient, witness: Client, proxy: Proxy
) -> None:
    held = witness.lock("n").acquire()
    attempt: Attempt[Any] = Attempt(client.lock("n", wait=20).acquire)
    waits(witness, "n")
    proxy.refuse()
    proxy.cut()
    held.release()
    until(lambda: proxy.connections == 0, "it is cut off")
    proxy.accept()
    begun = native.now()
    lease = attempt.outcome()
    assert attempt.ended_at - begun < way.ttl / 3 + SLACK
    lease.release()


# -- faults that stay -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def unanswered(client: Client, proxy: Proxy) -> Iterator[None]:
    """An acquire that the store may have done, and that was never answered."""
    warm(client)
    proxy.drop("replies")
    # The error keeps the frames, and so the lease that nobody got: its finalizer would close the claim.
    with pytest.raises(OutcomeUnknown) as kept:
        client.lock("n", wait=0.2).acquire()
    proxy.cut()
    proxy.heal()
    yield
    assert kept.value is not None


def test_an_acquire_that_is_never_answered_is_unknown_and_is_given_back(
    way: Way, witness: Client, proxy: Proxy
) -> None:
    with way.client() as client, unanswered(client, proxy):
        until(lambda: has_paid(client), "the keeper has paid")
        assert witness.names() == []


def test_positive_control_without_abandon_an_unanswered_acquire_stays(
    way: Way, witness: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "abandon", lambda self, claim: None)
    with way.client(ttl=LONG) as client, unanswered(client, proxy):
        client.lock("other").acquire().release()
        assert len(witness.inspect("n").holders) == 1


def test_a_server_out_of_reach_is_unavailable_at_once_and_the_lease_stays_until_its_deadline(
    way: Way, witness: Client, proxy: Proxy
) -> None:
    told = Told()
    with way.client(on_event=told) as client:
        lease = client.lock("n").acquire()
        deadline = lease.deadline
        proxy.refuse()
        proxy.cut()
        begun = native.now()
        with pytest.raises((StoreUnavailable, OutcomeUnknown)):
            client.lock("m").try_acquire()
        with pytest.raises(StoreUnavailable):
            client.lock("m").acquire()
        assert native.now() - begun < way.patience + SLACK
        told.wait(Suspect)
        assert lease.state is LeaseState.SUSPECT
        deadline = max(deadline, lease.deadline)
        lost_at = told.wait(Lost)
        assert lease.lost is LossReason.DEADLINE
        assert deadline <= lost_at < deadline + SLACK
        begun = native.now()
        with pytest.raises(StoreUnavailable):
            client.lock("m").acquire()
        assert native.now() - begun < SLACK, "a session that was never opened is refused at once"
        proxy.heal()
        with client.lock("n", wait=10) as again:
            assert again.token > lease.token
        client.lock("m", wait=5).acquire().release()
