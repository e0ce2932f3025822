"""Networks that fail: every call ends in a grant or a typed error, never a guess.

Nothing is held after an error once the keeper has paid; a lost connection is not a lost lease.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tenure import Client, OutcomeUnknown
from tenure.engines.postgres.store import PostgresStore
from tenure.runtimes import native
from tests.faces.watched import Attempt, Looped, has_paid, waits
from tests.postgres.rig import PATIENCE, PERIOD, TTL, listens, through
from tests.servers import postgres
from tests.servers.processes import until
from tests.servers.proxy import Proxy
from tests.timing import SLACK

if TYPE_CHECKING:
    from collections.abc import Iterator

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
