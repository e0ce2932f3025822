"""Masters that are killed, stopped, emptied or cut off: what it means for the names they have, and for the others'."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from tenure import Client, LossReason, OutcomeUnknown, StoreUnavailable
from tenure.engines.redis.engine_cluster import ClusterEngine
from tenure.observe.events import Lost, Renewed, Suspect
from tenure.protocols.keep import one_by_one
from tenure.runtimes import native
from tests.faces.watched import LONG, Attempt, Looped, Told, has_paid, waits
from tests.redis.clusters import (
    PARTITIONS,
    master_of,
    name_in,
    names_in,
    partition_off,
    partitions_on,
    url_of,
)
from tests.redis.rig import PERIOD, TTL
from tests.servers import redis
from tests.servers.processes import until
from tests.servers.redis_cluster import RedisCluster
from tests.timing import SLACK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.redis import RedisServer

pytestmark = pytest.mark.skipif(redis.missing() is not None, reason=redis.missing() or "")

OUTLASTS: Final = 12.0
"""A ttl that outlasts a fail-over of these clusters, a busy machine included."""


@pytest.fixture
def witness(cluster: RedisCluster) -> Iterator[Client]:
    with Client(url_of(cluster), ttl=LONG) as client:
        client.names()  # every partition is connected to
        yield client


@pytest.fixture
def replicated() -> Iterator[RedisCluster]:
    """A cluster that a test may break: each master has a replica."""
    with RedisCluster(replicas=1, node_timeout_ms=500) as made:
        yield made


@pytest.fixture(params=[Client, Looped])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


# -- connections ------------------------------------------------------------------------------------------------------


def cut(cluster: RedisCluster) -> None:
    """Close every client's connections."""
    for master in cluster.masters:
        master.cli("CLIENT", "KILL", "TYPE", "normal")


def test_cut_connections_are_no_lost_leases_and_waiters_are_served(
    cluster: RedisCluster, witness: Client, kind: Any
) -> None:
    told = Told()
    names = [name_in(part) for part in (1, 6, 11)]
    with Client(url_of(cluster), ttl=TTL, on_event=told) as holder, kind(url_of(cluster), ttl=TTL) as client:
        leases = [holder.lock(name).acquire() for name in names]
        waiting: list[Attempt[Any]] = [Attempt(client.lock(name, wait=30).acquire) for name in names]
        for name in names:
            waits(witness, name)
        for lease, attempt in zip(leases, waiting, strict=True):
            cut(cluster)
            struck = native.now()
            told.wait(Renewed, since=struck)
            assert lease.held
            cut(cluster)
            released = native.now()
            lease.release()
            next_one = attempt.outcome()
            print(f"granted {attempt.ended_at - released:.3f} s after the cut and the release")
            assert next_one.token > lease.token
            assert attempt.ended_at - released < PERIOD + SLACK
            next_one.release()
        assert not told.at(Lost)


# -- a master that stands still ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def stopped(server: RedisServer) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.cont()


def leases_everywhere(client: Client) -> dict[int, Any]:
    return {part: client.lock(name_in(part)).acquire() for part in range(PARTITIONS)}


@pytest.fixture
def patient() -> Iterator[RedisCluster]:
    """A cluster that takes nobody for dead while a test lasts."""
    with RedisCluster(node_timeout_ms=60_000, extra=["cluster-require-full-coverage no"]) as made:
        yield made


