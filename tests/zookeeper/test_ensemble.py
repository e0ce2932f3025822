"""Three servers, with faults between them: what a holder is told and when, and that everyone is served after all."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from tenure import Client, LossReason, TenureError
from tenure.engines.zookeeper import jute
from tenure.engines.zookeeper.store import ZooKeeperStore
from tenure.model import Instant, LeaseState
from tenure.observe.events import Lost
from tenure.runtimes import native
from tests.servers import zookeeper
from tests.servers.processes import until
from tests.servers.zookeeper import Ensemble, ZooKeeperServer
from tests.timing import Bound
from tests.zookeeper.rig import LONG, Attempt, Told, waits
from tests.zookeeper.rig import url as url_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tenure import Lease

pytestmark = pytest.mark.skipif(zookeeper.missing() is not None, reason=zookeeper.missing() or "")

TTL: Final = 2.4
SYNC: Final = 40
"""Ticks for which a follower that was cut off still answers: four seconds, longer than the ttl."""

_serial = itertools.count(1)


@pytest.fixture(scope="module")
def shared() -> Iterator[Ensemble]:
    with Ensemble(sync_limit=SYNC) as ensemble:
        yield ensemble


@pytest.fixture
def ensemble(shared: Ensemble) -> Iterator[Ensemble]:
    yield shared
    for server in shared.servers:
        if server.is_running:
            server.cont()
        else:
            server.spawn()
    shared.heal()
    shared.wait_served()


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"name-{next(_serial)}"


def of(server: ZooKeeperServer, ensemble: Ensemble) -> str:
    """The URL of one member."""
    return f"{server.url}?{ensemble.options}"


class Believer:
    """Notes when a lease was last believed to be held, as a busy holder would find out."""

    def __init__(self, lease: Lease) -> None:
        self.until = 0.0
        self._lease = lease
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while self._lease.held:
            self.until = native.now()
            time.sleep(0.002)

    def end(self) -> float:
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.until


# -- a follower that is cut off from its leader (C3) ------------------------------------------------------------------


def overlap(ensemble: Ensemble, name: str) -> float:
    """By how many seconds a holder behind a follower that is cut off still believes when the next one is granted."""
    follower, leader = ensemble.followers[0], ensemble.leader
    with Client(of(follower, ensemble), ttl=TTL) as ours, Client(of(leader, ensemble), ttl=LONG) as theirs:
        granted, lease = native.now(), ours.lock(name).acquire()
        until(lambda: lease.deadline > granted + 1.5 * TTL, "it was renewed for a while")
        waiting: Attempt[Any] = Attempt(theirs.lock(name, wait=30).acquire)
        waits(theirs, name)
        believer = Believer(lease)
        cut = native.now()
        ensemble.cut_off(follower)
        successor = waiting.outcome()
        successor.hand_over()
        last = believer.end()
        print(f"believed until {last - cut:+.2f} s, the next granted at {waiting.ended_at - cut:+.2f} s")
        assert successor.token > lease.token
        assert lease.lost is LossReason.DEADLINE
        assert theirs.inspect(name).holders[0].token == successor.token
        successor.release()
        ensemble.heal()
        return last - waiting.ended_at


def test_a_holder_behind_a_follower_that_is_cut_off_stops_before_the_next_is_granted(
    ensemble: Ensemble, name: str
) -> None:
    assert overlap(ensemble, name) < 0


def test_positive_control_counting_pings_overlaps_by_seconds(
    ensemble: Ensemble, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant's heartbeat is a read, which proves nothing; ZooKeeper's own ping is answered in the same way."""

    async def beat(self: ZooKeeperStore, seat: Any, berth: Any, until: Instant) -> Instant:
        batch = await self.asked(berth.link, [jute.exists(berth.node)], until)
        assert batch.sent is not None
        return batch.sent

    monkeypatch.setattr(ZooKeeperStore, "_beat", beat)
    assert overlap(ensemble, name) > 1.0


# -- servers that die, stop and come back -----------------------------------------------------------------------------


def survives(ensemble: Ensemble, name: str, strike: Callable[[Client], object], ttl: float = 12.0) -> None:
    """A lease lives through a fault of a minority, and the waiter behind it gets the name afterwards."""
    told = Told()
    with Client(url_of(ensemble), ttl=ttl, on_event=told) as ours, Client(url_of(ensemble), ttl=ttl) as theirs:
        lease = ours.lock(name).acquire()
        waiting: Attempt[Any] = Attempt(theirs.lock(name, wait=40).acquire)
        waits(theirs, name)
        struck = native.now()
        strike(ours)
        until(lambda: lease.deadline > struck + ttl, "what was written after the fault is what counts", 30)
        assert lease.held
        assert not waiting.ended_at
        lease.release()
        successor = waiting.outcome()
        successor.hand_over()
        assert successor.token > lease.token
        successor.release()
        assert not told.at(Lost)
        until(lambda: name not in theirs.names(), "nothing is left")


