"""What a block of the guard of Redis does: the driver's commands, each a step that checks first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio
from redis.exceptions import ResponseError

from tenure import fencing
from tenure.errors import (
    ForeignToken,
    StaleOperation,
    StaleToken,
    UsageError,
)
from tenure.model import Grant
from tests.fencing.keys import FENCE, ORDERS, collect
from tests.servers.redis import RedisServer, missing

if TYPE_CHECKING:
    from collections.abc import Callable


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


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
