"""What the guard of Redis rests on: one script for each step, sent once, with a fence that the server keeps."""

from __future__ import annotations

import asyncio
import random
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
    ForeignToken,
    NotRaised,
    OutcomeUnknown,
    SetupError,
    StaleOperation,
    StaleToken,
    StoreUnavailable,
    UsageError,
)
from tenure.fencing.keyspace import scripts
from tenure.fencing.rule import TOKEN_MAX, Fence, Proof, Verdict, judge, raised
from tenure.model import Grant
from tests.servers.processes import HOST, until
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer, missing
from tests.servers.redis_cluster import RedisCluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers.redis import Program

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

FENCE = "tenure:fence:{orders}"
ORDERS: dict[str, Any] = {"resource": "orders"}


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    shared.cli("FLUSHALL")
    return shared


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as made:
        yield made


# -- the rule, in Lua ------------------------------------------------------------------------------------------------

NUMBERS = (0, 1, 2, 9, 10, 99, 2**53 - 1, 2**53, 2**53 + 1, TOKEN_MAX - 1, TOKEN_MAX)


def cases(seed: int) -> Iterator[tuple[Fence, Proof]]:
    """Fences and proofs at the borders of each other."""
    chance = random.Random(seed)  # noqa: S311 - a test's
    for _ in range(400):
        fence = Fence(chance.choice(NUMBERS), 0, chance.choice((0, 1, 2, 10)), chance.choice(("", "redis/a", "etcd/a")))
        token = chance.choice(NUMBERS[1:])
        floor = chance.choice([number for number in NUMBERS[1:] if number <= token])
        yield fence, Proof("orders", token, floor, chance.choice(("", "redis/a")), chance.choice((0, 1, 2, 9, 11)))


def shown(proof: Proof) -> tuple[str, ...]:
    return str(proof.token), str(proof.floor), proof.authority, str(proof.seq)


def put(client: redis.Redis, fence: Fence) -> None:
    client.delete(FENCE)
    client.hset(FENCE, mapping={"token": fence.token, "seq": fence.seq, "authority": fence.authority})


def kept(client: redis.Redis) -> Fence:
    token, seq, authority = client.hmget(FENCE, "token", "seq", "authority")
    assert token is not None
    assert seq is not None
    assert isinstance(authority, bytes)
    return Fence(int(token), 0, int(seq), authority.decode())


def disagreements(client: redis.Redis, check: str, lift: str) -> list[tuple[Fence, Proof]]:
    """Where a pair of scripts and the rule say different things."""
    found = []
    for fence, proof in cases(seed=3):
        put(client, fence)
        verdict = judge(fence, proof)
        answer = client.eval(check, 1, FENCE, *shown(proof), "2", "GET", "x")
        noted = kept(client).seq == (proof.seq if verdict is Verdict.ACCEPTED and proof.seq else fence.seq)
        is_same = (answer[0] == 1) == (verdict is Verdict.ACCEPTED) and noted
        put(client, fence)
        bare = proof._replace(seq=0)
        client.eval(lift, 1, FENCE, *shown(bare))
        after = raised(fence, bare) if judge(fence, bare) is Verdict.NOT_RAISED else fence
        if not is_same or kept(client) != after:
            found.append((fence, proof))
    return found


def test_the_scripts_say_what_the_rule_says(client: redis.Redis) -> None:
    assert disagreements(client, scripts.commands().text.decode(), scripts.raising().text.decode()) == []


@pytest.mark.parametrize(
    ("text", "replacement"),
    [
        ("#one < #other or (#one == #other and one < other)", "tonumber(one) < tonumber(other)"),
        ("#one < #other or (#one == #other and one < other)", "one < other"),
        ("local stale = foreign or below(ARGV[1], token)", "local stale = foreign"),
        ("local stale = foreign or below", "local stale = below"),
        ("authority ~= '' and ARGV[3] ~= '' and authority", "authority"),
        ("if stale or below(token, ARGV[2]) or", "if stale or"),
        ("not below(seq, ARGV[4])", "below(ARGV[4], seq)"),
        ("'token', ARGV[2], 'seq', '0'", "'token', ARGV[1], 'seq', '0'"),
        ("'token', ARGV[2], 'seq', '0'", "'token', ARGV[2], 'seq', seq"),
        ("ARGV[3] ~= '' and ARGV[3] or authority", "ARGV[3]"),
        ("if below(token, ARGV[2]) then", "if true then"),
    ],
)
def test_a_rule_taken_out_of_the_scripts_is_noticed(client: redis.Redis, text: str, replacement: str) -> None:
    check, lift = scripts.commands().text.decode(), scripts.raising().text.decode()
    assert text in check + lift
    assert disagreements(client, check.replace(text, replacement), lift.replace(text, replacement))


# -- steps -----------------------------------------------------------------------------------------------------------


