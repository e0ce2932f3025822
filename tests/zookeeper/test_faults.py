"""A network that fails between a client and a real server: every call ends in a grant or a typed error, never a guess.

Nothing is held after an error once the keeper has paid; a lost connection is not a lost lease.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Final

import pytest

from tenure import Client, LossReason, OutcomeUnknown, StoreUnavailable
from tenure.engines.zookeeper import hub, jute, link, store
from tenure.model import LeaseState
from tenure.observe.events import Lost, Suspect
from tenure.runtimes import native
from tests.faces.watched import warm
from tests.servers import zookeeper
from tests.servers.processes import until
from tests.servers.proxy import Proxy
from tests.servers.zookeeper import ZooKeeperServer
from tests.timing import SLACK, Bound
from tests.zookeeper.rig import LONG, TTL, Attempt, Hand, Looped, Told, has_paid, through, waits, watch
from tests.zookeeper.rig import url as url_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faces.watched import AnyClient

pytestmark = pytest.mark.skipif(zookeeper.missing() is not None, reason=zookeeper.missing() or "")

PERIOD: Final = TTL / 6
PATIENCE: Final = TTL / 6


@pytest.fixture
def proxy(server: ZooKeeperServer) -> Iterator[Proxy]:
    with Proxy(server.address) as proxy:
        yield proxy


@pytest.fixture
def witness(server: ZooKeeperServer) -> Iterator[Client]:
    """A client whose network is sound."""
    with Client(url_of(server), ttl=LONG) as client:
        yield client
        until(lambda: not client.names(), "nothing is left behind")


@pytest.fixture(params=[Client, Looped])
def client(
    request: pytest.FixtureRequest, server: ZooKeeperServer, witness: Client, proxy: Proxy
) -> Iterator[AnyClient]:
    """A client behind the proxy, blocking or asyncio, with its connection made."""
    with request.param(through(proxy, server), ttl=TTL) as client:
        warm(client)
        yield client
        proxy.heal()


# -- faults that pass -------------------------------------------------------------------------------------------------


def test_a_create_whose_reply_was_lost_is_found_and_not_sent_again(
    client: AnyClient, witness: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    create = jute.create

    def counted(path: str, *arguments: Any) -> jute.Request:
        if "/queues/n/" in path:
            made.append(path)
        return create(path, *arguments)

    monkeypatch.setattr(jute, "create", counted)
    client.lock("n").acquire().release()
    made.clear()
    proxy.drop("replies")
    attempt: Attempt[Any] = Attempt(client.lock("n", wait=10).acquire)
    until(lambda: witness.inspect("n").holders, "the server has it")
    proxy.heal()
    lease = attempt.outcome()
    assert [c.token for c in witness.inspect("n").holders] == [lease.token]
    assert len(made) == 1
    lease.release()


def test_positive_control_without_the_search_a_lost_reply_leaves_two_claims(
    server: ZooKeeperServer, witness: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant sends the enqueue again: its first claim is in front of the second, and blocks it."""

    async def enter(self: Any, entry: Any, timeout: float) -> Any:
        return await original(self, entry._replace(again=False), timeout)

    original = store.ZooKeeperStore.enter
    monkeypatch.setattr(store.ZooKeeperStore, "enter", enter)
    with Client(through(proxy, server), ttl=TTL) as client:
        client.lock("n").acquire().release()
        proxy.drop("replies")
        attempt: Attempt[Any] = Attempt(client.lock("n", wait=1.5).acquire)
        until(lambda: witness.inspect("n").holders, "the server has it")
        proxy.heal()
        until(lambda: len(witness.inspect("n").waiters) == 1, "it waits for itself")
        attempt.end()


# -- faults that stay -------------------------------------------------------------------------------------------------


def test_an_acquire_that_is_never_answered_is_unknown_and_nothing_is_left_of_it(
    client: AnyClient, witness: Client, proxy: Proxy, server: ZooKeeperServer
) -> None:
    client.lock("n").acquire().release()
    hand = Hand(url_of(server))
    queue = jute.exists(f"{hand.tree()}/queues/n")
    [before] = hand.ask(queue)
    proxy.drop("replies")
    with pytest.raises(OutcomeUnknown):
        client.lock("n", wait=0.5).acquire()
    # Not a guess: the store did get it, and its queue was changed; the keeper, whose requests pass, may have closed it.
    [after] = hand.ask(queue)
    assert after.pzxid > before.pzxid
    hand.close()
    proxy.heal()
    until(lambda: has_paid(client), "the keeper has paid")
    assert witness.names() == []


