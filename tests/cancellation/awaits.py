"""A task that is cancelled at any await, once or twice: tests for the engines with a server, whose files import them.

They want a fixture `url`, of a fresh store.
"""

# ruff: noqa: ASYNC110 - what is polled has no event

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from tenure import AsyncClient, AsyncLease
from tenure.protocols.ledger import Ledger
from tests.faces.watched import has_paid

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

LONG: Final = 60.0
"""A ttl that no test outlasts."""


class Plan(NamedTuple):
    """How a task is cancelled.

    Attributes:
        late: in the moment in which what it awaits has come, and not while it waits.
        again: turns of the loop after which it is cancelled a second time; None for once.
    """

    late: bool
    again: int | None


class Victim:
    """Awaits a coroutine and counts its awaits; at one of them, its task is cancelled."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int, plan: Plan) -> None:
        self._coroutine = coroutine
        self._at = at
        self._plan = plan
        self.awaits = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._coroutine.__await__()
        step: Callable[[Any], Any] = steps.send
        argument: Any = None
        while True:
            try:
                future = step(argument)
            except StopIteration as done:
                return done.value
            self.awaits += 1
            if self.awaits == self._at:
                self._strike(future)
            try:
                step, argument = steps.send, (yield future)
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's
                step, argument = steps.throw, error

    def _strike(self, future: Any) -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None

        def cancel(_: object = None) -> None:
            task.cancel()
            if self._plan.again is not None:
                asyncio.ensure_future(again(self._plan.again))  # noqa: RUF006 - it ends before its task does

        async def again(turns: int) -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()

        if self._plan.late and future is not None:
            future.add_done_callback(cancel)  # before the task's own, which is added when it is suspended
        else:
            loop.call_soon(cancel)


async def is_clean(client: AsyncClient, witness: AsyncClient, held: tuple[str, ...] = ()) -> None:
    """The keeper pays; then nothing is left, and whoever asks gets it."""
    end = time.monotonic() + 10
    while not has_paid(client) or await witness.names() != sorted(held):  # type: ignore[arg-type]
        assert time.monotonic() < end, f"left: {await witness.names()}, owed: {client._core.ledger.debts}"
        await asyncio.sleep(0.001)
    assert client._core.ledger.waiters.waiting == {}
    assert client._core.ledger.waiters.reader is None


async def cycle(client: AsyncClient) -> None:
    lease = await client.lock("n", wait=20).acquire()
    await lease.release()


async def block(client: AsyncClient) -> None:
    async with client.lock("n", wait=20) as lease:
        assert lease.held
        await asyncio.sleep(0)


async def attempt(client: AsyncClient) -> None:
    lease = await client.lock("n").try_acquire()
    assert lease is not None
    await lease.release()


async def interrupted(
    client: AsyncClient, work: Callable[[AsyncClient], Coroutine[Any, Any, None]], at: int, plan: Plan
) -> bool:
    """Run work whose task is cancelled at its k-th await; False if it has fewer."""
    victim = Victim(work(client), at, plan)

    async def run() -> None:
        await victim

    task = asyncio.create_task(run())
    await asyncio.wait([task])
    assert task.cancelled() or task.exception() is None, task.exception()
    return victim.awaits >= at


PLANS: Final = [Plan(False, None), Plan(True, None), Plan(False, 0), Plan(False, 1), Plan(True, 0), Plan(True, 1)]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("work", [cycle, block, attempt])
def test_cancelled_at_any_await(url: str, work: Callable[[AsyncClient], Coroutine[Any, Any, None]], plan: Plan) -> None:
    async def main() -> int:
        async with AsyncClient(url, ttl=LONG) as client, AsyncClient(url, ttl=LONG) as witness:
            for at in itertools.count(1):
                there = await interrupted(client, work, at, plan)
                await is_clean(client, witness)
                if not there:
                    return at
        raise AssertionError

    assert asyncio.run(main()) > 2


@pytest.mark.parametrize("plan", PLANS)
def test_cancelled_at_any_await_while_others_hold_it(url: str, plan: Plan) -> None:
    """It waits, listens, hears the grant; the name is let go when it waits."""

    async def main() -> int:
        async with AsyncClient(url, ttl=LONG) as client, AsyncClient(url, ttl=LONG) as witness:
            for at in itertools.count(1):
                held = await witness.lock("n").acquire()
                victim = asyncio.create_task(interrupted(client, cycle, at, plan))
                while not (await witness.inspect("n")).waiters and not victim.done():
                    await asyncio.sleep(0.001)
                await held.release()
                there = await victim
                await is_clean(client, witness)
                if not there:
                    return at
        raise AssertionError

    assert asyncio.run(main()) > 3


@pytest.mark.parametrize("plan", PLANS[:2])
def test_cancelled_at_any_await_of_the_first_use(url: str, plan: Plan) -> None:
    async def main() -> int:
        async with AsyncClient(url, ttl=LONG) as witness:
            for at in itertools.count(1):
                client = AsyncClient(url, ttl=LONG)
                there = await interrupted(client, cycle, at, plan)
                async with client:
                    await is_clean(client, witness)
                if not there:
                    return at
        raise AssertionError

    assert asyncio.run(main()) > 3


def test_positive_control_without_abandon_something_is_left(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "abandon", lambda self, claim: None)
    # Else the lease that nobody got is collected, and the keeper closes its claim for that.
    monkeypatch.setattr(AsyncLease, "__del__", lambda self: None)

    async def main() -> list[str]:
        async with AsyncClient(url, ttl=LONG) as client, AsyncClient(url, ttl=LONG) as witness:
            await cycle(client)
            await interrupted(client, cycle, 1, Plan(True, None))
            return await witness.names()

    assert asyncio.run(main()) == ["n"]
