"""Cancellation on the real event loop: after every number of turns, by every means that users have."""

# ruff: noqa: PT012, ASYNC110 - the body of the lease is what is tested; what is polled has no event

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import anyio
import pytest

from tenure import AcquireTimeout, AsyncClient, Client
from tests.timing import Bound

TURNS = 14
"""More turns of the loop than any of the bodies below takes to its end (checked)."""


async def is_clean(client: AsyncClient, held: tuple[str, ...] = ()) -> None:
    """Every name is free but these, and whoever asks gets it."""
    end = time.monotonic() + 10
    while (left := await client.names()) != sorted(held):
        assert time.monotonic() < end, f"still held or waited for: {left}"
        await asyncio.sleep(0.001)
    lease = await client.lock("name", wait=5).acquire()
    await lease.release()
    ledger = client._core.ledger
    while ledger.debts or any(session.claims for session in ledger.sessions):
        assert time.monotonic() < end, f"the client still owes {ledger.debts}"
        await asyncio.sleep(0.001)
    assert ledger.waiters.waiting == {}
    assert ledger.waiters.reader is None


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def ended(task: asyncio.Task[Any]) -> BaseException | None:
    """Wait for a task, and return what it ended with."""
    await asyncio.wait([task])
    return asyncio.CancelledError() if task.cancelled() else task.exception()


async def work(client: AsyncClient) -> str:
    async with client.lock("name", wait=20) as lease:
        assert lease.held
        await turns(2)
    return "done"


@pytest.mark.parametrize("again", [None, 0, 1, 3])
def test_cancelled_after_any_number_of_turns(url: str, again: int | None) -> None:
    async def main() -> None:
        async with AsyncClient(url) as client:
            for count in range(TURNS):
                task = asyncio.create_task(work(client))
                await turns(count)
                task.cancel()
                if again is not None:
                    await turns(again)
                    task.cancel()
                outcome = await ended(task)
                assert outcome is None or isinstance(outcome, asyncio.CancelledError)
                await is_clean(client)

    asyncio.run(main())


@pytest.mark.parametrize("again", [None, 0, 2])
def test_cancelled_while_it_waits_and_while_the_grant_comes(url: str, again: int | None) -> None:
    async def main() -> None:
        async with AsyncClient(url) as client, AsyncClient(url) as other:
            for count in range(TURNS):
                held = await other.lock("name").acquire()
                task = asyncio.create_task(work(client))
                while len((await other.inspect("name")).waiters) != 1:
                    await asyncio.sleep(0)
                release = asyncio.create_task(held.release())
                await turns(count)
                task.cancel()
                if again is not None:
                    await turns(again)
                    task.cancel()
                outcome = await ended(task)
                assert outcome is None or isinstance(outcome, asyncio.CancelledError)
                await release
                await is_clean(client)

    asyncio.run(main())


def test_the_turns_are_more_than_a_body_takes() -> None:
    async def main() -> None:
        async with AsyncClient("memory://turns") as client:
            task = asyncio.create_task(work(client))
            await turns(TURNS)
            assert task.done()

    asyncio.run(main())


def test_cancelled_while_the_client_opens(url: str) -> None:
    async def main() -> None:
        for count in range(6):
            client = AsyncClient(url)
            task = asyncio.create_task(work(client))
            await turns(count)
            task.cancel()
            await ended(task)
            lease = await client.lock("name", wait=5).acquire()
            assert lease.held
            await lease.release()
            await is_clean(client)
            await client.close()

    asyncio.run(main())


def test_closed_while_it_opens(url: str) -> None:
    async def main() -> None:
        for count in range(4):
            client = AsyncClient(url)
            task = asyncio.create_task(work(client))
            await turns(count)
            await client.close()
            outcome = await ended(task)
            assert outcome is None or "closed" in str(outcome)
            assert not client._core.is_open
        async with AsyncClient(url) as other:
            await is_clean(other)

    asyncio.run(main())


async def waiting(client: AsyncClient) -> str:
    """Never granted: the name is held for good."""
    async with client.lock("held", wait=None):
        return "granted"