def test_a_slow_way_to_the_server_never_hides_the_deadline(server: ZooKeeperServer, proxy: Proxy) -> None:
    told = Told()
    with Client(through(proxy, server), ttl=TTL, on_event=told) as client:
        lease = client.lock("n").acquire()
        proxy.delay(PATIENCE * 1.2)
        proxy.cut()
        lost_at = told.wait(Lost)
        assert lease.lost is LossReason.DEADLINE
        assert lease.deadline <= lost_at < lease.deadline + Bound(0.1)
        proxy.heal()
        proxy.cut()


def test_a_session_that_ended_is_told_and_what_follows_is_a_new_one(
    server: ZooKeeperServer, witness: Client, proxy: Proxy
) -> None:
    """Lost stays lost after reconnecting, and the old claim, should it still be there, is nobody's."""
    told = Told()
    with Client(through(proxy, server), ttl=TTL, on_event=told) as client:
        lease = client.lock("n").acquire()
        waiting: Attempt[Any] = Attempt(witness.lock("n", wait=20).acquire)
        waits(witness, "n")
        proxy.hold()
        told.wait(Lost)
        # The network comes back before the server has ended the session: it is over for us all the same.
        assert not waiting.ended_at
        proxy.heal()
        mine: Attempt[Any] = Attempt(client.lock("n", wait=20).acquire)
        theirs = waiting.outcome()
        assert theirs.token > lease.token
        assert lease.state is LeaseState.LOST
        assert not lease.held
        theirs.hand_over()
        theirs.release()
        again = mine.outcome()
        again.hand_over()
        assert again.token > theirs.token
        mine_now, mine_then = again._claim, lease._claim
        assert mine_now is not None
        assert mine_then is not None
        assert mine_now.session is not mine_then.session
        again.release()
        assert lease.lost is LossReason.DEADLINE


# -- while waiting ----------------------------------------------------------------------------------------------------


def test_a_watch_that_is_lost_on_its_way_is_made_good_with_the_next_connection(
    client: AnyClient, witness: Client, proxy: Proxy
) -> None:
    held = witness.lock("n").acquire()
    attempt: Attempt[Any] = Attempt(client.lock("n", wait=20).acquire)
    waits(witness, "n")
    proxy.drop("replies")
    begun = native.now()
    held.release()
    until(lambda: proxy.dropped["replies"], "the grant is lost")
    proxy.heal()
    lease = attempt.outcome()
    assert attempt.ended_at - begun < PERIOD + 2 * PATIENCE + SLACK
    lease.release()


def test_positive_control_a_client_that_does_not_look_after_reconnecting_waits_on(
    server: ZooKeeperServer, witness: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.Hub, "_returned", lambda self, link: None)
    with Client(through(proxy, server), ttl=10) as client:
        held = witness.lock("n").acquire()
        attempt: Attempt[Any] = Attempt(client.lock("n", wait=1.5).acquire)
        watch(server, url_of(server), 1)
        proxy.cut()
        until(lambda: proxy.connections, "it is back")
        held.release()
        assert isinstance(attempt.end(), TimeoutError)


def test_a_waiter_that_is_cut_off_past_its_ttl_asks_again_at_the_end(
    server: ZooKeeperServer, witness: Client, proxy: Proxy
) -> None:
    with Client(through(proxy, server), ttl=TTL) as client, Client(url_of(server), ttl=LONG) as third:
        held = witness.lock("n").acquire()
        first: Attempt[Any] = Attempt(client.lock("n", wait=20).acquire)
        waits(witness, "n")
        place = witness.inspect("n").waiters[0].token
        second: Attempt[Any] = Attempt(third.lock("n", wait=20).acquire)
        waits(witness, "n", 2)
        proxy.hold()
        until(lambda: place not in [c.token for c in witness.inspect("n").waiters], "its session has ended")
        proxy.heal()
        waits(witness, "n", 2)
        held.release()
        other = second.outcome()
        other.hand_over()
        other.release()
        lease = first.outcome()
        lease.hand_over()
        assert lease.token > other.token > place
        lease.release()


# -- the only server --------------------------------------------------------------------------------------------------


