"""A network that fails between a client and a real server: every call ends in a grant or a typed error, never a guess.

Nothing is held after an error once the keeper has paid; a lost connection is not a lost lease.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from tenure import AcquireTimeout, Client, LossReason, OutcomeUnknown, StoreUnavailable
from tenure.engines.etcd import store as store_module
from tenure.engines.etcd.mailbox import EtcdMailbox
from tenure.observe.events import Lost
from tenure.runtimes import native
from tests.etcd.rig import fresh, hears, through, waits
from tests.faces.watched import Attempt, Looped, Told, has_paid
from tests.servers import etcd
from tests.servers.etcd import EtcdServer
from tests.servers.processes import until
from tests.servers.proxy import Proxy
from tests.timing import SLACK, Bound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faces.watched import AnyClient

pytestmark = pytest.mark.skipif(etcd.missing() is not None, reason=etcd.missing() or "")

TTL: Final = 3.0
PERIOD: Final = TTL / 3
PATIENCE: Final = TTL / 6
LONG: Final = 60.0
"""A ttl that no test outlasts."""


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
def url(server: EtcdServer) -> str:
    return fresh(server.url)


@pytest.fixture
def proxy(server: EtcdServer) -> Iterator[Proxy]:
    with Proxy(server.address) as proxy:
        yield proxy


@pytest.fixture
def witness(url: str) -> Iterator[Client]:
    """A client whose network is sound."""
    with Client(url, ttl=LONG) as client:
        yield client


@pytest.fixture(params=[Client, Looped])
def client(request: pytest.FixtureRequest, url: str, proxy: Proxy) -> Iterator[AnyClient]:
    """A client behind the proxy, blocking or asyncio, with its connections made."""
    with request.param(through(proxy, url), ttl=TTL) as client:
        client.lock("warm").acquire().release()
        yield client
        proxy.heal()


# -- faults that pass -------------------------------------------------------------------------------------------------


def test_a_try_after_all_connections_were_closed_is_answered(client: AnyClient, proxy: Proxy) -> None:
    """As a server closes idle connections, or a balancer on the way does."""
    proxy.cut("fin")
    if isinstance(client, Looped):
        wire: Any = client._core.store
        until(lambda: wire._ask._wire._pipe is None, "the loop has noticed")
    time.sleep(0.15)  # a connection in steady use is not looked at
    lease = client.lock("n").try_acquire()
    assert lease is not None
    lease.release()


def has_had(server: EtcdServer, url: str, before: int) -> bool:
    """Whether a claim for "n" stood there at some revision after that, whatever has become of it."""
    claims = ("get", "--prefix", "--keys-only", f"{url.rpartition('/')[2]}/tenure/c/n")
    return any(server.ctl(*claims, f"--rev={number}").strip() for number in range(before + 1, server.revision() + 1))


# -- faults that stay -------------------------------------------------------------------------------------------------


def test_an_acquire_that_is_never_answered_is_unknown_and_nothing_is_left_of_it(
    client: AnyClient, witness: Client, proxy: Proxy, server: EtcdServer, url: str
) -> None:
    proxy.drop("replies")
    before = server.revision()
    with pytest.raises((OutcomeUnknown, StoreUnavailable)) as raised:
        client.lock("n", wait=0.5).acquire()
    assert raised.type is OutcomeUnknown
    # Not a guess: the store did get it; the keeper, whose requests pass, may have closed it since.
    assert has_had(server, url, before)
    proxy.heal()
    until(lambda: has_paid(client), "the keeper has paid")
    assert witness.names() == []


def test_a_slow_way_to_the_server_never_hides_the_deadline(url: str, proxy: Proxy) -> None:
    """Connecting and the heartbeat share the time of one request."""
    told = Told()
    with Client(through(proxy, url), ttl=TTL, on_event=told) as client:
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


# -- while waiting ----------------------------------------------------------------------------------------------------


def test_an_end_that_is_lost_on_its_way_is_seen_after_reconnecting(
    client: AnyClient, witness: Client, server: EtcdServer, proxy: Proxy
) -> None:
    """Watched again from the revision at which it was seen, so the end that nobody has heard of is told again."""
    held = witness.lock("n").acquire()
    attempt: Attempt[Any] = Attempt(client.lock("n", wait=20).acquire)
    waits(witness, "n")
    hears(server, 2)
    proxy.drop("replies")
    held.release()
    until(lambda: proxy.dropped["replies"], "the end is lost")
    proxy.heal()
    proxy.cut()
    begun = native.now()
    lease = attempt.outcome()
    print(f"granted {attempt.ended_at - begun:.3f} s after the cut")
    assert attempt.ended_at - begun < SLACK
    lease.release()


def test_a_silent_connection_is_given_up(
    url: str, witness: Client, server: EtcdServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half-open: nothing comes, nothing fails; the server is asked now and then whether it is there."""
    monkeypatch.setattr("tenure.engines.etcd.mailbox.PING_S", 0.5)
    monkeypatch.setattr("tenure.engines.etcd.mailbox.SILENCE_S", 0.3)
    with Client(through(proxy, url), ttl=LONG) as client:
        client.lock("warm").acquire().release()
        held = witness.lock("n").acquire()
        attempt: Attempt[Any] = Attempt(client.lock("n", wait=20).acquire)
        waits(witness, "n")
        hears(server, 2)
        proxy.drop("replies")
        held.release()
        until(lambda: proxy.dropped["replies"], "the end is lost")
        proxy.heal()
        begun = native.now()
        lease = attempt.outcome()
        assert attempt.ended_at - begun < 0.5 + 0.3 + 1.0 + SLACK
        lease.release()


