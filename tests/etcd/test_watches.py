"""Who is woken by what: no end is missed, nobody is woken for nothing, and no watch stays behind."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

import pytest

from tenure import AcquireTimeout, Client
from tenure.engines.etcd import mailbox
from tenure.engines.etcd.mailbox import EtcdMailbox
from tenure.engines.etcd.watches import LATE_S, Waiter, Wanted, Watches, address, from_address
from tenure.model import Instant
from tenure.runtimes import native
from tests.etcd.rig import fresh, waits
from tests.faces.watched import Attempt
from tests.servers import etcd
from tests.servers.etcd import EtcdServer
from tests.servers.processes import until
from tests.timing import SLACK, in_time

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_etcd = pytest.mark.skipif(etcd.missing() is not None, reason=etcd.missing() or "")

ONE, TWO = Waiter("s", 1), Waiter("s", 2)
NOW = Instant(100.0)
DUE = Instant(NOW + LATE_S)


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
def url(server: EtcdServer) -> str:
    return fresh(server.url)


def test_an_address_says_who_watches_what_whatever_the_name() -> None:
    for name in ("n", "a b", "é/\U0001f512", "a\0b"):
        key = f"tenure/x/c/{name}\0s/7".encode()
        for behind in (False, True):
            assert from_address(address(ONE, 5, key, behind)) == (ONE, Wanted(key, 5, waits=behind))


def test_a_key_is_watched_once_and_until_nobody_wants_it() -> None:
    watches = Watches()
    assert watches.set(ONE, [Wanted(b"k", 5)]) == (True, False)
    assert watches.set(TWO, [Wanted(b"k", 6)]) == (False, False)
    assert watches.changes() == [(b"k", Wanted(b"k", 5))]
    watches.drop(ONE)
    assert watches.changes() == []
    watches.drop(TWO)
    assert watches.changes() == [(b"k", None)]
    assert watches.is_empty


def test_who_has_seen_it_before_the_watch_began_looks_again() -> None:
    watches = Watches()
    watches.set(ONE, [Wanted(b"k", 5)])
    assert watches.began(b"k", 5, NOW) == []
    assert watches.set(TWO, [Wanted(b"k", 5)]) == (False, False)
    watches = Watches()
    watches.set(ONE, [Wanted(b"k", 5)])
    assert watches.began(b"k", 6, NOW) == [ONE]
    # One that joins it with an even older sight is told at once; one that has seen it since is not.
    assert watches.set(TWO, [Wanted(b"k", 5)]) == (False, True)
    assert watches.set(TWO, [Wanted(b"k", 6)]) == (False, False)


def test_who_is_behind_a_waiter_looks_again_only_if_it_still_waits_after_a_while() -> None:
    watches = Watches()
    watches.set(ONE, [Wanted(b"k", 5, waits=True)])
    watches.set(TWO, [Wanted(b"l", 5, waits=True), Wanted(b"m", 5, waits=True)])
    assert watches.late_at() is None
    for key in (b"k", b"l", b"m"):
        assert watches.began(key, 6, NOW) == []
    assert watches.late_at() == DUE
    assert watches.late(NOW) == []
    # Whoever has been told of the end, or waits no longer, has no need to look.
    assert watches.fire(b"k") == [ONE]
    assert watches.late(DUE) == [TWO, TWO]
    assert watches.late_at() is None
    assert watches.began(b"l", 6, NOW) == []
    watches.drop(TWO)
    assert watches.late_at() is None
    assert watches.late(DUE) == []


def test_who_has_seen_it_since_has_no_need_to_look_again() -> None:
    watches = Watches()
    watches.set(ONE, [Wanted(b"k", 6, waits=True)])
    assert watches.began(b"k", 6, NOW) == []
    assert watches.late_at() is None


def test_what_has_fired_is_asked_for_anew() -> None:
    watches = Watches()
    watches.set(ONE, [Wanted(b"k", 5), Wanted(b"l", 5)])
    watches.set(TWO, [Wanted(b"k", 5)])
    watches.changes()
    assert set(watches.fire(b"k")) == {ONE, TWO}
    assert watches.fire(b"k") == []
    assert watches.changes() == [], "what is gone tells nothing more"
    assert watches.set(ONE, [Wanted(b"l", 7)]) == (False, False)
    assert watches.set(TWO, [Wanted(b"k", 7)]) == (True, False)
    watches.set(ONE, [Wanted(b"s", 7, puts=True)])
    watches.changes()
    assert watches.fire(b"s") == [ONE]
    assert watches.changes() == [(b"s", None)], "what was only written is told of again"


def test_a_new_connection_asks_for_everything() -> None:
    watches = Watches()
    watches.set(ONE, [Wanted(b"k", 5), Wanted(b"s", 5, puts=True)])
    watches.began(b"k", 9, NOW)
    assert {wanted.key for wanted in watches.everything()} == {b"k", b"s"}
    assert watches.changes() == []
    assert watches.set(TWO, [Wanted(b"k", 5)]) == (False, False), "what the old connection said counts no more"
    watches.set(ONE, [Wanted(b"l", 5, waits=True)])
    watches.everything()
    assert watches.began(b"l", 6, NOW) == [ONE], "what waited then may hold now"


@needs_etcd
def test_an_end_between_the_look_and_the_watch_is_not_missed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = EtcdMailbox._ask
    with Client(url) as client, Client(url) as other:
        held = other.lock("n").acquire()
        released: list[float] = []

        def late(self: EtcdMailbox) -> None:
            if not released and not self._watches.is_empty:
                held.hand_over()
                held.release()
                released.append(native.now())
            ask(self)

        monkeypatch.setattr(EtcdMailbox, "_ask", late)
        with client.lock("n", wait=5) as lease:
            assert native.now() - released[0] < SLACK
            assert lease.token > held.token


@needs_etcd
def test_a_waiter_that_gives_up_between_the_look_and_the_watch_of_the_next_is_not_missed(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = EtcdMailbox._ask
    with Client(url) as client, Client(url) as other, Client(url) as third:
        # Its first wait watches its session too, from then on, and looks because of that.
        with other.lock("m"), pytest.raises(AcquireTimeout):
            client.lock("m", wait=0.05).acquire()
        held = other.lock("n").acquire()
        attempt: Attempt[Any] = Attempt(other.lock("n", wait=60).acquire)
        waits(other, "n")
        released: list[float] = []

        def late(self: EtcdMailbox) -> None:
            if not released and self is client._core.ledger.waiters.mailbox and not self._watches.is_empty:
                assert third.steal("n", third.inspect("n").waiters[0].token)
                held.hand_over()
                held.release()
                released.append(native.now())
            ask(self)

        monkeypatch.setattr(EtcdMailbox, "_ask", late)
        with client.lock("n", wait=5) as lease:
            assert native.now() - released[0] < LATE_S + SLACK
            assert lease.token > held.token
        attempt.outcome().release()


@needs_etcd
def test_who_gives_up_leaves_no_watch_behind(url: str, server: EtcdServer) -> None:
    with Client(url) as client, Client(url) as other:
        before = server.metric("etcd_debugging_mvcc_watcher_total")
        with other.lock("n"):
            for _ in range(5):
                with pytest.raises(AcquireTimeout):
                    client.lock("n", wait=0.05).acquire()
                # Else the next one watches this one's claim, too: what tells its end is left on the stream.
                until(lambda: not other.inspect("n").waiters, "what was given up has gone")
        # The keeper closes what was given up.
        until(lambda: not client._core.ledger.waiters.mailbox._watches._keys, "nobody waits")  # type: ignore[attr-defined]
        # The client's own session stays watched; what it says of the rest goes with its next wait.
        with other.lock("m"), pytest.raises(AcquireTimeout):
            client.lock("m", wait=0.05).acquire()
        until(lambda: server.metric("etcd_debugging_mvcc_watcher_total") - before <= 2, "the others have ended")


@needs_etcd
def test_watches_of_what_is_gone_do_not_pile_up(url: str, server: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "TOLD_MOST", 5)
    before = server.metric("etcd_debugging_mvcc_watcher_total")

    def turns(client: Client) -> int:
        done = 0
        while done < 30:
            with client.lock("n", wait=60):
                done += 1
        return done

    with Client(url) as one, Client(url) as two:
        with one.lock("n"):
            attempts = [Attempt(functools.partial(turns, client)) for client in (one, one, two, two)]
            waits(one, "n", 4)
        assert [attempt.outcome() for attempt in attempts] == [30] * 4
        # Of each client: what has told its end, its own session, and what its two threads waited for last.
        left = 2 * (5 + 1 + 2)
        until(lambda: server.metric("etcd_debugging_mvcc_watcher_total") - before <= left, "the others have ended")


@needs_etcd
def test_a_hand_over_costs_the_same_however_many_wait(url: str, server: EtcdServer) -> None:
    """Waiters in one client and in several: only the next one is woken."""

    def turn(client: Client) -> bool:
        with client.lock("n", wait=60) as lease:
            return lease.held

    def cost(waiters: int) -> float:
        with Client(url) as one, Client(url) as two:
            held = one.lock("n").acquire()
            attempts = [Attempt(functools.partial(turn, (one, two)[number % 2])) for number in range(waiters)]
            waits(one, "n", waiters)
            # Each has its claim, and then asks to be told: until nothing more is said.
            said = -1.0
            while said != (said := server.messages()):
                time.sleep(0.1)
            before = server.messages()
            held.release()
            assert all(attempt.outcome() for attempt in attempts)
            return (server.messages() - before) / waiters

    few, many = cost(6), cost(48)
    print(f"messages a hand-over: {few:.1f} with 6 waiters, {many:.1f} with 48")
    # A herd would cost a message for each that waits; one that a slow host has look again costs two.
    in_time(many < few * 1.25, "nobody looks again")
    assert many < 9


@needs_etcd
def test_a_stolen_waiter_hears_of_it_long_before_its_heartbeat(url: str) -> None:
    with Client(url, ttl=60) as client, Client(url) as other, other.lock("n"):
        attempt: Attempt[Any] = Attempt(client.lock("n", wait=3).acquire)
        waits(other, "n")
        stolen = other.inspect("n").waiters[0].token
        assert other.steal("n", stolen)
        until(lambda: [c.token for c in other.inspect("n").waiters] > [stolen], "it asks again", 2.0)
        assert isinstance(attempt.end(), AcquireTimeout)