def test_a_stopped_server_costs_the_lease_at_its_deadline_and_grants_a_larger_token_afterwards() -> None:
    told = Told()
    with (
        ZooKeeperServer() as server,
        Client(url_of(server), ttl=TTL, on_event=told) as client,
        Client(url_of(server), ttl=LONG) as other,
    ):
        lease = client.lock("n").acquire()
        waiting: Attempt[Any] = Attempt(other.lock("n", wait=20).acquire)
        waits(client, "n")
        server.stop()
        try:
            told.wait(Suspect)
            assert lease.held
            lost_at = told.wait(Lost)
            assert lease.lost is LossReason.DEADLINE
            assert lease.deadline <= lost_at < lease.deadline + Bound(0.1)
            assert not waiting.ended_at
        finally:
            server.cont()
        successor = waiting.outcome()
        successor.hand_over()
        assert successor.token > lease.token
        assert [c.token for c in other.inspect("n").holders] == [successor.token]
        successor.release()


def test_kill_9_of_the_only_server_and_its_restart_cost_no_lease_and_tokens_rise() -> None:
    with ZooKeeperServer() as server, Client(url_of(server), ttl=20) as client, Client(url_of(server), ttl=20) as other:
        lease = client.lock("n").acquire()
        waiting: Attempt[Any] = Attempt(other.lock("n", wait=30).acquire)
        waits(client, "n")
        tokens = [lease.token]
        for _ in range(2):
            server.restart()
            assert lease.state is LeaseState.HELD
            assert not waiting.ended_at
            with client.lock("again", wait=10) as again:
                tokens.append(again.token)
        lease.release()
        successor = waiting.outcome()
        successor.hand_over()
        assert lease.token < successor.token < tokens[1], "its claim was there before"
        assert tokens == sorted(set(tokens))
        successor.release()


def mute_first(proxy: Proxy) -> None:
    """The next connection is taken and never answered, as by a server that starts; those after it are."""
    until(lambda: proxy.held("requests"), "somebody dials")
    proxy.forget()
    proxy.let_go()


@pytest.mark.parametrize("is_new", [True, False], ids=["its first", "one after a cut"])
def test_a_connection_that_a_starting_server_never_answers_costs_half_a_second(
    server: ZooKeeperServer, proxy: Proxy, is_new: bool
) -> None:
    with Client(through(proxy, server), ttl=LONG) as client:
        if not is_new:
            warm(client)
        proxy.hold()
        proxy.cut()
        begun = native.now()
        attempt: Attempt[Any] = Attempt(client.lock("n", wait=10).acquire)
        mute_first(proxy)
        attempt.outcome().release()
        assert native.now() - begun < link.DIAL_LEAST_S + SLACK


def test_positive_control_a_client_that_waits_for_that_answer_reaches_no_store(
    server: ZooKeeperServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link.Link, "_dial_s", 2.0)
    with Client(through(proxy, server), ttl=6 * 2.0) as client:
        proxy.hold()
        attempt: Attempt[Any] = Attempt(client.lock("n", wait=10).acquire)
        mute_first(proxy)
        attempt.end()
        assert isinstance(attempt.error, StoreUnavailable)


def test_a_server_that_takes_longer_than_that_has_longer_in_the_next_round(
    server: ZooKeeperServer, proxy: Proxy
) -> None:
    proxy.delay(link.DIAL_LEAST_S + 0.1, "replies")
    with Client(through(proxy, server), ttl=LONG) as client:
        client.open()
        proxy.heal()


def test_a_server_that_was_wiped_is_another_store_and_the_holder_is_told() -> None:
    told = Told()
    with ZooKeeperServer() as server, Client(url_of(server), ttl=6, on_event=told) as client:
        lease = client.lock("n").acquire()
        before = lease.grant.authority
        server.kill()
        shutil.rmtree(server.data)
        server.start()
        told.wait(Lost)
        assert lease.lost in (LossReason.STORE_LOST, LossReason.SESSION_ENDED, LossReason.DEADLINE)
        with Client(url_of(server), ttl=6) as other, other.lock("n", wait=10) as again:
            assert again.grant.authority != before


def test_a_session_for_questions_that_was_slow_to_open_is_not_closed_between_two_of_them(
    server: ZooKeeperServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first answer comes later than the session may idle, as after a handshake on a busy host.
    monkeypatch.setattr(hub, "SPARE_IDLE_S", 0.1)
    proxy.delay(0.1)
    for number in range(3):
        with Client(through(proxy, server), ttl=LONG, namespace=f"slow-{number}") as client:
            assert client.names() == []
    proxy.heal()
