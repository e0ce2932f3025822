"""A cluster that moves slots and fails over; sentinels that promote the replica."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.servers import redis
from tests.servers.processes import until
from tests.servers.redis_cluster import RedisCluster
from tests.servers.redis_sentinels import Sentinels
from tests.servers.resp import ReplyError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(redis.missing() is not None, reason=redis.missing() or "")

WORD = "s"


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as made:
        yield made


def test_a_slot_moves_with_its_keys(cluster: RedisCluster) -> None:
    slot = cluster.slot_of("{t}")
    old = cluster.master_of(slot)
    new = next(master for master in cluster.masters if master is not old)
    for number in range(20):
        old.cli("SET", f"{{t}}{number}", number)
    cluster.migrate(slot, new)
    assert cluster.master_of(slot) is new
    assert new.cli("CLUSTER", "COUNTKEYSINSLOT", slot) == 20
    assert cluster.cli("{t}7", "GET", "{t}7") == "7"
    with pytest.raises(ReplyError, match=rf"^MOVED {slot} 127\.0\.0\.1:{new.port}"):
        old.cli("GET", "{t}7")


def test_an_open_migration_asks_for_missing_keys_at_the_new_master(cluster: RedisCluster) -> None:
    slot = cluster.slot_of("{ask}")
    old = cluster.master_of(slot)
    new = next(master for master in cluster.masters if master is not old)
    old.cli("SET", "{ask}1", "here")
    cluster.open_migration(slot, new)
    assert old.cli("GET", "{ask}1") == "here"
    with pytest.raises(ReplyError, match=rf"^ASK {slot} 127\.0\.0\.1:{new.port}"):
        old.cli("GET", "{ask}2")
    with pytest.raises(ReplyError, match=r"^TRYAGAIN"):
        old.cli("MGET", "{ask}1", "{ask}2")
    assert cluster.move_keys(slot, new) == 1
    cluster.close_migration(slot, new)
    assert new.cli("GET", "{ask}1") == "here"


def test_a_clusters_replica_takes_over() -> None:
    with RedisCluster(replicas=1, node_timeout_ms=500, password=WORD) as cluster:
        slot = cluster.slot_of("k")
        lost = cluster.master_of(slot)
        lost.cli("SET", "k", "v")
        replica = cluster.replicas[cluster.masters.index(lost)]
        until(lambda: replica.cli("DBSIZE") == 1, "the replica has it")
        lost.stop()
        assert cluster.wait_failover(lost) is replica
        cluster.wait_ok()
        assert cluster.cli("k", "GET", "k") == "v"
        lost.cont()
        until(lambda: lost.role == "slave", "the old master follows the new one")
        cluster.wait_ok()


def test_sentinels_promote_the_replica_and_the_old_master_follows() -> None:
    with Sentinels(password=WORD) as group:
        old = group.master
        assert old is group.servers[0]
        old.stop()
        new = group.wait_failover(old)
        assert new is group.servers[1]
        assert new is group.master
        old.cont()
        until(lambda: old.role == "slave", "the old master follows the new one")
