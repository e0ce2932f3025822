"""Slots that move while their names are held, waited for, renewed and asked for: real migrations, key by key."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tenure import Client, Lease, LeaseLost, LossReason, OutcomeUnknown, StoreUnavailable
from tenure.engines.redis import scripts
from tenure.engines.redis.life import FORMAT
from tenure.engines.redis.scripts import command, script_on_cluster
from tenure.engines.redis.store import genesis_key
from tenure.observe.events import Lost, Renewed, Suspect
from tenure.ports import ClaimRef, Closing
from tenure.runtimes.blocking import run
from tests.faces.watched import LONG, Attempt, Looped, Told, has_paid, waits
from tests.redis.clusters import flush, name_in, names_in, other_than, slot_of, url_of
from tests.redis.rig import PERIOD, TTL
from tests.servers import redis
from tests.servers.processes import HOST, until
from tests.servers.resp import ReplyError
from tests.timing import SLACK, Bound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faces.watched import AnyClient
    from tests.servers.redis_cluster import RedisCluster

pytestmark = pytest.mark.skipif(redis.missing() is not None, reason=redis.missing() or "")

PART = 3


@pytest.fixture(params=[Client, Looped])
def client(request: pytest.FixtureRequest, cluster: RedisCluster) -> Iterator[AnyClient]:
    with request.param(url_of(cluster), ttl=TTL) as client:
        client.lock(name_in(PART)).acquire().release()
        yield client


@pytest.fixture
def witness(cluster: RedisCluster) -> Iterator[Client]:
    with Client(url_of(cluster), ttl=LONG) as client:
        client.lock(name_in(PART)).acquire().release()
        yield client


class Move:
    """The move of a partition's slot to another master, step by step."""

    def __init__(self, cluster: RedisCluster, partition: int = PART) -> None:
        self.cluster = cluster
        self.slot = slot_of(cluster, partition)
        self.old = cluster.master_of(self.slot)
        self.new = other_than(cluster, self.old)

    def open(self) -> None:
        self.cluster.open_migration(self.slot, self.new)

    def keys(self) -> None:
        self.cluster.move_keys(self.slot, self.new)

    def one_key(self, key: str) -> None:
        self.old.cli("MIGRATE", HOST, self.new.port, "", 0, 5000, "KEYS", key)

    def close(self) -> None:
        self.cluster.close_migration(self.slot, self.new)

    def all(self) -> None:
        self.open()
        self.keys()
        self.close()


def test_a_lease_and_its_waiter_survive_their_slots_moves(cluster: RedisCluster, client: AnyClient) -> None:
    told, name = Told(), name_in(PART)
    with Client(url_of(cluster), ttl=TTL, on_event=told) as holder:
        lease = holder.lock(name).acquire()
        waiting: Attempt[Any] = Attempt(client.lock(name, wait=30).acquire)
        waits(holder, name)
        for _ in range(3):
            Move(cluster).all()
            moved = time.clock_gettime(time.CLOCK_BOOTTIME)
            told.wait(Renewed, since=moved)
            assert lease.held
            queue = holder.inspect(name)
            assert [c.token for c in queue.holders] == [lease.token]
            assert len(queue.waiters) == 1
        assert not told.at(Lost)
        begun = time.monotonic()
        lease.release()
        next_one = waiting.outcome()
        print(f"handed over {time.monotonic() - begun:.3f} s after the release")
        assert next_one.token > lease.token
        next_one.release()


def test_a_release_during_a_move_reaches_the_waiter_after_it(cluster: RedisCluster, client: AnyClient) -> None:
    name = name_in(PART)
    with Client(url_of(cluster), ttl=TTL) as holder:
        lease = holder.lock(name).acquire()
        waiting: Attempt[Any] = Attempt(client.lock(name, wait=30).acquire)
        waits(holder, name)
        move = Move(cluster)
        move.open()
        lease.release()  # refused by the node; the keeper owes it
        move.keys()
        assert not waiting.ended_at
        move.close()
        begun = time.monotonic()
        next_one = waiting.outcome()
        print(f"handed over {time.monotonic() - begun:.3f} s after the move")
        assert time.monotonic() - begun < PERIOD + 1.0 + SLACK
        assert next_one.token > lease.token
        next_one.release()
        until(lambda: has_paid(holder), "the keeper has paid")


def test_requests_during_a_short_move_wait_it_out(cluster: RedisCluster, client: AnyClient) -> None:
    name, move = name_in(PART), Move(cluster)
    begun = time.monotonic()
    move.open()
    attempt: Attempt[Any] = Attempt(client.lock(name, wait=10).acquire)
    move.keys()
    move.close()
    assert time.monotonic() - begun < Bound(TTL / 6), "as long as a request may take"
    lease = attempt.outcome()
    lease.release()


def test_a_move_that_stays_open_is_unavailable_and_costs_the_lease_at_its_deadline(
    cluster: RedisCluster, client: AnyClient, witness: Client
) -> None:
    told, name, elsewhere = Told(), name_in(PART), name_in(5)
    with Client(url_of(cluster), ttl=TTL, on_event=told) as holder:
        lease, kept = holder.lock(name).acquire(), holder.lock(elsewhere).acquire()
        move = Move(cluster)
        move.open()
        try:
            with pytest.raises(StoreUnavailable, match="on the move"):
                client.lock(names_in(PART, 2)[1]).try_acquire()
            told.wait(Suspect)
            lost_at = told.wait(Lost)
            assert lease.lost is LossReason.DEADLINE
            assert lease.deadline <= lost_at < lease.deadline + SLACK
            assert kept.held, "a lease in another partition has nothing to do with it"
            with witness.lock("other than " + elsewhere):
                pass
        finally:
            move.keys()
            move.close()
        with client_of(cluster) as again:
            next_one = again.lock(name, wait=10).acquire()
            assert next_one.token > lease.token
            next_one.release()
        assert kept.held
        assert kept.lost is None


