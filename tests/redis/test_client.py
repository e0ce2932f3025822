"""A Redis client that the user already has is taken in the place of a URL."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio

from tenure import AsyncClient, Client, UsageError
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

WORD = "p@ss:word"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(password=WORD) as server:
        yield server


@pytest.mark.parametrize("module", [redis, redis.asyncio])
def test_its_settings_are_used_and_its_connections_are_not(server: RedisServer, module: Any) -> None:
    theirs = module.Redis(host=server.host, port=server.port, db=3, password=WORD, decode_responses=True)
    with Client(theirs) as client, client.lock("n") as lease:
        assert lease.grant.authority.startswith("redis:")
        with Client(f"{server.url}/3") as other:
            assert other.lock("n").try_acquire() is None
    assert theirs.connection_pool._available_connections == []
    assert WORD not in repr(client)
    assert repr(client) == "<Client 'redis.Redis'>"


def test_an_async_client_takes_one_too(server: RedisServer) -> None:
    async def scenario() -> int:
        theirs = redis.asyncio.Redis(host=server.host, port=server.port, password=WORD)
        async with AsyncClient(theirs) as client, client.lock("n") as lease:
            return lease.token

    assert asyncio.run(scenario()) > 0


def test_what_is_no_client_is_refused() -> None:
    with pytest.raises(UsageError, match="a string or a Redis client is needed, not int"):
        Client(17)  # type: ignore[arg-type]
