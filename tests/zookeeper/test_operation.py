"""What a store of ZooKeeper does that no other has to: containers, ghosts, lock_delay, genesis, messages, floors."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tenure import Client, IncompatibleStore, LossReason, UnsafeSetup
from tenure.engines.zookeeper import jute
from tenure.engines.zookeeper.layout import rows
from tenure.observe.events import Lost, Renewed
from tenure.runtimes import native
from tests.faces.programs import heard, program
from tests.servers import zookeeper
from tests.servers.processes import until
from tests.servers.zookeeper import ZooKeeperServer
from tests.timing import SLACK
from tests.zookeeper.rig import LONG, TREE, TTL, Attempt, Hand, Told, waits, watch
from tests.zookeeper.rig import url as url_of

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(zookeeper.missing() is not None, reason=zookeeper.missing() or "")


@pytest.fixture
def hand(url: str) -> Iterator[Hand]:
    made = Hand(url)
    yield made
    made.close()


# -- tokens and the parents of claims ---------------------------------------------------------------------------------


def test_tokens_rise_when_the_parent_was_removed_and_made_anew(url: str, client: Client, hand: Hand) -> None:
    """As the server does with empty containers; the sequence begins at 0 again, which is why it is no token."""
    tokens, sequences = [], []
    for _ in range(3):
        with client.lock("n") as lease:
            tokens.append(lease.token)
            [node] = hand.children(f"{hand.tree()}/queues/n")
            sequences.append(rows([node])[0].number)
        [answer] = hand.ask(jute.delete(f"{hand.chroot}{hand.tree()}/queues/n"))
        assert answer is None
    assert tokens == sorted(set(tokens))
    assert sequences == [0, 0, 0]


def test_the_server_removes_the_container_of_a_name_that_nobody_wants() -> None:
    java = ["-Dznode.container.checkIntervalMs=200"]
    with ZooKeeperServer(java=java) as server, Client(url_of(server), ttl=LONG) as client:
        watcher = Hand(url_of(server))
        tokens = []
        for _ in range(2):
            with client.lock("n") as lease:
                tokens.append(lease.token)
                time.sleep(0.5)
                assert lease.held
                assert [c.token for c in client.inspect("n").holders] == [lease.token]
            until(lambda: "n" not in watcher.children(f"{watcher.tree()}/queues"), "the container is removed")
        assert tokens == sorted(set(tokens))
        watcher.close()


def test_the_order_is_kept_where_the_sequence_wraps() -> None:
    nodes = ["e.a.1~2147483646", "e.b.1~2147483647", "e.c.1~-2147483648", "e.d.1~-2147483647"]
    for turn in range(4):
        found = rows(nodes[turn:] + nodes[:turn])
        assert [row.session for row in found] == ["a", "b", "c", "d"]


def test_a_node_of_somebody_elses_making_is_ignored(url: str, client: Client, hand: Hand) -> None:
    with client.lock("n"):
        pass
    hand.ask(jute.create(f"{hand.chroot}{hand.tree()}/queues/n/e.stranger", b"", None))
    with client.lock("n", wait=5) as lease:
        assert [c.token for c in client.inspect("n").holders] == [lease.token]


# -- ghosts -----------------------------------------------------------------------------------------------------------


def test_a_claim_of_another_session_under_our_name_is_not_taken_for_own(url: str, hand: Hand) -> None:
    """A ghost: the same unique id, owned by another session of the ensemble."""
    with Client(url, ttl=TTL) as client:
        lease = client.lock("n").acquire()
        [seat] = client._core.engine._hub.seats.values()  # type: ignore[attr-defined]
        queue = f"{hand.chroot}{hand.tree()}/queues/other"
        ghost = f"{queue}/e.{seat.card.id}.2~"
        hand.ask(
            jute.create(queue, b"", None, jute.CONTAINER), jute.create(ghost, b"[]", None, jute.EPHEMERAL_SEQUENTIAL)
        )
        store: Any = client._core.store
        original = store.enter

        async def again(entry: Any, timeout: float) -> Any:
            return await original(entry._replace(again=True), timeout)

        store.enter = again
        with pytest.raises(TimeoutError):
            client.lock("other", wait=0.3).acquire()
        store.enter = original
        lease.release()


# -- steals -----------------------------------------------------------------------------------------------------------


def test_a_steal_is_told_though_the_ttl_is_long_to_one_who_waits(client: Client, url: str) -> None:
    with Client(url, ttl=LONG) as ours:
        held = client.lock("n").acquire()
        waiting: Attempt[Any] = Attempt(ours.lock("n", wait=20).acquire)
        waits(client, "n")
        place = client.inspect("n").waiters[0].token
        begun = native.now()
        assert client.steal("n", place)
        until(lambda: [c.token for c in client.inspect("n").waiters] not in ([], [place]), "it asks again")
        assert native.now() - begun < SLACK
        held.release()
        lease = waiting.outcome()
        lease.hand_over()
        lease.release()


def test_a_heartbeat_is_one_message_and_one_more_after_a_steal() -> None:
    told = Told()
    with ZooKeeperServer() as server, Client(url_of(server), ttl=1.2, on_event=told) as ours:
        leases = [ours.lock(f"n{number}").acquire() for number in range(20)]
        time.sleep(1.2)  # those for questions have left
        before, renewed = server.received, told.count(Renewed)
        until(lambda: told.count(Renewed) >= renewed + 10, "ten heartbeats")
        sent, beats = server.received - before - 1, told.count(Renewed) - renewed
        assert sent - beats in (0, 1), f"{sent} messages for {beats} heartbeats"
        for lease in leases:
            lease.release()


# -- messages for each hand-over --------------------------------------------------------------------------------------


def test_a_hand_over_takes_four_messages_however_many_wait() -> None:
    waiters, turns = 24, 5
    with ZooKeeperServer() as server:
        clients = [Client(url_of(server), ttl=LONG) for _ in range(waiters)]
        for client in clients:
            client.lock("warm").acquire().release()
        time.sleep(1.2)  # those for questions have left
        before = server.received

        def work(client: Client) -> bool:
            for _ in range(turns):
                client.lock("n", wait=60).acquire().release()
            return True

        attempts: list[Attempt[bool]] = [Attempt(lambda client=client: work(client)) for client in clients]  # type: ignore[misc]
        for attempt in attempts:
            attempt.outcome()
        each = (server.received - before - 1) / (waiters * turns)
        print(f"{each:.2f} messages for each of {waiters * turns} grants, {waiters} waiting")
        for client in clients:
            client.close()
        # Create, list, watch, release; and whoever has nobody in front does not watch.
        assert each <= 4.3


def test_who_dies_or_gives_up_in_the_middle_grants_nobody_behind_it(url: str, client: Client) -> None:
    """Only a holder's release lets the next one in without a look."""
    held = client.lock("n").acquire()
    with Client(url, ttl=LONG) as middle, Client(url, ttl=LONG) as last:
        gives_up: Attempt[Any] = Attempt(middle.lock("n", wait=0.5).acquire)
        waits(client, "n")
        patient: Attempt[Any] = Attempt(last.lock("n", wait=30).acquire)
        waits(client, "n", 2)
        assert isinstance(gives_up.end(), TimeoutError)
        waits(client, "n")
        stolen: Attempt[Any] = Attempt(middle.lock("n", wait=30).acquire)
        waits(client, "n", 2)
        with program('client = Client(url, ttl=0.9)\nclient.lock("n", wait=30).acquire()', url) as process:
            waits(client, "n", 3)
            behind: Attempt[Any] = Attempt(client.lock("n", wait=30).acquire)
            waits(client, "n", 4)
            process.kill()
            waits(client, "n", 3)
        client.steal("n", client.inspect("n").waiters[1].token)
        time.sleep(0.3)
        assert not patient.ended_at
        assert not stolen.ended_at
        assert not behind.ended_at
        assert [c.token for c in client.inspect("n").holders] == [held.token]
        held.release()
        for one in (patient, behind, stolen):
            lease = one.outcome()
            lease.hand_over()
            assert [c.token for c in client.inspect("n").holders] == [lease.token]
            lease.release()


