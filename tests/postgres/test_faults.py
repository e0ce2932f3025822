"""Servers, networks and neighbours that fail: every call ends in a grant or a typed error, never a guess.

Nothing is held after an error once the keeper has paid; a lost connection is not a lost lease.
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest

from tenure import Client, LossReason, OutcomeUnknown, StoreUnavailable, TenureError
from tenure.engines.postgres.store import PostgresStore
from tenure.model import LeaseState
from tenure.observe.events import Lost, Renewed, Suspect
from tenure.protocols.ledger import Ledger
from tenure.runtimes import native
from tests.faces.faults import FAULTS, during
from tests.faces.programs import heard, program
from tests.faces.watched import Attempt, Looped, Told, has_paid, waits
from tests.postgres.rig import LONG, PATIENCE, PERIOD, TTL, listens, locked, through
from tests.servers import clock, postgres
from tests.servers.postgres import PostgresServer
from tests.servers.processes import until
from tests.servers.proxy import Proxy
from tests.timing import SLACK, Bound, in_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faces.watched import AnyClient

pytestmark = pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing()))


@pytest.fixture
def proxy(server: PostgresServer) -> Iterator[Proxy]:
    with Proxy(("127.0.0.1", server.port)) as proxy:
        yield proxy


@pytest.fixture
def witness(url: str) -> Iterator[Client]:
    """A client whose network is sound."""
    with Client(url, ttl=LONG) as client:
        yield client


@pytest.fixture(params=[Client, Looped])
def client(
    request: pytest.FixtureRequest, server: PostgresServer, proxy: Proxy, url: str, witness: Client
) -> Iterator[AnyClient]:
    """A client behind the proxy, blocking or asyncio, with its connections made."""
    with request.param(through(proxy, server, url), ttl=TTL) as client:
        client.lock("warm").acquire().release()
        yield client
        proxy.heal()


# -- the network ------------------------------------------------------------------------------------------------------


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


# -- the client -------------------------------------------------------------------------------------------------------


def test_a_client_that_is_stopped_past_its_ttl_says_lost_at_its_first_instruction(url: str, witness: Client) -> None:
    code = """
with tenure.Client(url, ttl=1.5) as client:
    lease = client.lock("n").acquire()
    say("held", lease.token)
    in_time = True
    while True:
        before = client._core.now()
        if not lease.held:
            break
        in_time = in_time and before < lease.deadline
    say("lost", lease.lost.name, in_time)
"""
    witness.lock("warm").acquire().release()
    with program(code, url) as process:
        token = int(heard(process).split()[1])
        process.send_signal(signal.SIGSTOP)
        begun = native.now()
        with witness.lock("n", wait=20) as successor:
            assert successor.token > token
            assert native.now() - begun < TTL + SLACK
            process.send_signal(signal.SIGCONT)
            assert heard(process) == "lost DEADLINE True"
            assert successor.held


WAITER = """
with tenure.Client(url, ttl=1.5) as client:
    say("asks")
    with client.lock("n", wait=60) as lease:
        say("held", lease.token, lease.held)
        sys.stdin.readline()