def test_the_drivers_own_methods_work_and_their_replies_look_as_ever(client: redis.Redis) -> None:
    with fencing.redis(client, 7, **ORDERS) as tx:
        assert tx.hset("h", mapping={"a": 1}) == 1
        assert tx.hgetall("h") == {b"a": b"1"}
        assert (tx.set("k", "v", ex=100), tx.get("k"), tx.get("none"), tx.exists("k", "h")) == (True, b"v", None, 2)
        assert tx.zadd("z", {"m": 1.5}) == 1
        assert tx.zrange("z", 0, -1, withscores=True) == [(b"m", 1.5)]
        assert tx.mget("k", "none") == [b"v", None]
        assert tx.object("encoding", "k") == b"embstr"
        with tx.pipeline() as steps:
            steps.incr("n")
            steps.incr("n")
            steps.get("none")
            steps.hgetall("h")
            assert len(steps) == 4
            assert steps.execute() == [1, 2, None, {b"a": b"1"}]
            assert steps.execute() == []


@pytest.mark.parametrize("options", [{"protocol": 2}, {"protocol": 3}, {"decode_responses": True}], ids=str)
def test_replies_do_not_depend_on_the_connection(server: RedisServer, options: dict[str, Any]) -> None:
    with redis.Redis.from_url(server.url, **options) as client, fencing.redis(client, 7, **ORDERS) as tx:
        text: Callable[[str], Any] = str if "decode_responses" in options else str.encode
        tx.hset("h", mapping={"a": 1})
        assert tx.hgetall("h") == {text("a"): text("1")}
        assert tx.mget("none", "none") == [None, None]
        assert tx.sismember("s", "x") == 0


def test_the_fence_never_expires_and_is_read_before_anything_else(client: redis.Redis) -> None:
    with fencing.redis(client, 7, **ORDERS) as tx:
        assert client.hgetall(FENCE) == {b"token": b"7", b"seq": b"0", b"authority": b""}
        tx.get("k")
    assert client.ttl(FENCE) == -1


def collect(steps: Any, value: int) -> None:
    steps.set("a", value)
    steps.lpush("text", 1)
    steps.set("b", value)


def test_a_step_is_atomic_and_the_first_failure_ends_it(client: redis.Redis) -> None:
    client.set("text", "x")
    with fencing.redis(client, 7, **ORDERS) as tx:
        steps = tx.pipeline()
        collect(steps, 1)
        with pytest.raises(ResponseError, match="WRONGTYPE") as failed:
            steps.execute()
        assert failed.value.__notes__ == ["command 2 of 3 (LPUSH): those before it are done, the others are not"]
        assert (client.get("a"), client.get("b")) == (b"1", None)
        collect(steps, 2)
        first, second = steps.execute(raise_on_error=False)
        assert first is True
        assert isinstance(second, ResponseError)
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            tx.lpush("text", 1)


def test_a_stale_step_does_nothing_at_all(client: redis.Redis) -> None:
    with fencing.redis(client, 7, **ORDERS) as tx:
        fencing.open(client, 9, **ORDERS)
        steps = tx.pipeline()
        steps.set("a", 1)
        steps.set("b", 1)
        for attempt in (steps.execute, lambda: tx.set("a", 1), lambda: tx.get("a"), lambda: tx.eval("return 1", 0)):
            with pytest.raises(StaleToken):
                attempt()
    assert client.keys("*") == [FENCE.encode()]


def test_a_script_of_ones_own_is_a_step(client: redis.Redis) -> None:
    with fencing.redis(client, 7, **ORDERS) as tx:
        assert tx.eval("return redis.call('INCRBY', KEYS[1], ARGV[1])", 1, "n", 5) == 5
        assert tx.eval("return {#KEYS, #ARGV}", 2, "a", "b", "c") == [2, 1]
        assert tx.eval("return", 0) is None
        assert tx.eval("-- ends with a comment\nreturn 1 -- here", 0) == 1
        with pytest.raises(ResponseError, match="none of that"):
            tx.eval("return redis.error_reply('none of that')", 0)
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            tx.eval("return redis.call('LPUSH', KEYS[1], 1)", 1, "n")
        with pytest.raises(UsageError, match="a step of its own"):
            tx.pipeline().eval("return 1", 0)


@pytest.mark.parametrize("name", ["SELECT", "flushdb", "FLUSHALL", "EVALSHA", "FCALL", "SCRIPT LOAD", "SWAPDB"])
def test_what_leaves_the_check_behind_is_refused_before_it_is_sent(client: redis.Redis, name: str) -> None:
    with fencing.redis(client, 7, **ORDERS) as tx:
        for attempt in (tx.execute_command, tx.pipeline().execute_command):
            with pytest.raises(UsageError, match="cannot be fenced"):
                attempt(name, "1", "2")
        with pytest.raises(UsageError, match="split it"):
            tx.mget(["k"] * 7_000)
        assert tx.mget(["k"] * 6_999) == [None] * 6_999