def serving(ensemble: Ensemble, client: Client) -> ZooKeeperServer:
    """The server to which a client's session is connected."""
    (seat,) = [s for s in client._core.engine._hub.seats.values() if not s.main.link.over]  # type: ignore[attr-defined]
    session = f"sid=0x{seat.main.link.session & (2**64 - 1):x},"
    found: ZooKeeperServer = until(
        lambda: next((s for s in ensemble.servers if s.is_up and session in s.word("cons")), None), "it is connected"
    )
    return found


def test_kill_9_of_the_leader_costs_no_lease(ensemble: Ensemble, name: str) -> None:
    survives(ensemble, name, lambda _: ensemble.leader.kill())


def test_kill_9_of_the_server_that_a_client_uses_moves_its_session(ensemble: Ensemble, name: str) -> None:
    survives(ensemble, name, lambda client: serving(ensemble, client).kill())


def test_the_server_that_a_client_uses_stops_and_is_left(ensemble: Ensemble, name: str) -> None:
    survives(ensemble, name, lambda client: serving(ensemble, client).stop(), ttl=30.0)


def test_a_leader_that_stops_is_replaced(ensemble: Ensemble, name: str) -> None:
    survives(ensemble, name, lambda _: ensemble.leader.stop(), ttl=30.0)


def test_without_a_quorum_leases_end_and_after_it_everyone_is_served(ensemble: Ensemble, name: str) -> None:
    told = Told()
    with Client(url_of(ensemble), ttl=TTL, on_event=told) as ours, Client(url_of(ensemble), ttl=LONG) as theirs:
        lease = ours.lock(name).acquire()
        waiting: Attempt[Any] = Attempt(theirs.lock(name, wait=60).acquire)
        waits(theirs, name)
        down = [ensemble.leader, *ensemble.followers[:1]]
        for server in down:
            server.kill()
        lost_at = told.wait(Lost)
        assert lease.lost is LossReason.DEADLINE
        assert lease.deadline <= lost_at < lease.deadline + Bound(0.2)
        with pytest.raises(TenureError):
            ours.lock(name).try_acquire()
        # Longer than the ttl: its session would be over, had there been anybody to end it.
        until(lambda: native.now() > lost_at + TTL, "more than a ttl has passed")
        assert not waiting.ended_at
        for server in down:
            server.spawn()
        successor = waiting.outcome()
        successor.hand_over()
        assert successor.token > lease.token
        assert lease.state is LeaseState.LOST
        successor.release()
        with ours.lock(name, wait=20) as again:
            assert again.token > successor.token


class Contender:
    """Takes a name again and again, and notes from when to when it believed to hold it."""

    def __init__(self, ensemble: Ensemble, name: str, going: threading.Event) -> None:
        self.held: list[tuple[int, float, float]] = []
        self.errors: list[str] = []
        self._thread = threading.Thread(target=self._run, args=(ensemble, name, going), daemon=True)
        self._thread.start()

    def _run(self, ensemble: Ensemble, name: str, going: threading.Event) -> None:
        with Client(url_of(ensemble), ttl=TTL) as client:
            while going.is_set():
                try:
                    lease = client.lock(name, wait=5).acquire()
                except TenureError as error:
                    self.errors.append(type(error).__name__)
                    continue
                begun = last = native.now()
                while lease.held and native.now() < begun + 0.02:
                    last = native.now()
                    time.sleep(0.001)
                self.held.append((lease.token, begun, last))
                try:
                    lease.release()
                except TenureError as error:
                    self.errors.append(type(error).__name__)

    def end(self) -> None:
        self._thread.join(40)
        assert not self._thread.is_alive()


def test_no_two_hold_at_once_and_tokens_rise_while_every_server_is_killed_and_stopped(
    ensemble: Ensemble, name: str
) -> None:
    going = threading.Event()
    going.set()
    contenders = [Contender(ensemble, name, going) for _ in range(4)]

    def count() -> int:
        return sum(len(contender.held) for contender in contenders)

    def go_on() -> None:
        before = count()
        until(lambda: count() >= before + 10, "they take turns", 30)

    try:
        go_on()
        for server in ensemble.servers:
            server.kill()
            go_on()
            server.start()
            ensemble.wait_served()
            go_on()
        for victim in (ensemble.followers[0], ensemble.leader):
            victim.stop()
            go_on()
            victim.cont()
            until(lambda: sum(s.role == "leader" for s in ensemble.servers) == 1, "one leads")
            go_on()
    finally:
        going.clear()
        for contender in contenders:
            contender.end()
    held = sorted(itertools.chain.from_iterable(contender.held for contender in contenders))
    print(f"{len(held)} leases; errors: {sorted(itertools.chain.from_iterable(c.errors for c in contenders))}")
    tokens = [token for token, _, _ in held]
    assert tokens == sorted(set(tokens))
    for (one, _, ended), (two, begun, _) in itertools.pairwise(held):
        assert ended <= begun, f"{one} was believed until {ended:.3f}, and {two} from {begun:.3f}"
