"""What a drill sees of the connections that it watches; those of SQL are in `tests/fencing/test_stepped.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio

import tenure
from tenure.errors import StaleToken
from tenure.testing import DrillFailed, drill
from tests.servers.redis import RedisServer, missing

if TYPE_CHECKING:
    from collections.abc import Iterator

RAISE = """
local fence = tonumber(redis.call('GET', KEYS[2]) or '0')
if tonumber(ARGV[1]) < fence then return -1 end
redis.call('SET', KEYS[2], ARGV[1])
if ARGV[2] then redis.call('SET', KEYS[1], ARGV[2]) end
return tonumber(redis.call('GET', KEYS[1]) or '0')
"""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    if reason := missing():
        pytest.skip(reason)
    with RedisServer() as server:
        yield server.port


@pytest.fixture(autouse=True)
def nothing_is_there(port: int) -> None:
    with redis.Redis(port=port) as client:
        client.flushall()


def connect(port: int) -> Any:
    return lambda: redis.Redis(port=port, decode_responses=True)


def value(client: Any) -> int:
    return int(client.get("v") or 0)


def compared(lease: Any, client: Any) -> None:
    """Numbers of so many digits are exact in Lua; a guard must not rest on that."""

    def ask(*more: int) -> int:
        answer = client.eval(RAISE, 2, "v", "v.fence", lease.token, *more)
        if answer < 0:
            raise StaleToken("stale")
        return int(answer)

    ask(ask() + 1)


def unfenced(lease: Any, client: Any) -> None:
    client.set("v", value(client) + 1)


def optimistic(lease: Any, client: Any) -> None:
    """Loses nothing, by another means than the lease: whoever comes too late is told by WATCH."""
    with client.pipeline() as pipe:
        pipe.watch("v")
        found = int(pipe.get("v") or 0)
        pipe.multi()
        pipe.set("v", found + 1)
        pipe.execute()


def test_the_commands_of_redis_are_points(port: int) -> None:
    drilled = drill(compared, connect=connect(port), value=value)
    assert [place.partition(" ")[0] for place in drilled.points] == ["EVAL", "EVAL"]
    assert drilled.refused
    with pytest.raises(DrillFailed) as found:
        drill(unfenced, connect=connect(port), value=value)
    assert found.value.kind == "lost"
    assert "GET v" in [line.what for line in found.value.timeline]


def test_a_pipeline_of_redis_has_its_points(port: int) -> None:
    """WATCH tells whoever comes second, rightful or not: that is no fence, and not what a drill takes for one."""
    with pytest.raises(DrillFailed) as found:
        drill(optimistic, connect=connect(port), value=value, refusal=redis.WatchError)
    assert found.value.kind == "denied"
    seen = [line.what for line in found.value.timeline if line.who == "first"]
    assert [place for place in seen if place in ("WATCH v", "GET v", "EXEC")] == ["WATCH v", "GET v", "EXEC"]
    with pytest.raises(DrillFailed) as found:
        drill(optimistic, connect=connect(port), value=value)
    assert found.value.kind == "void"


def test_the_commands_of_asynchronous_redis_are_points(port: int) -> None:
    async def path(lease: Any, client: Any) -> None:
        await client.set("v", int(await client.get("v") or 0) + 1)

    async def look(client: Any) -> int:
        return int(await client.get("v") or 0)

    with pytest.raises(DrillFailed) as found:
        drill(path, connect=lambda: redis.asyncio.Redis(port=port, decode_responses=True), value=look)
    assert found.value.kind == "lost"
    assert isinstance(found.value, AssertionError)
    assert not isinstance(found.value, tenure.TenureError)
