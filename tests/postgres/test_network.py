"""Networks that fail: every call ends in a grant or a typed error, never a guess.

Nothing is held after an error once the keeper has paid; a lost connection is not a lost lease.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tenure import Client, OutcomeUnknown
from tenure.engines.postgres.store import PostgresStore
from tenure.model import LeaseState
from tenure.observe.events import Renewed, Suspect
from tenure.protocols.ledger import Ledger
from tenure.runtimes import native
from tests.faces.faults import FAULTS, during
from tests.faces.watched import Attempt, Looped, Told, has_paid, waits
from tests.postgres.rig import LONG, PATIENCE, PERIOD, TTL, listens, through
from tests.servers import postgres
from tests.servers.processes import until
from tests.servers.proxy import Proxy
from tests.timing import SLACK, in_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faces.watched import AnyClient
    from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing()))


@pytest.fixture
def proxy(server: PostgresServer) -> Iterator[Proxy]:
    with Proxy(("127.0.0.1", server.port)) as proxy:
        yield proxy


@pytest.fixture(params=[Client, Looped])
def client(
    request: pytest.FixtureRequest, server: PostgresServer, proxy: Proxy, url: str, witness: Client
) -> Iterator[AnyClient]:
    """A client behind the proxy, blocking or asyncio, with its connections made."""
    with request.param(through(proxy, server, url), ttl=TTL) as client:
        client.lock("warm").acquire().release()
        yield client
        proxy.heal()


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest) -> Callable[[Proxy], object]:
    return FAULTS[request.param]


def test_an_acquire_through_a_fault_is_granted_with_one_claim(
    client: AnyClient, witness: Client, proxy: Proxy, fault: Callable[[Proxy], object]
) -> None:
    begun = native.now()
    lease = during(fault, proxy, client.lock("n", wait=10).acquire).outcome()
    assert native.now() - begun < PATIENCE + SLACK
    queue = witness.inspect("n")
    assert [c.token for c in queue.holders] == [lease.token]
    assert queue.waiters == ()
    lease.release()
    assert witness.names() == []


def test_a_release_through_a_fault_raises_nothing_and_frees_the_name(
    client: AnyClient, witness: Client, proxy: Proxy, fault: Callable[[Proxy], object]
) -> None:
    lease = client.lock("n").acquire()
    begun = native.now()
    assert during(fault, proxy, lease.release).end() is None
    with witness.lock("n", wait=10) as next_one:
        assert native.now() - begun < 2 * PATIENCE + SLACK
        assert next_one.token > lease.token
    until(lambda: has_paid(client), "the keeper has paid")


def test_a_fault_during_a_heartbeat_is_not_a_lost_lease(
    server: PostgresServer, url: str, witness: Client, proxy: Proxy, fault: Callable[[Proxy], object]
) -> None:
    told = Told()
    with Client(through(proxy, server, url), ttl=TTL, on_event=told) as client:
        lease = client.lock("n").acquire()
        fault(proxy)  # nothing but the heartbeat is sent
        struck = native.now()
        told.wait(Renewed, since=struck)
        assert native.now() - struck < PATIENCE + SLACK
        assert lease.held
        in_time(told.at(Suspect) > 0, "it is the heartbeat that meets the fault")
        assert witness.lock("n").try_acquire() is None
        until(lambda: lease.state is LeaseState.HELD, "no longer suspect")
        lease.release()


def test_an_acquire_that_is_never_answered_is_unknown_and_nothing_is_left_of_it(
    client: AnyClient, witness: Client, proxy: Proxy, server: PostgresServer, schema: str
) -> None:
    proxy.drop("replies")
    with pytest.raises(OutcomeUnknown):
        client.lock("n", wait=0.5).acquire()
    # Not a guess: the store did get it, and drew its number; the keeper, whose requests pass, may have closed it since.
    assert server.run(f"SELECT last > 0 FROM \"{schema}\".names WHERE name = 'tenure:n'") == [(True,)]  # noqa: S608
    proxy.heal()
    until(lambda: has_paid(client), "the keeper has paid")
    assert witness.names() == []


def test_positive_control_without_abandon_an_unanswered_acquire_stays(
    server: PostgresServer, url: str, witness: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "abandon", lambda self, claim: None)
    with Client(through(proxy, server, url), ttl=LONG) as client:
        client.lock("warm").acquire().release()
        proxy.drop("replies")
        attempt: Attempt[Any] = Attempt(client.lock("n", wait=0.2).try_acquire)
        until(lambda: witness.inspect("n").holders, "the store has it")
        proxy.cut()
        proxy.heal()
        assert isinstance(attempt.end(), OutcomeUnknown)
        client.lock("other").acquire().release()
        assert len(witness.inspect("n").holders) == 1


@pytest.mark.parametrize("how", ["rst", "fin"])
def test_a_waiter_whose_connections_are_cut_still_gets_its_grant_soon(
    client: AnyClient, witness: Client, server: PostgresServer, proxy: Proxy, how: Any
) -> None:
    held = witness.lock("n").acquire()
    attempt: Attempt[Any] = Attempt(client.lock("n", wait=20).acquire)
    waits(witness, "n")
    listens(server)
    proxy.cut(how)
    begun = native.now()
    held.release()
    lease = attempt.outcome()
    print(f"granted {attempt.ended_at - begun:.3f} s after the cut and the release")
    assert attempt.ended_at - begun < SLACK
    assert lease.token > held.token
    lease.release()


def lost_grant(client: AnyClient, witness: Client, server: PostgresServer, proxy: Proxy) -> float:
    """Let a grant get lost on its way; seconds until it is known all the same."""
    held = witness.lock("n").acquire()
    attempt: Attempt[Any] = Attempt(client.lock("n", wait=6).acquire)
    waits(witness, "n")
    listens(server)
    proxy.drop("replies")
    begun = native.now()
    held.release()
    until(lambda: proxy.dropped["replies"], "the grant is lost")
    proxy.heal()
    attempt.outcome().release()
    return attempt.ended_at - begun


def test_a_grant_that_is_lost_on_its_way_is_found_with_the_next_heartbeat(
    client: AnyClient, witness: Client, server: PostgresServer, proxy: Proxy
) -> None:
    assert lost_grant(client, witness, server, proxy) < PERIOD + PATIENCE + SLACK


def test_positive_control_a_heartbeat_that_lists_no_grants_leaves_the_waiter_waiting(
    witness: Client, server: PostgresServer, proxy: Proxy, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heartbeat = PostgresStore.heartbeat

    async def forgetful(self: PostgresStore, session: str, ttl: float, waiting: bool, timeout: float) -> Any:
        return await heartbeat(self, session, ttl, False, timeout)

    monkeypatch.setattr(PostgresStore, "heartbeat", forgetful)
    with Client(through(proxy, server, url), ttl=TTL) as client:
        client.lock("warm").acquire().release()
        held = witness.lock("n").acquire()
        attempt: Attempt[Any] = Attempt(client.lock("n", wait=20).acquire)
        waits(witness, "n")
        listens(server)
        # It looks once it listens: were that answer lost in place of the grant, it would look again.
        looked = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%.look(%' AND state = 'idle'"
        until(lambda: server.run(looked) == [(1,)], "it has looked")
        proxy.drop("replies")
        held.release()
        until(lambda: proxy.dropped["replies"], "the grant is lost")
        proxy.heal()
        attempt._thread.join(3 * PERIOD)
        assert not attempt.ended_at
        proxy.cut()  # which makes it look
        attempt.outcome().release()
