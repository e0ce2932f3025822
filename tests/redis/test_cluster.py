"""Names over partitions, partitions over masters: who decides how many, whom one asks, what a client object gives."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio
from redis.cluster import ClusterNode

from tenure import (
    AsyncClient,
    Client,
    Grade,
    IncompatibleStore,
    OutcomeUnknown,
    StoreUnavailable,
    UnsafeSetup,
    UsageError,
)
from tenure.engines.redis import mailboxes
from tenure.engines.redis.cluster import slot_of
from tenure.engines.redis.partitions import PARTITIONS, PartitionedStore, PartitionStore
from tenure.engines.redis.store import RedisStore, genesis_key
from tests.docs.blocks import ROOT
from tests.faces.watched import Attempt, Looped, waits
from tests.redis import clusters
from tests.redis.clusters import flush, master_of, name_in, names_in, other_than, url_of
from tests.redis.rig import TTL
from tests.servers import redis as rig
from tests.servers.processes import HOST, port_of, reserve_port, until
from tests.servers.redis import RedisServer
from tests.servers.redis_cluster import RedisCluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faces.watched import AnyClient

pytestmark = pytest.mark.skipif(rig.missing() is not None, reason=rig.missing() or "")

WORD = "p@ss:word"
SECRET = "secret"  # noqa: S105 - of servers that this test starts


@pytest.fixture(params=[Client, Looped])
def client(request: pytest.FixtureRequest, cluster: RedisCluster) -> Iterator[AnyClient]:
    with request.param(url_of(cluster), ttl=TTL) as client:
        yield client


# -- whom one asks ----------------------------------------------------------------------------------------------------


def test_slots_are_those_of_the_servers(cluster: RedisCluster) -> None:
    for index in range(40):
        key = genesis_key("any namespace", index)
        assert slot_of(key) == cluster.slot_of(key)


def asked_for_the_map(cluster: RedisCluster) -> int:
    told = (node.info("commandstats").get("cmdstat_cluster|slots", "calls=0") for node in cluster.masters)
    return sum(int(line.partition("calls=")[2].partition(",")[0]) for line in told)


def test_after_a_move_the_map_is_asked_for_once_and_the_request_is_repeated(
    cluster: RedisCluster, client: AnyClient
) -> None:
    client.lock(name_in(3)).acquire().release()
    clusters_slot = clusters.slot_of(cluster, 3)
    cluster.migrate(clusters_slot, other_than(cluster, cluster.master_of(clusters_slot)))
    for node in cluster.masters:
        node.cli("CONFIG", "RESETSTAT")
    lease = client.lock(name_in(3)).try_acquire()
    assert lease is not None
    lease.release()
    assert asked_for_the_map(cluster) == 1


def test_one_seed_that_answers_is_enough(cluster: RedisCluster) -> None:
    with contextlib.closing(reserve_port()) as dead:
        seeds = f"{HOST}:{port_of(dead)},{HOST}:{cluster.masters[1].port}"
        with Client(f"redis+cluster://{seeds}") as client, client.lock("n") as lease:
            assert lease.token


def test_no_seed_that_answers_is_unavailable_and_names_them() -> None:
    with contextlib.closing(reserve_port()) as dead, pytest.raises(StoreUnavailable, match=str(port_of(dead))):
        Client(f"redis+cluster://{HOST}:{port_of(dead)}").open()


def test_a_single_server_wants_another_scheme() -> None:
    with RedisServer() as server, pytest.raises(UnsafeSetup, match="redis://"):
        Client(f"redis+cluster://{server.host}:{server.port}").open()


def test_a_node_of_a_cluster_wants_another_scheme(cluster: RedisCluster) -> None:
    wrong = other_than(cluster, master_of(cluster, 0))
    with pytest.raises(UnsafeSetup, match=r"redis\+cluster://"):
        Client(wrong.url).open()


def test_slots_that_nobody_serves_are_unavailable(client: AnyClient, cluster: RedisCluster) -> None:
    """CLUSTERDOWN: certainly no effect, and over when the slot is served again."""
    slot, master = clusters.slot_of(cluster, 3), master_of(cluster, 3)
    client.lock(name_in(3)).acquire().release()
    for node in cluster.masters:
        node.cli("CLUSTER", "DELSLOTS", slot)
    try:
        until(lambda: "cluster_state:fail" in master.cli("CLUSTER", "INFO"), "the cluster is down")
        with pytest.raises(StoreUnavailable):
            client.lock(name_in(3)).try_acquire()
    finally:
        master.cli("CLUSTER", "ADDSLOTS", slot)
        cluster.wait_ok()
    client.lock(name_in(3), wait=10).acquire().release()


# -- how many partitions ----------------------------------------------------------------------------------------------


def count_of(cluster: RedisCluster, partition: int = 0) -> Any:
    key = genesis_key("tenure", partition)
    return cluster.cli(key, "HMGET", key, "format", "partitions", "hash")


def test_the_first_client_decides_and_the_others_follow_or_are_refused(cluster: RedisCluster) -> None:
    with Client(url_of(cluster, "/?partitions=8")) as first, Client(url_of(cluster)) as second:
        name = names_in(3, 1, partitions=8)[0]
        lease = first.lock(name).acquire()
        assert count_of(cluster) == count_of(cluster, 3) == ["1", "8", "crc32"]
        assert second.lock(name).try_acquire() is None
        assert second.names() == [name]
        with pytest.raises(IncompatibleStore, match=r"8 partitions.*was told 16") as caught:
            Client(url_of(cluster, "/?partitions=16")).open()
        assert caught.value.spoken == (1,)
        with pytest.raises(IncompatibleStore):
            Client(url_of(cluster, "/?partitions=4")).open()
        lease.release()


def test_without_a_word_there_are_sixteen(cluster: RedisCluster) -> None:
    with Client(url_of(cluster)) as client:
        client.open()
        assert count_of(cluster) == ["1", str(PARTITIONS), "crc32"]
        assert count_of(cluster, 5) == [None, None, None], "a partition that is not used has no record yet"


def test_of_many_that_come_at_once_all_go_by_the_same_number(cluster: RedisCluster) -> None:
    counts = [8, 16, None, 8, 16, None]
    options = ["" if count is None else f"/?partitions={count}" for count in counts]
    for _ in range(5):
        flush(cluster)
        barrier = threading.Barrier(len(counts))

        def come(option: str, barrier: threading.Barrier = barrier) -> int:
            client = Client(url_of(cluster, option))
            barrier.wait()
            with client:
                count: int = client._core.engine._layout.count  # type: ignore[attr-defined]
                return count

        attempts = [Attempt(lambda option=option: come(option)) for option in options]  # type: ignore[misc]
        failed = [attempt.end() for attempt in attempts]
        in_force = int(count_of(cluster)[1])
        for count, attempt, error in zip(counts, attempts, failed, strict=True):
            if count in (None, in_force):
                assert error is None, error
                assert attempt.result == in_force
            else:
                assert isinstance(error, IncompatibleStore)


def different_places() -> str:
    """A name that eight partitions and sixteen have in different ones."""
    return next(name for name in names_in(11, 1))


def test_a_lost_first_record_lets_no_other_number_in(cluster: RedisCluster) -> None:
    """Whoever makes the record anew has looked at all the others."""
    name = names_in(3, 1, partitions=8)[0]
    with Client(url_of(cluster, "/?partitions=8")) as first:
        lease = first.lock(name).acquire()
        cluster.cli(genesis_key("tenure", 0), "DEL", genesis_key("tenure", 0))
        with pytest.raises(IncompatibleStore, match="8 partitions"):
            Client(url_of(cluster, "/?partitions=16")).open()
        with Client(url_of(cluster)) as second:
            assert second.lock(name).try_acquire() is None
        assert count_of(cluster) == ["1", "8", "crc32"]
        lease.release()


def test_a_partition_is_not_begun_beside_another_number(cluster: RedisCluster) -> None:
    """A client that is open while its store is emptied and begun anew by another."""
    with Client(url_of(cluster, "/?partitions=16")) as first:
        first.open()
        flush(cluster)
        with Client(url_of(cluster, "/?partitions=8")) as second:
            lease = second.lock(different_places()).acquire()
            with pytest.raises(IncompatibleStore, match="8 partitions"):
                first.lock(different_places()).try_acquire()
            lease.release()


def test_positive_control_unguarded_two_numbers_lock_apart(
    cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def agree(self: PartitionedStore[Any], timeout: float) -> None:
        self.layout.count = self.layout.wanted or PARTITIONS

    async def adopt(self: PartitionStore, timeout: float, count: int = 0) -> None:
        await RedisStore._adopt(self, timeout, self._all.layout.count)

    monkeypatch.setattr(PartitionedStore, "_agree", agree)
    monkeypatch.setattr(PartitionStore, "_adopt", adopt)
    with Client(url_of(cluster, "/?partitions=8")) as first, Client(url_of(cluster, "/?partitions=16")) as second:
        one, two = first.lock(different_places()).acquire(), second.lock(different_places()).try_acquire()
        assert two is not None, "both hold it"
        one.release()
        two.release()


def test_another_hash_is_refused(cluster: RedisCluster) -> None:
    Client(url_of(cluster)).open().close()
    cluster.cli(genesis_key("tenure", 0), "HSET", genesis_key("tenure", 0), "hash", "md5")
    with pytest.raises(IncompatibleStore, match="md5"):
        Client(url_of(cluster)).open()


def test_another_format_is_refused(cluster: RedisCluster) -> None:
    Client(url_of(cluster)).open().close()
    cluster.cli(genesis_key("tenure", 0), "HSET", genesis_key("tenure", 0), "format", "7")
    with pytest.raises(IncompatibleStore) as caught:
        Client(url_of(cluster)).open()
    assert caught.value.in_force == 7


def test_namespaces_keep_apart(cluster: RedisCluster) -> None:
    with Client(url_of(cluster)) as one, Client(url_of(cluster, "/?partitions=4"), namespace="other") as two:
        leases = [client.lock("n").acquire() for client in (one, two)]
        assert (one.names(), two.names()) == (["n"], ["n"])
        for lease in leases:
            lease.release()


# -- mailboxes --------------------------------------------------------------------------------------------------------


def listening(cluster: RedisCluster) -> int:
    return sum(int(node.info("clients")["blocked_clients"]) for node in cluster.masters)


def test_there_is_a_connection_for_each_partition_that_is_waited_in_and_no_longer(
    cluster: RedisCluster, client: AnyClient
) -> None:
    with Client(url_of(cluster), ttl=TTL) as holder:
        names = [name for part in (1, 2, 3) for name in names_in(part, 2)]
        leases = [holder.lock(name).acquire() for name in names]
        client.lock(name_in(9)).acquire().release()
        waiting: list[Attempt[Any]] = [Attempt(client.lock(name, wait=30).acquire) for name in names]
        until(lambda: listening(cluster) == 3, "it listens in three partitions")
        for lease in leases[2:]:
            lease.release()
        for attempt in waiting[2:]:
            attempt.outcome().release()
        until(lambda: listening(cluster) == 1, "it listens where it still waits")
        for lease, attempt in zip(leases[:2], waiting[:2], strict=True):
            lease.release()
            attempt.outcome().release()


def test_waiters_beyond_the_bound_look_again_and_again(
    cluster: RedisCluster, client: AnyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailboxes, "LISTENED_MOST", 2)
    with Client(url_of(cluster), ttl=60) as holder:
        names = [name_in(part) for part in range(5)]
        leases = [holder.lock(name).acquire() for name in names]
        waiting: list[Attempt[Any]] = [Attempt(client.lock(name, wait=30).acquire) for name in names]
        for name in names:
            waits(holder, name)
        until(lambda: listening(cluster) == 2, "it listens in two partitions")
        for lease in leases:
            lease.release()
        for attempt in waiting:
            attempt.outcome().release()
            assert attempt.error is None


# -- a client object --------------------------------------------------------------------------------------------------


def test_a_clusters_client_is_taken_with_its_settings() -> None:
    with RedisCluster(masters=1, password=WORD) as cluster:
        address = cluster.masters[0].address
        theirs = redis.RedisCluster(*address, password=WORD, decode_responses=True)
        with Client(theirs) as client, client.lock("n") as lease:
            assert lease.grant.authority.startswith("redis:")
            with Client(f"redis+cluster://:p%40ss%3Aword@{address[0]}:{address[1]}") as other:
                assert other.lock("n").try_acquire() is None
        assert WORD not in repr(client)
        assert repr(client) == "<Client 'redis.RedisCluster'>"
        theirs.close()

        async def scenario() -> None:
            theirs = redis.asyncio.RedisCluster(
                startup_nodes=[redis.asyncio.cluster.ClusterNode(*address)], password=WORD
            )
            async with AsyncClient(theirs) as client, client.lock("n") as lease:
                assert lease.held
            await theirs.aclose()

        asyncio.run(scenario())


@pytest.mark.parametrize("kind", [Client, Looped])
def test_beside_a_clusters_client_there_are_options(cluster: RedisCluster, kind: Any) -> None:
    host, port = cluster.masters[0].address
    theirs = redis.asyncio.RedisCluster(host=host, port=port)
    with kind(theirs, options={"acknowledge": 1, "partitions": 3}) as client, kind(theirs) as control:
        with pytest.raises(OutcomeUnknown, match="0 of the 1 replicas"):
            client.lock("n", wait=0.1).acquire()
        control.lock("m").acquire().release()
        with pytest.raises(IncompatibleStore, match="3 partitions"), kind(theirs, options={"partitions": "4"}):
            pass


def test_what_cannot_be_copied_from_a_clusters_client_is_refused(cluster: RedisCluster) -> None:
    nodes = [ClusterNode(*cluster.masters[0].address)]  # type: ignore[no-untyped-call]
    for options in ({"address_remap": lambda address: address}, {"redis_connect_func": lambda connection: None}):
        with (
            contextlib.suppress(redis.RedisError),
            contextlib.closing(redis.RedisCluster(startup_nodes=nodes, **options)) as theirs,
            pytest.raises(UsageError, match="cannot be copied"),
        ):
            Client(theirs)


def test_the_rights_that_the_documents_name_are_enough_on_a_cluster() -> None:
    rights = "+@read +@write +@scripting +@connection +info +time"
    more = "+cluster|slots"
    text = (ROOT / "docs/redis.md").read_text("utf-8")
    assert rights in text
    assert more in text
    with RedisCluster(masters=1, users={"app": f"on >{SECRET} ~{{orders:* {rights} {more}"}) as cluster:
        url = f"redis+cluster://app:{SECRET}@{HOST}:{cluster.masters[0].port}"
        with Client(url, namespace="orders") as client, Client(url, namespace="orders", ttl=3) as other:
            lease = client.lock("n").acquire()
            waiting: Attempt[Any] = Attempt(other.lock("n", wait=20).acquire)
            waits(client, "n")
            lease.release()
            waiting.outcome().release()
            assert client.names() == []
        with pytest.raises(UnsafeSetup), Client(url, namespace="others") as client:
            client.lock("n").acquire()


# -- the doctor -------------------------------------------------------------------------------------------------------


def findings(cluster: RedisCluster, options: str = "", **settings: Any) -> dict[str, Any]:
    return {finding.name: finding for finding in Client(url_of(cluster, options), **settings).doctor().findings}


def test_the_doctor_looks_at_the_whole_cluster(cluster: RedisCluster) -> None:
    found = findings(cluster)
    assert found["cluster"].grade is Grade.OK
    assert "16 partitions on 3 masters" in found["cluster"].found
    assert found["failover"].grade is Grade.WARNING
    assert found["coverage"].grade is Grade.INFO
    assert found["moves"].grade is Grade.OK
    cluster.masters[1].cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        assert str(cluster.masters[1].port) in findings(cluster)["eviction"].found
        assert "1 of 3 masters" in findings(cluster)["eviction"].found
    finally:
        cluster.masters[1].cli("CONFIG", "SET", "maxmemory-policy", "noeviction")


def test_the_doctor_sees_a_move_that_stays_open(cluster: RedisCluster) -> None:
    slot, master = clusters.slot_of(cluster, 4), master_of(cluster, 4)
    new = other_than(cluster, master)
    cluster.open_migration(slot, new)
    try:
        finding = findings(cluster)["moves"]
        assert finding.grade is Grade.DANGER
        assert str(slot) in finding.found
    finally:
        cluster.move_keys(slot, new)
        cluster.close_migration(slot, new)


def test_durable_tokens_need_synced_masters_that_nobody_replaces() -> None:
    with RedisCluster(masters=1, replicas=1, persistence="always") as cluster:
        found = findings(cluster, ttl=30)
        assert found["failover"].grade is Grade.OK
        assert findings(cluster, ttl=3)["failover"].grade is Grade.WARNING
        with pytest.raises(UnsafeSetup, match="fail-over"):
            Client(url_of(cluster), require={"durable_tokens"}).open()
    with RedisCluster(masters=1, persistence="always") as cluster:
        with Client(url_of(cluster), require={"durable_tokens"}) as client:
            assert "durable_tokens" in client.capabilities
        cluster.masters[0].cli("CONFIG", "SET", "appendfsync", "everysec")
        with pytest.raises(UnsafeSetup, match="appendfsync is everysec"):
            Client(url_of(cluster), require={"durable_tokens"}).open()