def test_readers_behind_a_writer_learn_their_floor(server: ZooKeeperServer, client: Client, url: str) -> None:
    held = client.lock("n").acquire()
    with Client(url, ttl=LONG) as one, Client(url, ttl=LONG) as two:
        first: Attempt[Any] = Attempt(one.lock("n", shared=True, wait=30).acquire)
        waits(client, "n")
        second: Attempt[Any] = Attempt(two.lock("n", shared=True, wait=30).acquire)
        waits(client, "n", 2)
        # Who has no watch yet looks anyway.
        watch(server, url, 2)
        held.release()
        leases = [first.outcome(), second.outcome()]
        for lease in leases:
            lease.hand_over()
        assert [lease.floor for lease in leases] == [leases[0].token] * 2
        for lease in leases:
            lease.release()


# -- lock_delay -------------------------------------------------------------------------------------------------------


def test_lock_delay_outlasts_a_client_that_is_gone(server: ZooKeeperServer, url: str, client: Client) -> None:
    code = """
client = Client(url, ttl=0.9)
lease = client.lock("n", lock_delay=1.5).acquire()
plain = client.lock("plain").acquire()
say("held")
sys.stdin.readline()
"""
    with program(code, url) as process:
        assert heard(process) == "held"
        plain: Attempt[Any] = Attempt(client.lock("plain", wait=20).acquire)
        delayed: Attempt[Any] = Attempt(client.lock("n", wait=20).acquire)
        waits(client, "n")
        waits(client, "plain")
        process.kill()
        died = native.now()
        for one in (plain, delayed):
            one.outcome().release()
        print(f"free after {plain.ended_at - died:.2f} s, with a lock_delay after {delayed.ended_at - died:.2f} s")
        assert plain.ended_at - died < 0.9 + 0.3 + SLACK
        assert delayed.ended_at - plain.ended_at > 1.2


