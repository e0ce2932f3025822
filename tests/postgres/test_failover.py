"""A fail-over to a standby: who is told what, and whether tokens rise."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tenure import Client, LossReason, OutcomeUnknown, StoreUnavailable, UnsafeSetup
from tenure.findings import Grade
from tenure.observe.events import Lost, Renewed, Suspect
from tenure.runtimes import native
from tests.faces.watched import Attempt, Looped, Told, waits
from tests.postgres.connections import Blocking
from tests.postgres.pair import Pair
from tests.servers import clock
from tests.servers import postgres as servers
from tests.servers.processes import HOST
from tests.timing import SLACK

pytestmark = pytest.mark.skipif(
    (servers.missing() or clock.missing()) is not None, reason=str(servers.missing() or clock.missing())
)

TTL = 18.0
"""Three times as long as a promotion takes on a busy machine."""

HOUR = 3600.0


@pytest.mark.parametrize("face", [Client, Looped])
def test_a_synchronous_fail_over_costs_no_lease_and_no_waiter(face: Any) -> None:
    told = Told()
    with (
        Pair(synchronous=True) as pair,
        Client(f"{pair.url}?create=yes", ttl=TTL, on_event=told) as client,
        face(pair.url, ttl=TTL) as other,
    ):
        lease = client.lock("n").acquire()
        waiting: Attempt[Any] = Attempt(other.lock("n", wait=60).acquire)
        waits(client, "n")
        pair.fail_over()
        told.wait(Renewed, since=native.now())
        assert lease.held
        assert client.lock("n", shared=True).try_acquire() is None
        lease.release()
        assert waiting.outcome().token > lease.token
        waiting.outcome().release()


def test_an_asynchronous_fail_over_that_lost_a_grant_tells_its_holder_with_the_next_heartbeat() -> None:
    told = Told()
    with Pair(synchronous=False) as pair, Client(f"{pair.url}?create=yes", ttl=TTL, on_event=told) as client:
        kept = client.lock("kept").acquire()
        pair.caught_up()
        pair.cut()
        lease = client.lock("n").acquire()
        pair.fail_over()
        told.wait(Lost)
        assert lease.lost is LossReason.STORE_LOST
        assert kept.held
        with Client(pair.url) as other, other.lock("n").acquire() as successor:
            assert successor.token > lease.token, "the clock reads more than the token that was lost"


def test_a_fail_over_while_the_standby_is_cut_off_is_told_at_the_deadline() -> None:
    """Nothing is granted, and no lease extended, that the standby does not have."""
    told = Told()
    with Pair(synchronous=True) as pair, Client(f"{pair.url}?create=yes", ttl=1.5, on_event=told) as client:
        lease = client.lock("n").acquire()
        pair.cut()
        struck = native.now()
        with pytest.raises(OutcomeUnknown):
            client.lock("m").acquire(wait=0.5)
        told.wait(Suspect, since=struck)
        lost_at = told.wait(Lost)
        assert lease.lost is LossReason.DEADLINE
        assert lost_at < lease.deadline + SLACK
        pair.between.accept()
        pair.follows()
        for name in ("n", "m"):
            with client.lock(name, wait=30) as successor:
                assert successor.token > lease.token


# -- tokens -----------------------------------------------------------------------------------------------------------


def tokens(pair: Pair, *, loses: bool = False, options: str = "") -> tuple[int, int]:
    """The last token before a fail-over, perhaps lost with it, and the first after it by a clock that is behind."""
    with Client(f"{pair.url}?create=yes{options}", ttl=TTL) as client:
        client.lock("n").acquire().release()
        pair.caught_up()
        if loses:
            pair.cut()
        lease = client.lock("n").acquire()
        before = lease.token
        lease.release()
    pair.fail_over()
    with Client(f"{pair.url}?{options[1:]}", ttl=TTL) as client, client.lock("n", wait=30) as successor:
        return before, successor.token


def test_tokens_rise_over_a_synchronous_fail_over_whatever_the_clock_says() -> None:
    with Pair(synchronous=True, behind=HOUR) as pair:
        before, after = tokens(pair)
        assert after > before


def test_positive_control_over_an_asynchronous_one_they_fall_if_the_clock_is_behind() -> None:
    with Pair(synchronous=False, behind=HOUR) as pair:
        before, after = tokens(pair, loses=True)
        assert after < before


def test_a_ceiling_that_the_standby_has_keeps_them_rising_where_commits_wait_for_nobody() -> None:
    """Also those that the standby never got: they stay below the ceiling (B7)."""
    with Pair(synchronous=True, behind=HOUR) as pair:
        before, after = tokens(pair, loses=True, options="&synchronous_commit=off")
        assert after > before


def test_the_number_of_a_transaction_is_as_durable_as_its_commit() -> None:
    with Pair(synchronous=True, behind=HOUR) as pair:
        Client(pair.url).migrate()
        with Blocking(pair.primary.url) as own:
            before = own.hold("n").token
            own.commit()
        pair.fail_over()
        with Blocking(pair.standby.url) as own:
            assert own.hold("n").token > before


# -- who is asked -----------------------------------------------------------------------------------------------------


def test_of_several_hosts_the_primary_is_found_and_what_it_means_is_told() -> None:
    with Pair(synchronous=False, fsync=True) as pair:
        first, second = (f"{HOST}:{server.port}" for server in (pair.primary, pair.standby))
        backwards = pair.url.replace(f"{first},{second}", f"{second},{first}")
        Client(pair.url).migrate()
        with Client(backwards) as client, client.lock("n"):
            assert grade(backwards, "replication") is Grade.WARNING
            assert grade(backwards, "role") is Grade.OK
        with (  # the control: the first that answers
            pytest.raises(StoreUnavailable, match="no writes"),
            Client(f"{backwards}?target_session_attrs=any") as client,
        ):
            client.lock("n").acquire()
        with pytest.raises(UnsafeSetup, match="synchronous_standby_names"):
            Client(backwards, require={"durable_tokens"}).open()
        pair.primary.run("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        pair.primary.run("SELECT pg_reload_conf()")
        assert grade(pair.url, "replication") is Grade.OK
        with Client(pair.url, require={"durable_tokens"}) as client:
            client.lock("n").acquire().release()
        pair.caught_up()
        with pytest.raises(StoreUnavailable, match="no writes"), Client(pair.standby.url) as client:
            client.lock("n").acquire()
        assert grade(pair.standby.url, "role") is Grade.DANGER
        with Blocking(pair.standby.url) as own, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            own.hold("n")


def grade(url: str, name: str) -> Grade:
    return next(finding.grade for finding in Client(url).doctor().findings if finding.name == name)
