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
import valkey
import valkey.asyncio

from tenure import AsyncClient, Client, IncompatibleStore, OutcomeUnknown, UnsafeSetup, UsageError
from tenure.runtimes import native
from tests.docs.blocks import ROOT
from tests.faces.programs import GREENLETS
from tests.faces.watched import Looped
from tests.redis.rig import TTL
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


@pytest.mark.parametrize("kind", [Client, Looped])
def test_one_that_is_closed_before_or_meanwhile_is_no_matter(server: RedisServer, kind: Any) -> None:
    with redis.Redis(port=server.port, password=WORD) as theirs, kind(theirs, ttl=TTL) as client:
        theirs.ping()
        lease = client.lock("n").acquire()
        since = native.now()
        theirs.close()
        theirs.connection_pool.disconnect()
        until(lambda: native.now() > since + 1.5 * TTL, "the first deadline is over")
        assert lease.held
        lease.release()
    with kind(theirs) as client:
        client.lock("n").acquire().release()


class Odd:
    """A pool, or something else of that name."""

    connection_pool = object()


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (17, "a string or a Redis client is needed, not int"),
        (redis.Redis, "a string or a Redis client is needed"),
        (redis.ConnectionPool(), "a string or a Redis client is needed, not ConnectionPool"),
        (Odd(), "its settings are not as redis-py or valkey-py have them"),
        (redis.Redis(port="http"), "its settings are not as redis-py or valkey-py have them"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_client_is_refused(what: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Client(what)


# -- its options ------------------------------------------------------------------------------------------------------

PAIRS = [
    (Client, redis.Redis),
    (Client, valkey.asyncio.Valkey),
    (Looped, redis.asyncio.Redis),
    (Looped, valkey.Valkey),
]
KEY = "lock:n"


@pytest.mark.parametrize(("kind", "library"), PAIRS)
def test_beside_a_client_object_plain_keys_are_taken_kept_honoured_and_let_go(
    server: RedisServer, kind: Any, library: Any
) -> None:
    server.cli("FLUSHALL")
    theirs = library(host=server.host, port=server.port, password=WORD)
    with (
        redis.Redis(port=server.port, password=WORD) as plain,
        kind(theirs, ttl=TTL, options={"plain_key": "lock:{name}"}) as client,
    ):
        assert plain.set(KEY, "theirs", nx=True)
        assert client.lock("n").try_acquire() is None
        plain.delete(KEY)
        lease = client.lock("n").acquire()
        since = native.now()
        assert not plain.set(KEY, "theirs", nx=True)
        until(lambda: native.now() > since + 1.5 * TTL, "the first key would be over")
        assert lease.held
        assert 0 < plain.pttl(KEY) <= TTL * 1000
        lease.release()
        assert not plain.exists(KEY)
        with pytest.raises(IncompatibleStore, match=r"told '\{name\}'"), kind(theirs, options={"plain_key": "{name}"}):
            pass


@pytest.mark.parametrize(("kind", "library"), PAIRS)
@pytest.mark.parametrize("given", [1, "1"])
def test_beside_a_client_object_what_no_replica_has_is_not_handed_out(
    server: RedisServer, kind: Any, library: Any, given: object
) -> None:
    server.cli("FLUSHALL")
    theirs = library(host=server.host, port=server.port, password=WORD)
    with kind(theirs, options={"acknowledge": given}) as client, kind(theirs, options={"acknowledge": 0}) as control:
        with pytest.raises(OutcomeUnknown, match="0 of the 1 replicas"):
            client.lock("n", wait=1).acquire()
        control.lock("m").acquire().release()


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"plain_key": "lock"}, r"options: plain_key has \{name\} in it once"),
        ({"plain_key": "x" * 195 + "{name}"}, "options: plain_key has at most 200 bytes"),
        ({"plain_key": None}, "options: plain_key: a string"),
        ({"plain_key": "{name}\ud800"}, "options: plain_key: a lone surrogate"),
        ({"acknowledge": -1}, "options: acknowledge is a whole number from 0 to 100"),
        ({"acknowledge": 101}, "options: acknowledge is a whole number from 0 to 100"),
        ({"acknowledge": 10**5000}, "options: acknowledge is a whole number from 0 to 100"),
        ({"acknowledge": True}, "options: acknowledge: a string"),
        ({"acknowledge": 1.0}, "options: acknowledge: a string"),
        ({"partitions": 8}, "options: unknown option 'partitions'; allowed here are plain_key, acknowledge"),
        ({"db": 1}, "options: unknown option 'db'"),
        ({1: 1}, "options: a string"),
        ("acknowledge=1", "options: a mapping of names to values is needed, not str"),
        ([], "options: a mapping"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_sent(kind: Any, options: Any, says: str) -> None:
    """There is no server."""
    with pytest.raises(UsageError, match=says):
        kind(redis.Redis(port=1), options=options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"plain_key": "{name}"}, "options: plain_key is not for a cluster"),
        ({"partitions": 0}, "options: partitions is a whole number from 1 to 1024"),
        ({"db": 1}, "options: unknown option 'db'; allowed here are acknowledge, partitions, plain_key"),
    ],
)
def test_wrong_options_of_a_cluster_are_refused_before_anything_is_sent(options: Any, says: str) -> None:
    theirs = redis.asyncio.RedisCluster(host="nowhere.invalid")
    with pytest.raises(UsageError, match=says):
        AsyncClient(theirs, options=options)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "memory://"])
def test_a_url_has_its_options_itself(url: str) -> None:
    with pytest.raises(UsageError, match="options: they are for a client object; a URL has its own"):
        Client(url, options={"acknowledge": 1})
    Client(url, options={})


# -- its rights, and gevent -------------------------------------------------------------------------------------------


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