def test_a_lock_delay_that_the_server_does_not_grant_is_refused_and_leaves_nothing() -> None:
    with ZooKeeperServer(extra=["maxSessionTimeout=2000"]) as server, Client(url_of(server), ttl=1.5) as client:
        client.lock("n").acquire().release()
        with pytest.raises(UnsafeSetup, match="maxSessionTimeout"):
            client.lock("n", lock_delay=60).acquire()
        assert client.names() == []
        client.lock("n", lock_delay=0.4).acquire().release()


def test_a_ttl_that_the_server_clamps_counts_as_it_was_granted() -> None:
    with ZooKeeperServer(extra=["maxSessionTimeout=2000"]) as server, Client(url_of(server), ttl=30) as client:
        granted, lease = native.now(), client.lock("n").acquire()
        assert lease.remaining() < 2
        until(lambda: lease.deadline > granted + 3, "it is renewed in time")
        lease.release()


def test_a_server_that_grants_fewer_than_three_ticks_is_refused() -> None:
    with (
        ZooKeeperServer(extra=["maxSessionTimeout=200"]) as server,
        Client(url_of(server), ttl=30) as client,
        pytest.raises(UnsafeSetup, match="tick"),
    ):
        client.lock("n").acquire()


# -- genesis (B12) ----------------------------------------------------------------------------------------------------


def test_another_format_is_refused_before_anything_is_touched(url: str, hand: Hand) -> None:
    with Client(url) as client:
        client.lock("n").acquire().release()
    [(data, _)] = hand.ask(jute.get(hand.chroot + TREE))
    record = json.loads(data) | {"format": 99}
    hand.ask(jute.write(hand.chroot + TREE, json.dumps(record).encode()))
    with pytest.raises(IncompatibleStore, match="99"):
        Client(url).open()
    hand.ask(jute.write(hand.chroot + TREE, b"somebody else's"))
    with pytest.raises(IncompatibleStore, match="none of tenure's"):
        Client(url).open()


def test_a_namespace_that_an_administrator_has_made_is_taken(url: str, hand: Hand) -> None:
    hand.ask(*(jute.create(path, b"", None) for path in (hand.chroot, hand.chroot + TREE)))
    with Client(url) as client, client.lock("n") as lease:
        assert lease.held


def test_a_base_is_added_to_every_number(url: str, hand: Hand) -> None:
    """After a restore of an ensemble whose transactions begin below the tokens that were given (D4)."""
    with Client(url) as client:
        client.lock("n").acquire().release()
    [(data, _)] = hand.ask(jute.get(hand.chroot + TREE))
    record = json.loads(data) | {"base": 10**12}
    hand.ask(jute.write(hand.chroot + TREE, json.dumps(record).encode()))
    with Client(url) as client:
        one = client.lock("n", shared=True).acquire()
        two = client.lock("n", shared=True).acquire()
        assert one.token > 10**12
        assert two.floor == one.token
        assert [c.token for c in client.inspect("n").holders] == [one.token, two.token]
        assert client.steal("n", one.token)
        two.release()
        with pytest.raises(Exception, match="stole"):
            one.release()


def test_a_tree_that_was_deleted_is_a_loss_and_the_next_lease_is_of_another_store(url: str, hand: Hand) -> None:
    told = Told()
    with Client(url, ttl=TTL, on_event=told) as client:
        lease = client.lock("n").acquire()
        tree = hand.chroot + hand.tree()
        paths = [f"{tree}/queues/n/{node}" for node in hand.children(f"{hand.tree()}/queues/n")]
        paths += [f"{tree}/sessions/{node}" for node in hand.children(f"{hand.tree()}/sessions")]
        paths += [f"{tree}/queues/n", f"{tree}/queues", f"{tree}/sessions", tree, hand.chroot + TREE]
        assert hand.ask(*(jute.delete(path) for path in paths)) == [None] * len(paths)
        struck = native.now()
        assert told.wait(Lost) - struck < TTL / 6 + SLACK
        assert lease.lost in (LossReason.SESSION_ENDED, LossReason.STORE_LOST)
        with client.lock("n", wait=10) as again:
            assert again.held


# -- what is left behind ----------------------------------------------------------------------------------------------


def test_an_idle_client_sends_nothing_and_its_session_ends() -> None:
    with ZooKeeperServer() as server, Client(url_of(server), ttl=1.2) as client:
        client.lock("n").acquire().release()
        until(lambda: server.facts()["zk_num_alive_connections"] == "1", "only this question is connected")
        before = server.received
        time.sleep(1.0)
        assert server.received - before <= 2, "the questions of this test"
        with client.lock("n") as lease:
            assert lease.held


def test_a_client_that_is_closed_leaves_no_session() -> None:
    with ZooKeeperServer() as server:
        with Client(url_of(server), ttl=LONG) as client:
            client.lock("n", lock_delay=5).acquire().release()
            client.lock("m").acquire().release()
        until(lambda: "sessionId: 0x1" not in server.word("dump"), "no session is left")
        assert server.facts()["zk_ephemerals_count"] == "0"
