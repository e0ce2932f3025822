"""Servers that are stopped, killed, restarted, put back or full: what it costs a lease, and what a waiter."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import pytest

from tenure import Client, LossReason, StoreUnavailable, TenureError
from tenure.observe.events import Lost, Renewed, Suspect
from tenure.runtimes import native
from tests.faces.watched import Attempt, Looped, Told, waits
from tests.postgres.rig import LONG, PERIOD, TTL, listens
from tests.servers import postgres
from tests.servers.postgres import PostgresServer
from tests.timing import SLACK, Bound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing()))


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
