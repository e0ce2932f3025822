"""Strangers that lock a row of ours, and a row that is stuck: the others go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tenure import Client, LossReason, StoreUnavailable
from tenure.observe.events import Lost, Renewed, Suspect
from tenure.runtimes import native
from tests.faces.watched import Told
from tests.postgres.rig import PATIENCE, TTL, locked
from tests.servers import postgres
from tests.servers.processes import until
from tests.timing import SLACK, Bound

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing()))


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
