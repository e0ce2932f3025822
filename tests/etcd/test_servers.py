"""Nodes that die, stand still, fill up or lose each other: what a holder is told and when; all are served after.

At once nobody else is granted before the holder's deadline, and tokens never fall.
"""

from __future__ import annotations

import resource
import shutil
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tenure import AcquireTimeout, Client, LeaseLost, LossReason, OutcomeUnknown, StoreUnavailable
from tenure.observe.events import Lost, Renewed, Suspect
from tenure.runtimes import native
from tests.etcd.rig import fresh, hears, through, waits
from tests.faces.programs import heard, program, tell
from tests.faces.watched import Attempt, Looped, Told
from tests.servers import etcd
from tests.servers.etcd import EtcdCluster, EtcdFailed, EtcdServer
from tests.servers.processes import until
from tests.servers.proxy import Proxy
from tests.timing import SLACK, Bound

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(etcd.missing() is not None, reason=etcd.missing() or "")

LONG = 60.0


@pytest.fixture
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


# -- the only node ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Client, Looped])
def test_the_only_node_killed_and_restarted_keeps_leases_waiters_and_tokens(server: EtcdServer, kind: Any) -> None:
    told = Told()
    with kind(server.url, ttl=6, on_event=told) as client, Client(server.url, ttl=6) as other:
        lease = client.lock("n").acquire()
        attempt: Attempt[Any] = Attempt(other.lock("n", wait=30).acquire)
        waits(other, "n")
        server.restart()
        struck = native.now()
        told.wait(Renewed, struck)
        assert lease.held
        assert not attempt.ended_at
        lease.release()
        successor = attempt.outcome()
        assert successor.token > lease.token
        successor.release()


def test_a_node_that_stands_still_costs_the_lease_at_its_deadline_and_serves_everyone_afterwards(
    server: EtcdServer,
) -> None:
    told = Told()
    with Client(server.url, ttl=2, on_event=told) as client, Client(server.url, ttl=LONG) as other:
        other.lock("warm").acquire().release()
        lease = client.lock("n").acquire()
        waiting: Attempt[Any] = Attempt(other.lock("n", wait=30).acquire)
        waits(client, "n")
        server.stop()
        try:
            told.wait(Suspect)
            assert lease.held
            lost_at = told.wait(Lost)
            assert lease.lost is LossReason.DEADLINE
            assert lease.deadline <= lost_at < lease.deadline + Bound(0.2)
            assert not waiting.ended_at
        finally:
            server.cont()
        successor = waiting.outcome()
        assert successor.token > lease.token
        successor.release()


HOLDER = """
import sys, time
from tenure import Client, LeaseLost
client = Client(sys.argv[1], ttl=2)
lease = client.lock("n").acquire()
print(lease.token, flush=True)
while True:
    was = lease.held
    if not was:
        print("lost", flush=True)
        break
    time.sleep(0.005)
try:
    lease.check()
except LeaseLost:
    print("refused", flush=True)
sys.stdin.readline()
print(lease.held, flush=True)
"""


def test_a_client_that_stood_still_says_lost_at_its_first_instruction_and_for_good(server: EtcdServer) -> None:
    with program(HOLDER, server.url) as process, Client(server.url, ttl=LONG) as other:
        token = int(heard(process))
        process.send_signal(signal.SIGSTOP)
        with other.lock("n", wait=20) as successor:
            assert successor.token > token
            process.send_signal(signal.SIGCONT)
            assert heard(process) == "lost"
            assert heard(process) == "refused"
            time.sleep(0.5)  # a keeper that came late must not bring it back
            tell(process)
            assert heard(process) == "False"
            assert successor.held


def test_a_full_database_refuses_new_claims_and_keeps_those_who_hold() -> None:
    with EtcdServer(extra=["--quota-backend-bytes=2500000"]) as server:
        told = Told()
        with Client(server.url, ttl=3, on_event=told) as client, Client(server.url, ttl=LONG) as other:
            lease = client.lock("n").acquire()
            # A client without a session cannot get one, and one that has cannot enter.
            other.lock("warm").acquire().release()

            def fill() -> None:
                for number in range(200):
                    server.ctl("put", f"fill/{number}", "x" * 100_000)

            with pytest.raises(EtcdFailed, match="space"):
                fill()
            struck = native.now()
            with pytest.raises((OutcomeUnknown, StoreUnavailable, AcquireTimeout)) as raised:
                other.lock("m", wait=1).acquire()
            print(repr(raised.value))
            with Client(server.url, ttl=5) as late, pytest.raises((OutcomeUnknown, StoreUnavailable)):
                late.lock("k", wait=1).acquire()
            told.wait(Renewed, struck)
            assert lease.held
            report = other.doctor()
            assert [f.name for f in report.findings if f.grade.value == 3] == ["alarms", "ttl"]
            lease.release()
            server.ctl("del", "--prefix", "fill/")
            server.compact()
            server.ctl("defrag")
            server.ctl("alarm", "disarm")
            with other.lock("n", wait=10) as again:
                assert again.token > lease.token
            until(lambda: other.names() == [], "what was asked for meanwhile is given back")


