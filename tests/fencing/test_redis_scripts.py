"""The scripts of a fence say what the rule says, on every server that there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis
import redis.asyncio
from redis.exceptions import ResponseError

from tenure import fencing
from tenure.fencing.keyspace import scripts
from tenure.fencing.rule import TOKEN_MAX
from tests.fencing.keys import ORDERS, collect, disagreements
from tests.servers.redis import RedisServer, missing

if TYPE_CHECKING:
    from tests.servers.redis import Program

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


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