def test_a_stopped_master_costs_its_own_names_and_no_others(patient: RedisCluster, kind: Any) -> None:
    told, lost = Told(), master_of(patient, 0)
    its = partitions_on(patient, lost)
    assert len(its) > 1
    with Client(url_of(patient), ttl=TTL, on_event=told) as client, kind(url_of(patient), ttl=TTL) as other:
        other.lock(name_in(partition_off(patient, lost))).acquire().release()
        leases = leases_everywhere(client)
        until(lambda: told.count(Renewed) >= 2 * PARTITIONS, "all partitions are renewed")
        with stopped(lost):
            told.wait(Suspect)
            until(lambda: all(leases[part].lost for part in its), "its leases are lost")
            for part in its:
                assert leases[part].lost is LossReason.DEADLINE
            # As long again, and the others are still renewed, granted and handed over.
            since = native.now()
            until(lambda: native.now() > since + 2 * TTL, "some ttls pass")
            for part, lease in leases.items():
                assert lease.held is (part not in its), part
            off = partition_off(patient, lost)
            waiting: Attempt[Any] = Attempt(other.lock(name_in(off), wait=10).acquire)
            waits(client, name_in(off))
            begun = native.now()
            leases[off].release()
            next_one = waiting.outcome()
            print(f"handed over {waiting.ended_at - begun:.3f} s after the release, with a master stopped")
            assert waiting.ended_at - begun < SLACK
            next_one.release()
            with pytest.raises((StoreUnavailable, OutcomeUnknown)):
                other.lock(name_in(its[0]), wait=0.3).acquire()
        again = client.lock(name_in(its[0]), wait=10).acquire()
        assert again.token > leases[its[0]].token
        again.release()
        for part in set(leases) - set(its) - {off}:
            leases[part].release()
        until(lambda: has_paid(client), "the keeper has paid")


