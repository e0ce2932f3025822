"""What servers and networks do to the guard of Redis: lost answers, restarts, refusals, clusters."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.retry import Retry

from tenure import fencing
from tenure.errors import (
    NotRaised,
    OutcomeUnknown,
    SetupError,
    StaleToken,
    StoreUnavailable,
    UsageError,
)
from tests.fencing.keys import FENCE, ORDERS
from tests.servers.processes import HOST, until
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer, missing
from tests.servers.redis_cluster import RedisCluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def lose_the_reply(proxy: Proxy, ask: Callable[[], Any]) -> Any:
    """Ask, and cut the connection when the answer is on its way."""
    with ThreadPoolExecutor(1) as thread:
        proxy.hold("replies")
        asked = thread.submit(ask)
        until(lambda: proxy.held("replies"), "the server answers")
        proxy.cut()
        proxy.heal()
        return asked.result()


def test_a_lost_reply_is_unknown_and_the_step_is_not_sent_again(server: RedisServer, client: redis.Redis) -> None:
    with Proxy(server.address) as proxy, redis.Redis(host=HOST, port=proxy.port) as far:
        with fencing.redis(far, 7, **ORDERS) as tx:
            tx.get("n")  # makes the script known
            with pytest.raises(OutcomeUnknown, match="as a whole or not at all"):
                lose_the_reply(proxy, lambda: tx.incr("n"))
            assert client.get("n") == b"1"
            assert tx.incr("n") == 2
        # The control: the driver by itself does it twice.
        assert lose_the_reply(proxy, lambda: far.incr("twice")) == 2
        guard = fencing.redis(far, 8, **ORDERS)
        with pytest.raises(OutcomeUnknown):
            lose_the_reply(proxy, guard.__enter__)
        with guard as tx:
            assert tx.get("n") == b"2"


def test_a_cancelled_step_leaves_no_answer_to_the_next(server: RedisServer) -> None:
    async def scenario(proxy: Proxy) -> None:
        far = redis.asyncio.Redis(host=HOST, port=proxy.port, max_connections=1)
        async with far, fencing.redis(far, 7, **ORDERS) as tx:
            await tx.get("n")  # makes the script known
            proxy.hold("replies")
            task = asyncio.create_task(tx.execute_command("INCR", "n"))
            while not proxy.held("replies"):  # noqa: ASYNC110 - it is of another thread
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            proxy.heal()
            assert await tx.get("n") == b"1"
            with pytest.raises(UsageError, match="cannot be fenced"):
                await tx.execute_command("FLUSHALL")

    with Proxy(server.address) as proxy:
        asyncio.run(scenario(proxy))


def test_a_server_that_is_not_there_was_not_asked() -> None:
    gone = redis.Redis(host=HOST, port=1, retry=Retry(NoBackoff(), 0))
    with pytest.raises(StoreUnavailable, match="nothing was done"), fencing.redis(gone, 7, **ORDERS):
        pass


def test_a_server_that_forgot_the_scripts_is_told_them_again(client: redis.Redis) -> None:
    with fencing.redis(client, 7, **ORDERS) as tx:
        client.script_flush()
        assert tx.incr("n") == 1
        client.script_flush()
        assert tx.eval("return 1", 0) == 1
    client.script_flush()
    with fencing.redis(client, 7, **ORDERS):
        pass


def test_a_server_that_forgot_the_fence_is_found_out(client: redis.Redis) -> None:
    guard = fencing.redis(client, 7, **ORDERS)
    with guard as tx:
        client.flushall()
        with pytest.raises(NotRaised, match="lost its fence"):
            tx.incr("n")
    with guard as tx:
        assert tx.incr("n") == 1


def test_a_restarted_server_has_its_fences_if_it_syncs_them() -> None:
    with RedisServer(persistence="always") as server, redis.Redis.from_url(server.url) as client:
        with fencing.redis(client, 9, **ORDERS) as tx:
            tx.set("a", 1)
        server.restart()
        with pytest.raises(StaleToken), fencing.redis(client, 7, **ORDERS):
            pass
        with fencing.redis(client, 9, **ORDERS) as tx:
            assert tx.get("a") == b"1"


def test_what_a_server_refuses_is_refused_on_entering() -> None:
    users = {"writer": "on >pw ~stock:* +@all", "plain": f"on >pw ~stock:* ~{FENCE} +@all -incrby"}
    with RedisServer(users=users) as server:
        with (
            redis.Redis.from_url(server.url_as("writer", "pw")) as client,
            pytest.raises(NoPermissionError),
            fencing.redis(client, 7, **ORDERS),
        ):
            pass
        with redis.Redis.from_url(server.url_as("plain", "pw")) as client, fencing.redis(client, 7, **ORDERS) as tx:
            steps = tx.pipeline()
            steps.set("stock:a", 1)
            steps.incr("stock:n")
            with pytest.raises(ResponseError, match="can't run this command"):
                steps.execute()
            assert tx.get("stock:a") == b"1"
        with (
            redis.Redis.from_url(server.url_as("plain", "wrong")) as client,
            pytest.raises(SetupError, match="login"),
            fencing.redis(client, 7, **ORDERS),
        ):
            pass


def test_a_replica_and_a_full_server_refuse_on_entering_even_a_holder_that_has_raised(client: redis.Redis) -> None:
    fencing.open(client, 7, **ORDERS)
    client.config_set("maxmemory", "1")
    try:
        with pytest.raises(OutOfMemoryError), fencing.redis(client, 7, **ORDERS):
            pass
    finally:
        client.config_set("maxmemory", "0")
    client.slaveof(HOST, 1)
    try:
        with pytest.raises(ReadOnlyError), fencing.redis(client, 7, **ORDERS):
            pass
    finally:
        client.slaveof()


# -- clusters --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster(masters=3) as made:
        yield made


def test_in_a_cluster_what_shares_a_step_shares_a_slot(cluster: RedisCluster) -> None:
    host, port = cluster.addresses[0]
    with redis.RedisCluster(host=host, port=port) as client:
        with fencing.redis(client, 7, **ORDERS) as tx:
            steps = tx.pipeline()
            steps.set("{orders}:a", 1)
            steps.incr("{orders}:a")
            steps.set("orders", 1)
            assert steps.execute() == [True, 2, True]
            steps.set("{orders}:a", 9)
            steps.set("elsewhere", 1)
            assert tx.eval("return redis.call('GET', KEYS[1])", 1, "{orders}:a") == b"2"
            assert tx.publish("news", "x") == 0
            for attempt in (
                lambda: tx.set("elsewhere", 1),
                steps.execute,
                lambda: tx.eval("return 1", 1, "elsewhere"),
            ):
                with pytest.raises(UsageError, match=r"hash tag \{orders\}"):
                    attempt()
            assert tx.get("{orders}:a") == b"2"
        with pytest.raises(StaleToken), fencing.redis(client, 6, **ORDERS):
            pass


def test_a_guard_follows_a_slot_that_moves(cluster: RedisCluster) -> None:
    host, port = cluster.addresses[0]

    async def scenario() -> None:
        async with redis.asyncio.RedisCluster(host=host, port=port) as client:
            async with fencing.redis(client, 8, resource="moving") as tx:
                assert await tx.incr("{moving}:n") == 1
                slot = cluster.slot_of("moving")
                there = next(node for node in cluster.masters if node is not cluster.master_of(slot))
                cluster.open_migration(slot, there)
                cluster.move_keys(slot, there)
                # Neither here nor there: nothing is guessed.
                with pytest.raises(StoreUnavailable, match="nothing was done"):
                    await tx.incr("{moving}:n")
                cluster.close_migration(slot, there)
                assert await tx.incr("{moving}:n") == 2
            with pytest.raises(UsageError, match="hash tag"):
                async with fencing.redis(client, 8, resource="moving") as tx:
                    await tx.set("elsewhere", 1)

    with redis.RedisCluster(host=host, port=port) as old, fencing.redis(old, 8, resource="moving") as tx:
        asyncio.run(scenario())
        assert tx.incr("{moving}:n") == 3
