"""Many tasks of one client of a real server: whom a cancellation or a cut connection concerns, and what they share."""

# ruff: noqa: ASYNC110 - what is polled has no event

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Literal

from tenure import AcquireTimeout, OutcomeUnknown, StoreUnavailable
from tests.cancellation.awaits import cycle, is_clean
from tests.faces.watched import LONG
from tests.servers.processes import PATIENCE

if TYPE_CHECKING:
    from tenure import AsyncClient
    from tests.network.places import Place, Way
    from tests.servers.proxy import Proxy

TASKS: Final = 200


def test_a_cancelled_connection_attempt_disturbs_nobody_else(way: Way, proxy: Proxy) -> None:
    async def main() -> None:
        async with way.async_client(ttl=LONG) as client:
            proxy.hold()
            first, second = (asyncio.create_task(cycle(client)) for _ in range(2))
            while not proxy.held("requests"):
                await asyncio.sleep(0.001)
            first.cancel()
            proxy.let_go()
            await asyncio.wait_for(second, 5)
            assert first.cancelled()

    asyncio.run(main())


def test_two_hundred_tasks_on_a_connection_that_is_cut_all_end(way: Way, proxy: Proxy) -> None:
    async def work(client: AsyncClient, number: int) -> str:
        try:
            async with client.lock(f"n{number % 50}", wait=15):
                await asyncio.sleep(0)
        except (StoreUnavailable, OutcomeUnknown, AcquireTimeout) as error:
            return type(error).__name__
        return "granted"

    async def main() -> list[str]:
        ends: list[str] = []
        hows: list[Literal["rst", "fin"]] = ["rst", "fin"]
        async with way.async_client(ttl=12) as client, way.async_witness() as witness:
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
        return ends

    ends = asyncio.run(main())
    print({end: ends.count(end) for end in set(ends)})
    assert len(ends) == 2 * TASKS
    assert ends.count("granted") > TASKS


def test_fifty_tasks_share_one_name_and_few_connections(place: Place, way: Way, proxy: Proxy) -> None:
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

    async def main() -> None:
        async with way.async_client(ttl=LONG) as client:
            await asyncio.gather(*(work(client, number) for number in range(50)))
            # One that was given up for a slow answer may not have ended yet.
            while proxy.connections > place.for_tasks:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 200
