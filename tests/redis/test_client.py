"""A Redis client that the user already has is taken in the place of a URL."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio

from tenure import AsyncClient, Client, UnsafeSetup, UsageError
from tests.docs.blocks import ROOT
from tests.faces.programs import GREENLETS
from tests.servers.processes import until
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

WORD = "p@ss:word"
SECRET = "secret"  # noqa: S105 - of a server that this test starts


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


def test_the_rights_that_the_documents_name_are_enough() -> None:
    rights = "+@read +@write +@scripting +@connection +info +time"
    assert rights in (ROOT / "docs/redis.md").read_text("utf-8")
    with RedisServer(users={"app": f"on >{SECRET} ~{{orders:* {rights}"}) as server:
        url = server.url_as("app", SECRET)
        with Client(url, namespace="orders", ttl=3) as client, Client(url, namespace="orders") as other:
            lease = client.lock("n").acquire()
            assert other.lock("n").try_acquire() is None
            assert client.names() == ["n"]
            with ThreadPoolExecutor() as pool:
                waiting = pool.submit(other.lock("n", wait=20).acquire)
                until(lambda: client.inspect("n").waiters, "the other waits")
                lease.release()
                waiting.result().release()
            with client.lock("n", lock_delay=1.0), client.semaphore("s", 2):
                pass
        with pytest.raises(UnsafeSetup), Client(url, namespace="others") as client:
            client.lock("n").acquire()


def test_under_gevent_the_keeper_keeps_and_other_greenlets_run(server: RedisServer) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GREENLETS, server.url], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("20 True\n", "")