"""


def test_a_waiting_client_that_is_stopped_past_its_ttl_is_passed_over_and_served_behind(
    url: str, witness: Client
) -> None:
    first = witness.lock("n").acquire()
    with Client(url, ttl=LONG) as other, program(WAITER, url) as process:
        assert heard(process) == "asks"
        waits(witness, "n")
        process.send_signal(signal.SIGSTOP)
        struck = native.now()
        behind: Attempt[Any] = Attempt(other.lock("n", wait=60).acquire)
        waits(witness, "n", 2)
        place = witness.inspect("n").waiters[0].token
        until(lambda: native.now() > struck + TTL, "its session is over")
        first.release()
        second = behind.outcome()
        assert second.token > place
        process.send_signal(signal.SIGCONT)
        waits(witness, "n")
        assert second.held
        second.release()
        _, token, held = heard(process).split()
        assert (int(token) > second.token, held) == (True, "True"), "it asked again, under a new session"


def test_a_waiting_client_that_is_stopped_for_a_moment_keeps_its_place(url: str, witness: Client) -> None:
    first = witness.lock("n").acquire()
    with program(WAITER, url) as process:
        assert heard(process) == "asks"
        waits(witness, "n")
        (waiter,) = witness.inspect("n").waiters
        process.send_signal(signal.SIGSTOP)
        first.release()  # which grants it the name, and tells it by mail
        assert [holder.token for holder in witness.inspect("n").holders] == [waiter.token]
        process.send_signal(signal.SIGCONT)
        in_time(heard(process) == f"held {waiter.token} True", "to go on before its session was over")


# -- the server's end -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stopped(server: PostgresServer) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.cont()


def test_a_stopped_server_costs_the_lease_at_its_deadline_and_grants_a_larger_token_afterwards(
    server: PostgresServer, url: str
) -> None:
    told = Told()
    with Client(url, ttl=1.0, on_event=told) as client, Client(url, ttl=LONG) as other:
        other.lock("warm").acquire().release()
        lease = client.lock("n").acquire()
        waiting: Attempt[Any] = Attempt(other.lock("n", wait=10).acquire)
        waits(client, "n")
        with stopped(server):
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
        assert waiting.ended_at - went_on < 1.0 + SLACK
        successor.release()


def immediate(server: PostgresServer) -> None:
    """As `pg_ctl stop -m immediate`."""
    server.shut_signal = 3  # type: ignore[assignment]  # SIGQUIT
    try:
        server.shut()
    finally:
        del server.shut_signal


ENDS: Final[dict[str, Callable[[PostgresServer], None]]] = {
    "kill -9": lambda server: server.kill(),
    "immediate": immediate,
    "fast": lambda server: server.shut(),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("face", [Client, Looped])
def test_a_restart_costs_no_lease_and_no_waiter(url: str, server: PostgresServer, end: str, face: Any) -> None:
    told = Told()
    with Client(url, ttl=6.0, on_event=told) as client, face(url, ttl=6.0) as other:
        lease = client.lock("n").acquire()
        waiting: Attempt[Any] = Attempt(other.lock("n", wait=20).acquire)
        waits(client, "n")
        listens(server)
        ENDS[end](server)
        assert lease.held
        server.start()
        up = native.now()
        told.wait(Renewed, since=up)
        assert lease.held
        assert lease.lost is None
        lease.release()
        released = native.now()
        assert waiting.outcome().token > lease.token
        print(f"granted {waiting.ended_at - released:.3f} s after the release")
        assert waiting.ended_at - released < 1.0 + SLACK
        waiting.outcome().release()


def test_whoever_ends_all_our_backends_costs_no_lease(url: str, server: PostgresServer) -> None:
    told = Told()
    with Client(url, ttl=TTL, on_event=told) as client, Client(url, ttl=LONG) as other:
        lease = client.lock("n").acquire()
        waiting: Attempt[Any] = Attempt(other.lock("n", wait=20).acquire)
        waits(client, "n")
        listens(server)
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tenure'"
        for _ in range(3):
            struck = native.now()
            assert server.run(kill)
            told.wait(Renewed, since=struck)
        assert lease.held
        lease.release()
        assert waiting.outcome().token > lease.token
        waiting.outcome().release()


def test_a_database_that_was_put_back_is_another_life_and_its_holders_are_told(
    url: str, server: PostgresServer
) -> None:
    told = Told()
    schema = url.partition("schema=")[2].partition("&")[0]
    with Client(url, ttl=TTL, on_event=told) as client:
        lease = client.lock("n").acquire()
        # As a restore from before the grant would have it: another store, or the same without the claim.
        server.run(f'DELETE FROM "{schema}".claims; UPDATE "{schema}".genesis SET id = \'restored\'')  # noqa: S608
        struck = native.now()
        told.wait(Lost, since=struck)
        assert native.now() - struck < PERIOD + SLACK
        assert lease.lost is LossReason.STORE_LOST
        with client.lock("n") as successor:
            assert successor.token > lease.token


def test_a_disk_that_is_full_is_a_typed_error_and_is_over_when_there_is_room(schema: str) -> None:
    url = f"?schema={schema}&create=yes"
    with PostgresServer(file_most=2 << 20) as server, Client(server.url + url, ttl=30.0) as client:
        lease = client.lock("kept").acquire()
        error: TenureError | None = None
        leases = []
        for number in range(5000):
            try:
                leases.append(client.lock(f"n{number}", info="x" * 1000).acquire())
            except TenureError as caught:
                error = caught
                break
        print(f"after {len(leases)} claims: {error!r}")
        assert isinstance(error, StoreUnavailable)
        assert "could not extend file" in str(error)
        # What is held needs no new page.
        assert lease.held
        leases.pop().release()
        server.file_most = 0
        server.restart()
        with client.lock("after", wait=10):
            pass
        lease.release()
        assert all(each.held for each in leases)
        client.close()


# -- neighbours -------------------------------------------------------------------------------------------------------


def test_a_stranger_on_one_name_disturbs_no_other_and_no_lease(url: str, server: PostgresServer, schema: str) -> None:
    told = Told()
    with Client(url, ttl=TTL, on_event=told) as client:
        lease = client.lock("n").acquire()
        other = client.lock("other").acquire()
        with locked(server, schema, "names", "tenure:n"):
            begun = native.now()
            with pytest.raises(StoreUnavailable, match="locked"):
                client.lock("n", shared=True, wait=5).try_acquire()
            assert native.now() - begun < PATIENCE + SLACK
            told.wait(Renewed, since=native.now())
            told.wait(Renewed, since=native.now())
            other.release()
            assert lease.held
        lease.release()
        assert client.names() == []


def test_a_stranger_on_our_session_costs_the_lease_at_its_deadline(
    url: str, server: PostgresServer, schema: str
) -> None:
    told = Told()
    with Client(url, ttl=TTL, on_event=told) as client:
        lease = client.lock("n").acquire()
        ((session,),) = server.run(f'SELECT id FROM "{schema}".sessions')  # noqa: S608 - a test's words
        with locked(server, schema, "sessions", session):
            told.wait(Suspect)
            lost_at = told.wait(Lost)
            assert lease.lost is LossReason.DEADLINE
            assert lost_at < lease.deadline + Bound(0.1)
        with client.lock("n", wait=10) as successor:
            assert successor.token > lease.token


def test_a_name_whose_closing_is_stuck_drops_no_other_lease(url: str, server: PostgresServer, schema: str) -> None:
    """One stuck row must not drop ten thousand leases (B2)."""
    with Client(url, ttl=0.6) as client:
        stuck = client.lock("n").acquire()
        kept = client.lock("kept").acquire()
        with locked(server, schema, "names", "tenure:n"):
            stuck.release()
            end = native.now() + 2.5
            until(lambda: native.now() > end, "four ttls are over")
            assert kept.held
            with client.lock("another", wait=5) as later:
                assert later.held
        kept.release()
        until(lambda: client.names() == [], "nothing is left")


# -- the clock --------------------------------------------------------------------------------------------------------


@pytest.fixture
def moved() -> Iterator[PostgresServer]:
    if reason := clock.missing():
        pytest.skip(reason)
    with PostgresServer(clock=True) as server:
        yield server


def test_a_clock_set_forward_ends_sessions_and_their_holders_are_told(moved: PostgresServer) -> None:
    told = Told()
    url = f"{moved.url}?create=yes"
    with Client(url, ttl=TTL, on_event=told) as client, Client(url, ttl=LONG) as other:
        lease = client.lock("n").acquire()
        struck = native.now()
        moved.clock.jump(3600.0)
        successor = other.lock("n", wait=10).acquire()
        assert successor.token > lease.token
        told.wait(Lost, since=struck)
        assert native.now() - struck < PERIOD + SLACK
        assert lease.lost is LossReason.SESSION_ENDED


def test_a_clock_set_back_ends_no_lease_and_no_token_falls(moved: PostgresServer) -> None:
    told = Told()
    url = f"{moved.url}?create=yes"
    with Client(url, ttl=TTL, on_event=told) as client:
        lease = client.lock("n").acquire()
        struck = native.now()
        moved.clock.jump(-3600.0)
        told.wait(Renewed, since=struck)
        assert lease.held
        lease.release()
        with client.lock("n") as again:
            assert again.token > lease.token


def test_a_session_that_was_seen_to_end_stays_ended_when_the_clock_is_set_back(moved: PostgresServer) -> None:
    told = Told()
    url = f"{moved.url}?create=yes"
    with Client(url, ttl=TTL, on_event=told) as client, Client(url, ttl=LONG) as other:
        lease = client.lock("n", lock_delay=0.0).acquire()
        moved.clock.jump(60.0)
        with other.lock("n", wait=10) as successor:
            moved.clock.jump(-60.0)
            told.wait(Lost)
            assert lease.lost is LossReason.SESSION_ENDED
            assert [c.token for c in other.inspect("n").holders] == [successor.token]


# -- rights -----------------------------------------------------------------------------------------------------------


def test_a_client_needs_usage_of_the_schema_and_nothing_else(server: PostgresServer, schema: str, url: str) -> None:
    app = server.url_as(f"app_{schema}") + f"?schema={schema}"
    server.run(f"CREATE ROLE app_{schema} LOGIN")
    Client(url).migrate()
    with pytest.raises(TenureError, match="GRANT USAGE ON SCHEMA"), Client(app) as client:
        client.lock("n").acquire()
    server.run(f"GRANT USAGE ON SCHEMA {schema} TO app_{schema}")
    with Client(app, ttl=TTL) as client, Client(app) as other:
        lease = client.lock("n", lock_delay=0.1).acquire()
        waiting: Attempt[Any] = Attempt(other.lock("n", wait=10).acquire)
        waits(client, "n")
        assert client.steal("n", lease.token)
        waiting.outcome().release()
        with client.semaphore("s", 2):
            pass
        assert {f.name: f.grade for f in client.doctor().findings}["schema"] == 0
    with (
        psycopg.connect(server.url_as(f"app_{schema}")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(f'DELETE FROM "{schema}".claims'.encode())  # noqa: S608 - a test's words


def test_a_fleet_that_creates_its_schema_at_once_makes_one(server: PostgresServer, url: str) -> None:
    def opened() -> str:
        with Client(url) as client, client.lock("n", wait=20) as lease:
            return lease.grant.authority

    attempts = [Attempt(opened) for _ in range(8)]
    assert len({attempt.outcome() for attempt in attempts}) == 1