def test_a_full_disk_ends_the_node_and_after_it_came_back_all_are_served(server: EtcdServer) -> None:
    told = Told()
    with Client(server.url, ttl=2, on_event=told) as client:
        lease = client.lock("n").acquire()
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1, 1))
        with pytest.raises((OutcomeUnknown, StoreUnavailable)):
            client.lock("m", wait=0.5).acquire()
        until(lambda: not server.is_running, "it cannot write")
        told.wait(Lost)
        assert lease.lost is LossReason.DEADLINE
        server.start()
        with client.lock("n", wait=20) as again:
            assert again.token > lease.token


def test_a_node_that_was_emptied_is_another_store(server: EtcdServer) -> None:
    told = Told()
    with Client(server.url, ttl=6, on_event=told) as client:
        for _ in range(3):
            client.lock("n").acquire().release()
        lease = client.lock("n").acquire()
        server.kill()
        shutil.rmtree(server.data)
        server.start()
        told.wait(Lost)
        assert lease.lost is LossReason.STORE_LOST
        assert native.now() < lease.deadline
        authority = lease.grant.authority
    # Its revisions begin anew, and so does its authority: such tokens are not comparable.
    with Client(server.url) as later, later.lock("n") as again:
        assert again.grant.authority != authority


def test_a_node_that_was_set_back_costs_the_leases_that_it_forgot(server: EtcdServer) -> None:
    told = Told()
    with Client(server.url, ttl=6, on_event=told) as client, Client(server.url, ttl=6) as other:
        keeps = client.lock("kept").acquire()
        server.shut()
        shutil.copytree(server.data, server.data + ".old")
        server.start()
        for _ in range(20):
            other.lock("m").acquire().release()
        lease = client.lock("n").acquire()
        server.kill()
        shutil.rmtree(server.data)
        shutil.move(server.data + ".old", server.data)
        server.start()
        told.wait(Lost)
        assert lease.lost is LossReason.STORE_LOST
        assert keeps.held, "what it still knows stays"


# -- compaction -------------------------------------------------------------------------------------------------------


def test_a_compaction_during_a_watch_is_no_matter(server: EtcdServer) -> None:
    with Client(server.url) as client, Client(server.url) as other:
        lease = client.lock("n").acquire()
        attempt: Attempt[Any] = Attempt(other.lock("n", wait=20).acquire)
        hears(server, 2)
        for _ in range(3):
            client.lock("m").acquire().release()
            server.compact()
        begun = native.now()
        lease.release()
        attempt.outcome().release()
        assert attempt.ended_at - begun < SLACK


def test_a_watch_that_comes_back_after_a_compaction_looks_again(server: EtcdServer) -> None:
    """The end of what it watched is behind the compaction: the server ends the watch, and tells nothing else."""
    with Proxy(server.address) as proxy, Client(through(proxy)) as client, Client(server.url) as other:
        client.lock("warm").acquire().release()
        lease = other.lock("n").acquire()
        attempt: Attempt[Any] = Attempt(client.lock("n", wait=20).acquire)
        waits(other, "n")
        hears(server, 2)
        proxy.hold("requests", "replies")
        lease.release()
        for _ in range(3):
            other.lock("m").acquire().release()
        server.compact()
        begun = native.now()
        proxy.cut()
        proxy.heal()
        attempt.outcome().release()
        assert attempt.ended_at - begun < 1 + SLACK


# -- three nodes ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared() -> Iterator[EtcdCluster]:
    with EtcdCluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: EtcdCluster) -> Iterator[EtcdCluster]:
    yield shared
    for node in shared.nodes:
        if not node.is_running:
            node.spawn()
        node.cont()
    for node in shared.nodes:
        node.wait_ready()
    shared.leader()


@pytest.fixture
def url(cluster: EtcdCluster) -> str:
    return fresh(cluster.url)