def client_of(cluster: RedisCluster) -> Client:
    return Client(url_of(cluster), ttl=TTL)


# -- what a script may see of a slot on the move ----------------------------------------------------------------------


def ref_of(lease: Lease) -> ClaimRef:
    assert lease._claim is not None
    return lease._claim.ref


def queue_of(move: Move, name: str) -> str:
    """The queue of a name as the old master has it."""
    try:
        found: str = move.old.cli("EVAL", "return redis.sha1hex(redis.call('DUMP', KEYS[1]))", 1, queue_key(name))
    except ReplyError as error:
        return str(error).partition(" ")[0]  # ASK: it has none
    return found


def queue_key(name: str) -> str:
    return f"{{tenure:{PART}}}:q:{name}"


def release_in_a_move(cluster: RedisCluster, holder: Client) -> tuple[Exception | None, bool]:
    """Release a lease that is waited for while its slot is on the move; the error, and whether anything was written."""
    name = name_in(PART)
    lease = holder.lock(name).acquire()
    with Client(url_of(cluster), ttl=LONG) as other:
        waiting: Attempt[Any] = Attempt(other.lock(name, wait=30).acquire)
        waits(holder, name)
        # Its mailbox is empty, so no key stands for it.
        move = Move(cluster)
        move.open()
        before, error = queue_of(move, name), None
        closing = Closing(ref_of(lease), tombstone=False, clean=True, held=True, ttl=LONG)
        try:
            run(holder._core.store.close([closing], 0.1))
        except (StoreUnavailable, OutcomeUnknown) as caught:
            error = caught
        changed = queue_of(move, name) != before
        move.keys()
        move.close()
        with contextlib.suppress(LeaseLost):
            lease.release()
    waiting.end()
    return error, changed


def test_a_step_on_a_moving_slot_is_refused_and_writes_nothing(cluster: RedisCluster, witness: Client) -> None:
    error, changed = release_in_a_move(cluster, witness)
    assert isinstance(error, StoreUnavailable)
    assert not changed


def test_positive_control_without_the_guard_a_step_is_done_by_half(
    cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = scripts._read
    monkeypatch.setattr(scripts, "_read", lambda name: b"" if name == "moving" else read(name))
    script_on_cluster.cache_clear()
    try:
        with Client(url_of(cluster), ttl=LONG) as holder:
            error, changed = release_in_a_move(cluster, holder)
        assert isinstance(error, OutcomeUnknown), "the script failed in the middle"
        assert changed
    finally:
        script_on_cluster.cache_clear()


def test_positive_control_asking_the_new_master_would_grant_a_held_name(cluster: RedisCluster, witness: Client) -> None:
    """Why ASK is not followed: the new master has the genesis record and the session, and not yet the queue."""
    name = name_in(PART)
    lease = witness.lock(name).acquire()
    ref = ref_of(lease)
    genesis = genesis_key("tenure", PART)
    move = Move(cluster)
    store_id = move.old.cli("HGET", genesis, "id")
    move.open()
    for key in (genesis, f"{{tenure:{PART}}}:s:{ref.session}"):
        move.one_key(key)
    words: list[str | int] = [ref.session, 60_000_000, "0000", 99, name, "e 1 1 0", ""]
    wanted = script_on_cluster("enter")
    payload = command((*wanted.by_text, 1, genesis, FORMAT, store_id, *words))
    with move.new.connect() as connection:
        connection.call("ASKING")
        connection.sock.sendall(payload)
        answer = connection.read()
    assert answer[0] == "holds", "a second holder"
    assert witness._core.ledger.part(ref.name) == f".{PART}"
    with pytest.raises(StoreUnavailable), Client(url_of(cluster), ttl=TTL) as client:
        client.lock(name).try_acquire()
    flush(cluster)
    move.close()
    with contextlib.suppress(LeaseLost):
        lease.release()


# -- under load -------------------------------------------------------------------------------------------------------


def is_longer(values: list[int], than: int) -> bool:
    return len(values) > than


def test_nobody_overlaps_and_nobody_is_lost_while_slots_move_under_load(cluster: RedisCluster) -> None:
    name, others = name_in(PART), names_in(PART, 9)[1:]
    inside: list[int] = []
    overlaps: list[int] = []
    tokens: list[int] = []
    stop = threading.Event()
    told = Told()

    def work(client: Client) -> int:
        rounds = 0
        while not stop.is_set():
            try:
                with client.lock(name, wait=30) as lease:
                    inside.append(lease.token)
                    overlaps.extend(inside[:-1])
                    tokens.append(lease.token)
                    inside.remove(lease.token)
                rounds += 1
            except (StoreUnavailable, OutcomeUnknown):
                continue  # while its slot was on the move
        return rounds

    with Client(url_of(cluster), ttl=5, on_event=told) as keeper:
        kept = [keeper.lock(other).acquire() for other in others]
        clients = [Client(url_of(cluster), ttl=5) for _ in range(3)]
        try:
            working = [Attempt(functools.partial(work, client)) for client in clients]
            for _ in range(10):
                Move(cluster).all()
                until(functools.partial(is_longer, tokens, len(tokens) + 5), "names are granted again")
        finally:
            stop.set()
            rounds = [attempt.outcome() for attempt in working]
            for client in clients:
                client.close()
        print(f"{rounds} rounds in ten moves")
        assert min(rounds) > 0
        assert overlaps == []
        assert tokens == sorted(set(tokens))
        assert all(lease.held for lease in kept)
        assert not told.at(Lost)