def test_positive_control_a_mailbox_that_never_asks_leaves_the_waiter_waiting(
    url: str, witness: Client, server: EtcdServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenure.engines.etcd.mailbox.PING_S", 1e9)
    with Client(through(proxy, url), ttl=LONG) as client:
        client.lock("warm").acquire().release()
        held = witness.lock("n").acquire()
        attempt: Attempt[Any] = Attempt(client.lock("n", wait=2.5).acquire)
        waits(witness, "n")
        hears(server, 2)
        proxy.drop("replies")
        held.release()
        until(lambda: proxy.dropped["replies"], "the end is lost")
        proxy.heal()
        assert isinstance(attempt.end(), AcquireTimeout)


def test_a_waiter_looks_now_and_then_though_nothing_is_heard(
    url: str, witness: Client, server: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "LOOK_S", 0.4)
    monkeypatch.setattr(EtcdMailbox, "_watched", lambda self, raw: None)
    with Client(url, ttl=LONG) as client:
        held = witness.lock("n").acquire()
        attempt: Attempt[Any] = Attempt(client.lock("n", wait=20).acquire)
        waits(witness, "n")
        held.release()
        begun = native.now()
        attempt.outcome().release()
        assert attempt.ended_at - begun < 0.4 + SLACK


def test_a_waiter_whose_session_ended_asks_again_and_never_gets_the_lock_of_the_dead_one(
    url: str, witness: Client, proxy: Proxy
) -> None:
    """As v3lock did: it answered a waiter whose lease had been over for seconds, and a third got the lock too (A3)."""
    told = Told()
    with Client(through(proxy, url), ttl=1, on_event=told) as client:
        client.lock("warm").acquire().release()
        held = witness.lock("n").acquire()
        attempt: Attempt[Any] = Attempt(client.lock("n", wait=30).acquire)
        waits(witness, "n")
        first = witness.inspect("n").waiters[0].token
        proxy.hold()
        until(lambda: not witness.inspect("n").waiters, "its session has ended while it was cut off")
        held.release()
        third = witness.lock("n").acquire()
        proxy.heal()
        # It asks again, at the end of the queue, and holds nothing until the third has let go.
        waits(witness, "n")
        assert not attempt.ended_at
        third.release()
        lease = attempt.outcome()
        assert lease.token > third.token > first
        lease.release()
