"""A task that is cancelled at any await, once or twice, leaves nothing in the queue of a real server."""

# ruff: noqa: ASYNC110 - what is polled has no event

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Final, Literal

import pytest

from tenure import AcquireTimeout, AsyncClient, OutcomeUnknown, StoreUnavailable
from tests.cancellation.awaits import (  # noqa: F401
    LONG,
    cycle,
    is_clean,
    test_cancelled_at_any_await,
    test_cancelled_at_any_await_of_the_first_use,
    test_cancelled_at_any_await_while_others_hold_it,
    test_positive_control_without_abandon_something_is_left,
)

# What users do, as on the other engines. The counts of turns there are too few to reach a reply from another process;
# here every await is found instead.
from tests.cancellation.test_asyncio import (  # noqa: F401
    test_a_generator_that_is_never_finished,
    test_a_scope_of_anyio_that_is_cancelled_while_a_lease_is_held,
    test_by_a_scope_of_anyio,
    test_by_a_sibling_that_fails,
    test_by_a_timeout,
    test_by_the_teardown_of_the_loop,
    test_by_wait_for,
    test_cancelled_while_it_waits_and_while_the_grant_comes,
    test_cancelling_one_of_many_waiters_disturbs_no_other,
    test_closed_while_it_opens,
)
from tests.redis.rig import through
from tests.servers import redis
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(redis.missing() is not None, reason=redis.missing() or "")

_serial = itertools.count(1)
TASKS: Final = 200


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(extra=["databases 10000"]) as server:
        yield server


@pytest.fixture
def url(server: RedisServer) -> str:
    """A fresh store."""
    return f"{server.url}/{next(_serial)}"


def test_a_cancelled_connection_attempt_disturbs_nobody_else(server: RedisServer, url: str) -> None:
    async def main() -> None:
        with Proxy(server.address) as proxy:
            async with AsyncClient(through(proxy), ttl=LONG) as client:
                proxy.hold()
                first, second = (asyncio.create_task(cycle(client)) for _ in range(2))
                while not proxy.held("requests"):
                    await asyncio.sleep(0.001)
                first.cancel()
                proxy.let_go()
                await asyncio.wait_for(second, 5)
                assert first.cancelled()

    asyncio.run(main())


# -- many tasks -------------------------------------------------------------------------------------------------------


def test_two_hundred_tasks_on_a_connection_that_is_cut_all_end(server: RedisServer) -> None:
    async def work(client: AsyncClient, number: int) -> str:
        try:
            async with client.lock(f"n{number % 50}", wait=15):
                await asyncio.sleep(0)
        except (StoreUnavailable, OutcomeUnknown, AcquireTimeout) as error:
            return type(error).__name__
        return "granted"

    async def main() -> dict[str, int]:
        server.cli("FLUSHALL")
        with Proxy(server.address) as proxy:
            async with AsyncClient(through(proxy), ttl=12) as client, AsyncClient(server.url, ttl=LONG) as witness:
                ends: list[str] = []
                hows: list[Literal["rst", "fin"]] = ["rst", "fin"]
                for how in hows:
                    await cycle(client)  # a connection attempt that fails is one answer for all
                    tasks = [asyncio.create_task(work(client, number)) for number in range(TASKS)]
                    proxy.hold("requests")
                    while not proxy.held("requests"):
                        await asyncio.sleep(0.001)
                    proxy.cut(how)
                    proxy.heal()
                    await asyncio.sleep(0.01)
                    proxy.cut(how)
                    ends += await asyncio.wait_for(asyncio.gather(*tasks), 40)
                await is_clean(client, witness)
                return {end: ends.count(end) for end in set(ends)}

    ends = asyncio.run(main())
    print(ends)
    assert sum(ends.values()) == 2 * TASKS
    assert ends["granted"] > TASKS


def test_fifty_tasks_share_one_name_and_one_connection(server: RedisServer, url: str) -> None:
    inside: list[int] = []
    tokens: list[int] = []

    async def work(client: AsyncClient, number: int) -> None:
        for _ in range(4):
            async with client.lock("n", wait=20) as lease:
                inside.append(number)
                await asyncio.sleep(0)
                assert inside == [number]
                tokens.append(lease.token)
                inside.clear()

    async def main() -> int:
        before = int(server.info("clients")["connected_clients"])
        async with AsyncClient(url, ttl=LONG) as client:
            await asyncio.gather(*(work(client, number) for number in range(50)))
            # The callers', the keeper's, the mailbox's.
            return int(server.info("clients")["connected_clients"]) - before

    assert asyncio.run(main()) <= 3
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 200