TTL = 6.0


@pytest.mark.parametrize("victim", ["leader", "follower"])
@pytest.mark.parametrize("how", ["kill", "stop"])
@pytest.mark.parametrize("kind", [Client, Looped])
def test_a_node_that_fails_costs_no_lease_and_no_place_in_the_queue(
    cluster: EtcdCluster, url: str, victim: str, how: str, kind: Any
) -> None:
    told = Told()
    with kind(url, ttl=TTL, on_event=told) as client, Client(url, ttl=TTL) as other, Client(url, ttl=LONG) as witness:
        lease = client.lock("n").acquire()
        attempt: Attempt[Any] = Attempt(other.lock("n", wait=60).acquire)
        waits(witness, "n")
        node = cluster.leader() if victim == "leader" else cluster.followers()[0]
        (node.kill if how == "kill" else node.stop)()
        struck = native.now()
        told.wait(Renewed, struck + 0.001)
        assert lease.held, lease.lost
        lease.release()
        successor = attempt.outcome()
        print(f"granted {attempt.ended_at - struck:.2f} s after the {victim} failed")
        assert successor.token > lease.token
        successor.release()


def test_without_a_quorum_every_lease_ends_at_its_deadline_and_after_heal_everyone_is_served(
    cluster: EtcdCluster, url: str
) -> None:
    told = Told()
    with Client(url, ttl=2, on_event=told) as client, Client(url, ttl=2) as other:
        lease = client.lock("n").acquire()
        attempt: Attempt[Any] = Attempt(other.lock("n", wait=60).acquire)
        waits(client, "n")
        two = cluster.nodes[:2]
        for node in two:
            node.stop()
        lost_at = told.wait(Lost)
        assert lease.lost is LossReason.DEADLINE
        assert lost_at < lease.deadline + Bound(0.3)
        with pytest.raises((AcquireTimeout, StoreUnavailable, OutcomeUnknown)):
            client.lock("m", wait=1).acquire()
        time.sleep(1)
        assert not attempt.ended_at, "nobody is granted anything without a quorum"
        for node in two:
            node.cont()
        successor = attempt.outcome()
        assert successor.token > lease.token
        successor.release()
        client.lock("m", wait=20).acquire().release()
        until(lambda: other.names() == [], "nothing is left")


def test_leaders_that_stand_still_one_after_another_never_let_two_hold(cluster: EtcdCluster, url: str) -> None:
    """Each for longer than an election, while four clients contend.

    It found the repeat that read the wrong end of the queue, for which there is a test of its own now.
    """
    inside: list[int] = []
    tokens: list[int] = []
    overlaps: list[tuple[int, ...]] = []
    ready: list[int] = []
    mutex = threading.Lock()
    ends = native.now() + 12

    def contend(number: int) -> int:
        turns = 0
        with Client(url, ttl=4) as client:
            client.open()
            ready.append(number)
            while native.now() < ends:
                try:
                    lease = client.lock("n", wait=10).acquire()
                except (AcquireTimeout, StoreUnavailable, OutcomeUnknown):
                    continue
                with mutex:
                    inside.append(number)
                    tokens.append(lease.token)
                    if len(inside) > 1:
                        overlaps.append(tuple(inside))
                time.sleep(0.01)
                with mutex:
                    # Whoever has lost it is no holder any more, whenever it leaves.
                    inside.remove(number)
                try:
                    lease.release()
                except LeaseLost as lost:
                    print(f"lost: {lost}")
                turns += 1
        return turns

    attempts = [Attempt(lambda number=number: contend(number)) for number in range(4)]  # type: ignore[misc]
    until(lambda: len(ready) == 4, "all contend")
    while native.now() < ends - 4:
        leader = cluster.leader()
        leader.stop()
        time.sleep(1.5)
        leader.cont()
        time.sleep(1)
    turns = [attempt.outcome() for attempt in attempts]
    print(f"{len(tokens)} turns, {turns} each")
    assert overlaps == []
    assert tokens == sorted(set(tokens))
    assert min(turns) > 0


def test_nodes_restarted_one_after_another_lose_nothing(cluster: EtcdCluster, url: str) -> None:
    told = Told()
    with Client(url, ttl=TTL, on_event=told) as client:
        leases = [client.lock(f"n{number}").acquire() for number in range(20)]
        for node in cluster.nodes:
            node.restart()
            cluster.leader()
        told.wait(Renewed, native.now())
        assert all(lease.held for lease in leases)
        assert not told.at(Lost)