def test_a_guard_is_entered_once_at_a_time_and_ends_with_its_block(client: redis.Redis) -> None:
    guard = fencing.redis(client, 7, **ORDERS)
    with guard as tx:
        tx.incr("n")
    with guard as tx:
        tx.incr("n")
        with pytest.raises(UsageError, match="entered already"):
            guard.__enter__()
    with pytest.raises(UsageError, match="has ended"):
        tx.incr("n")
    assert client.get("n") == b"2"


def test_a_resource_may_be_called_anything_and_no_two_share_a_fence(client: redis.Redis) -> None:
    names = ("x", "{x}", "a}b", "it's 100%", "große Halle/Ü", "y" * 512, "X", "x ")
    for token, name in enumerate(reversed(names), 1):
        fencing.open(client, token, resource=name)
        with pytest.raises(UsageError):
            fencing.redis(client, 0, resource=name)
    assert set(client.keys("tenure:fence:*")) == {f"tenure:fence:{{{name}}}".encode() for name in names}


@pytest.mark.parametrize("options", [{"decode_responses": True}, {"decode_responses": True, "encoding": "latin-1"}])
def test_an_authority_is_read_as_it_was_written(server: RedisServer, options: dict[str, Any]) -> None:
    with redis.Redis.from_url(server.url, **options) as client:
        fencing.open(client, Grant("orders", 7, 7, "redis:a1/große"))
        fencing.open(client, Grant("orders", 7, 7, "redis:b2/große"))
        with pytest.raises(ForeignToken) as refused:
            fencing.open(client, Grant("orders", 8, 8, "redis:a1/kleine"))
        assert (refused.value.fenced_by, refused.value.fence) == ("redis/große", 7)


def test_what_is_no_client_is_refused(client: redis.Redis) -> None:
    with pytest.raises(UsageError, match="pipeline is no client"):
        fencing.redis(client.pipeline(), 7, **ORDERS)
    with pytest.raises(UsageError, match="not str"):
        fencing.redis("redis://", 7, **ORDERS)  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="row"):
        fencing.open(client, 7, row=fencing.Row("t", {"id": 1}))


# -- numbered operations ---------------------------------------------------------------------------------------------


def test_a_numbered_block_reads_freely_and_makes_one_writing_step(client: redis.Redis) -> None:
    with fencing.redis(client, 7, **ORDERS, seq=1) as tx:
        assert tx.get("n") is None
        steps = tx.pipeline()
        steps.incr("n")
        steps.incr("n")
        assert steps.execute() == [1, 2]
        assert tx.get("n") == b"2"
        with pytest.raises(UsageError, match="one pipeline"):
            tx.incr("n")
    with pytest.raises(StaleOperation), fencing.redis(client, 7, **ORDERS, seq=1):
        pass
    assert client.get("n") == b"2"


def test_a_delayed_duplicate_that_was_sent_before_is_refused_by_the_step(client: redis.Redis) -> None:
    with fencing.redis(client, 7, **ORDERS, seq=1) as late, fencing.redis(client, 7, **ORDERS, seq=1) as first:
        first.incr("n")
        with pytest.raises(StaleOperation):
            late.incr("n")
    assert client.get("n") == b"1"


@pytest.mark.parametrize("script", [False, True])
def test_a_number_is_given_back_if_its_step_fails(client: redis.Redis, *, script: bool) -> None:
    client.set("text", "x")
    for _ in range(2):
        with fencing.redis(client, 7, **ORDERS, seq=1) as tx, pytest.raises(ResponseError, match="WRONGTYPE"):
            if script:
                tx.eval("redis.call('LPUSH', KEYS[1], 1)", 1, "text")
            else:
                tx.lpush("text", 1)
    with fencing.redis(client, 7, **ORDERS, seq=1) as tx:
        tx.incr("n")


# -- what servers do ---------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("program", ["redis-6.2", "valkey"])
def test_an_old_server_and_another_one_do_the_same(program: Program) -> None:
    if reason := missing(program):
        pytest.skip(reason)
    with RedisServer(program=program) as server, redis.Redis.from_url(server.url, protocol=2) as client:
        assert disagreements(client, scripts.commands().text.decode(), scripts.raising().text.decode()) == []
        client.set("text", "x")
        with fencing.redis(client, TOKEN_MAX, **ORDERS, seq=1) as tx:
            steps = tx.pipeline()
            collect(steps, 1)
            with pytest.raises(ResponseError, match="WRONGTYPE"):
                steps.execute()
        with fencing.redis(client, TOKEN_MAX, **ORDERS, seq=1) as tx, pytest.raises(ResponseError, match="WRONGTYPE"):
            tx.eval("return redis.call('LPUSH', KEYS[1], 1)", 1, "text")
        with fencing.redis(client, TOKEN_MAX, **ORDERS, seq=1) as tx:
            assert tx.eval("return redis.call('INCR', KEYS[1])", 1, "n") == 1


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