def test_positive_control_heartbeats_one_after_another_lose_the_others_too(
    patient: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def beats(self: ClusterEngine, store: Any, renewals: Any) -> None:
        await one_by_one(store, renewals)

    monkeypatch.setattr(ClusterEngine, "beats", beats)
    lost = master_of(patient, 0)
    its = partitions_on(patient, lost)

    def loses_another() -> bool:
        told = Told()
        with Client(url_of(patient), ttl=TTL, on_event=told) as client:
            leases = leases_everywhere(client)
            until(lambda: told.count(Renewed) >= 2 * PARTITIONS, "all partitions are renewed")
            with stopped(lost):
                until(lambda: all(leases[part].lost for part in its), "its leases are lost")
                return any(leases[part].lost for part in leases if part not in its)

    # A heartbeat waits no longer than to its lease's deadline, so where a busy host begins them late, the others may
    # come in time after all.
    assert any(loses_another() for _ in range(10))


# -- a master that is killed ------------------------------------------------------------------------------------------


def wait_for(replica: RedisServer, master: RedisServer) -> None:
    def is_level() -> bool:
        return replica.info("replication")["slave_repl_offset"] == master.info("replication")["master_repl_offset"]

    until(is_level, "the replica has all")


def test_after_a_fail_over_leases_go_on_waiters_wait_and_tokens_rise(replicated: RedisCluster, kind: Any) -> None:
    told, name = Told(), name_in(0)
    lost = master_of(replicated, 0)
    with (
        Client(url_of(replicated), ttl=OUTLASTS, on_event=told) as holder,
        kind(url_of(replicated), ttl=OUTLASTS) as other,
    ):
        lease = holder.lock(name).acquire()
        waiting: Attempt[Any] = Attempt(other.lock(name, wait=60).acquire)
        waits(holder, name)
        replica = replicated.replicas[replicated.masters.index(lost)]
        wait_for(replica, lost)
        lost.kill()
        struck = native.now()
        assert replicated.wait_failover(lost) is replica
        replicated.wait_ok()
        print(f"a replica has taken over after {native.now() - struck:.1f} s")
        # The life of the store has changed: the holder looks its claim up, finds it, and is renewed.
        told.wait(Renewed, since=native.now())
        assert lease.held
        assert not told.at(Lost)
        queue = holder.inspect(name)
        assert [c.token for c in queue.holders] == [lease.token]
        assert len(queue.waiters) == 1
        begun = native.now()
        lease.release()
        next_one = waiting.outcome()
        print(f"handed over {waiting.ended_at - begun:.3f} s after the release, on the replica")
        assert waiting.ended_at - begun < OUTLASTS / 3 + SLACK
        assert next_one.token > lease.token
        next_one.release()
        third = holder.lock(name, wait=10).acquire()
        assert third.token > next_one.token
        third.release()


def test_a_replica_that_lacks_the_last_writes_takes_over_and_the_holder_is_told(replicated: RedisCluster) -> None:
    told, name = Told(), name_in(0)
    lost = master_of(replicated, 0)
    replica = replicated.replicas[replicated.masters.index(lost)]
    with Client(url_of(replicated), ttl=OUTLASTS, on_event=told) as holder, Client(url_of(replicated)) as other:
        holder.lock(names_in(0, 2)[1]).acquire().release()
        wait_for(replica, lost)
        # What is written from here on does not reach the replica.
        lost.cli("ACL", "SETUSER", "default", "-psync", "-sync")
        lost.cli("CLIENT", "KILL", "TYPE", "replica")
        until(lambda: replica.info("replication")["master_link_status"] == "down", "it is cut off")
        lease = holder.lock(name).acquire()
        lost.kill()
        assert replicated.wait_failover(lost) is replica
        replicated.wait_ok()
        overtaking = other.lock(name, wait=20).acquire()  # two believe, until the first one's next heartbeat
        at = told.wait(Lost)
        assert lease.lost is LossReason.STORE_LOST
        assert at < lease.deadline
        assert overtaking.token > lease.token
        overtaking.release()


def test_a_killed_master_without_a_replica_is_unavailable_until_it_is_back() -> None:
    with (
        RedisCluster(persistence="always", node_timeout_ms=500) as cluster,
        Client(url_of(cluster), ttl=OUTLASTS) as client,
    ):
        lost, name = master_of(cluster, 0), name_in(0)
        lease = client.lock(name).acquire()
        lost.kill()
        until(lambda: "fail" in _state(cluster, lost), "the others know")
        with pytest.raises((StoreUnavailable, OutcomeUnknown)), Client(url_of(cluster), ttl=TTL) as other:
            other.lock(name).try_acquire()
        lost.start()
        cluster.wait_ok()
        with Client(url_of(cluster), ttl=TTL) as other:
            assert other.lock(name).try_acquire() is None, "it kept everything"
        assert lease.held
        lease.release()


def _state(cluster: RedisCluster, lost: RedisServer) -> str:
    up = next(node for node in cluster.nodes if node is not lost)
    text: str = up.cli("CLUSTER", "INFO")
    return text.splitlines()[0]


# -- lost data --------------------------------------------------------------------------------------------------------


def test_one_emptied_master_loses_its_own_leases_and_no_others(cluster: RedisCluster) -> None:
    told = Told()
    emptied = master_of(cluster, 0)
    its = partitions_on(cluster, emptied)
    with Client(url_of(cluster), ttl=TTL, on_event=told) as client, Client(url_of(cluster), ttl=TTL) as other:
        leases = leases_everywhere(client)
        emptied.cli("FLUSHALL")
        struck = native.now()
        tokens = {part: other.lock(name_in(part), wait=5).acquire() for part in its}
        until(lambda: all(leases[part].lost for part in its), "its leases are lost")
        print(f"all told after {native.now() - struck:.3f} s")
        assert native.now() - struck < PERIOD + SLACK
        for part, lease in leases.items():
            assert lease.lost is (LossReason.STORE_LOST if part in its else None), part
        for part, lease in tokens.items():
            assert lease.token > leases[part].token
            lease.release()
        for part in set(leases) - set(its):
            leases[part].release()


# -- fork -------------------------------------------------------------------------------------------------------------


def test_a_forked_child_holds_nothing_and_connects_anew(cluster: RedisCluster) -> None:
    with Client(url_of(cluster), ttl=TTL) as client:
        leases = leases_everywhere(client)
        pid = os.fork()
        if pid == 0:
            code = 1
            with contextlib.suppress(BaseException):
                held = [lease.held for lease in leases.values()]
                fresh = client.lock("of the child").acquire()
                refused = client.lock(name_in(2)).try_acquire()
                fresh.release()
                client.close()
                code = 0 if not any(held) and refused is None else 2
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        time.sleep(PERIOD)
        for lease in leases.values():
            assert lease.held
            lease.release()
