"""A task that is cancelled at any await, once or twice, leaves nothing in the queue of a real server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tenure import AcquireTimeout, AsyncClient, OutcomeUnknown, StoreUnavailable

# Every await of every protocol, which is found by counting them.
from tests.cancellation.awaits import (  # noqa: F401
    test_cancelled_at_any_await,
    test_cancelled_at_any_await_of_the_first_use,
    test_cancelled_at_any_await_while_others_hold_it,
    test_positive_control_without_abandon_something_is_left,
)

# What users do, as on the other engines.
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
from tests.servers import zookeeper
from tests.servers.proxy import Proxy
from tests.zookeeper.rig import through

if TYPE_CHECKING:
    from tests.servers.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.skipif(zookeeper.missing() is not None, reason=zookeeper.missing() or "")


def test_a_loop_that_is_blocked_past_the_ttl_keeps_its_leases(url: str) -> None:
    """And a busy thread of ours never blocks the loop: what waits for the server is another thread."""

    async def main() -> None:
        import time

        async with AsyncClient(url, ttl=1) as client:
            lease = await client.lock("n").acquire()
            time.sleep(2.5)  # noqa: ASYNC251 - that is the point
            assert lease.held
            await lease.release()

    asyncio.run(main())


def test_a_server_that_is_mute_does_not_block_the_loop(server: ZooKeeperServer) -> None:
    async def main() -> int:
        turns = 0

        async def tick() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.01)

        with Proxy(server.address) as proxy:
            async with AsyncClient(through(proxy, server), ttl=3) as client:
                lease = await client.lock("n").acquire()
                ticking = asyncio.create_task(tick())
                proxy.hold()
                with pytest.raises((StoreUnavailable, OutcomeUnknown, AcquireTimeout)):
                    await client.lock("other", wait=1).acquire()
                ticking.cancel()
                proxy.heal()
                await lease.release()
        return turns

    assert asyncio.run(main()) > 30
