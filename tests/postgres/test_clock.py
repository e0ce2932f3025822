"""The server's clock, set forward and back while somebody holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tenure import Client, LossReason
from tenure.observe.events import Lost, Renewed
from tenure.runtimes import native
from tests.faces.watched import Told
from tests.postgres.rig import LONG, PERIOD, TTL
from tests.servers import clock, postgres
from tests.servers.postgres import PostgresServer
from tests.timing import SLACK

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing()))


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