def contended(url: str, cancel: Any) -> None:
    async def main() -> None:
        async with AsyncClient(url) as client, AsyncClient(url) as other:
            held = await other.lock("held").acquire()
            await cancel(client)
            while (await other.inspect("held")).waiters:
                await asyncio.sleep(0.001)
            assert held.held
            await is_clean(client, ("held",))
            await held.release()

    asyncio.run(main())


def test_by_a_timeout(url: str) -> None:
    async def cancel(client: AsyncClient) -> None:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.05):
                await waiting(client)
        assert not isinstance(caught.value, AcquireTimeout)

    contended(url, cancel)


def test_by_wait_for(url: str) -> None:
    async def cancel(client: AsyncClient) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiting(client), 0.05)

    contended(url, cancel)


def test_by_a_sibling_that_fails(url: str) -> None:
    async def fails() -> None:
        await asyncio.sleep(0.03)
        raise KeyError("the sibling")

    async def cancel(client: AsyncClient) -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(waiting(client)) for _ in range(3)]
                group.create_task(fails())
        assert caught.group_contains(KeyError)
        assert all(task.cancelled() for task in tasks)

    contended(url, cancel)


def test_by_a_scope_of_anyio(url: str) -> None:
    async def cancel(client: AsyncClient) -> None:
        with anyio.move_on_after(0.03) as scope:
            await waiting(client)
        assert scope.cancelled_caught

    contended(url, cancel)


def test_a_scope_of_anyio_that_is_cancelled_while_a_lease_is_held(url: str) -> None:
    async def main() -> None:
        async with AsyncClient(url) as client:
            with anyio.CancelScope() as scope:
                async with client.lock("name"):
                    scope.cancel()
                    await anyio.sleep(5)
            assert scope.cancelled_caught
            # Inside a cancelled scope every await raises again: whatever cleans up there must not need one.
            with anyio.CancelScope() as scope:
                lease = await client.lock("name").acquire()
                scope.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await lease.release()
                with contextlib.suppress(asyncio.CancelledError):
                    await lease.release()
            await is_clean(client)

    asyncio.run(main())


def test_by_the_teardown_of_the_loop(url: str) -> None:
    with Client(url) as other:
        held = other.lock("held").acquire()
        clients: list[AsyncClient] = []

        async def main() -> None:
            client = AsyncClient(url)
            clients.append(client)
            await client.open()
            tasks: list[asyncio.Task[Any]] = [asyncio.create_task(waiting(client)) for _ in range(3)]
            tasks.append(asyncio.create_task(holding(client)))
            while len(other.inspect("held").waiters) < 3 or "mine" not in other.names():
                await asyncio.sleep(0.001)
            # The loop ends here while they wait and hold, and nobody closes the client.

        asyncio.run(main())
        end = time.monotonic() + 10
        while other.inspect("held").waiters or other.names() != ["held"]:
            assert time.monotonic() < end, other.names()
            time.sleep(0.001)
        assert held.held
        held.release()
        clients[0]._core.close()


async def holding(client: AsyncClient) -> None:
    async with client.lock("mine"):
        await asyncio.Event().wait()


def test_a_generator_that_is_never_finished(url: str) -> None:
    """The loop's own finalizer leaves it, in another task than entered it."""

    async def produce(client: AsyncClient) -> Any:
        async with client.lock("name"):
            yield 1
            yield 2

    async def main() -> None:
        async with AsyncClient(url) as client:
            async for _ in produce(client):
                break
            import gc

            gc.collect()
            await is_clean(client)

    asyncio.run(main())


def test_cancelling_one_of_many_waiters_disturbs_no_other(url: str) -> None:
    async def main() -> None:
        async with AsyncClient(url) as client, AsyncClient(url) as other:
            for victim in range(4):
                held = await other.lock("name").acquire()
                tasks = [asyncio.create_task(work(client)) for _ in range(4)]
                while len((await other.inspect("name")).waiters) != 4:
                    await asyncio.sleep(0)
                tasks[victim].cancel()
                await held.release()
                begun = time.monotonic()
                outcomes = [await ended(task) for task in tasks]
                assert [isinstance(o, asyncio.CancelledError) for o in outcomes] == [n == victim for n in range(4)]
                assert time.monotonic() - begun < Bound(3)
                await is_clean(client)

    asyncio.run(main())
