"""How the body of `async with` is cancelled on a loss: each row of the table in DESIGN, section 4.

A loss is made exactly when the test wants it: `lose` latches one in the ledger, from a callback of the loop, as the
keeper does; `deadline` lets the engine fail until the local deadline is over.
"""

# ruff: noqa: PT012, ASYNC110 - the body of the lease is what is tested; what is polled has no event

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import TYPE_CHECKING, Any

import pytest

from tenure import AsyncClient, AsyncLease, Client, LeaseLost, LossReason, StoreUnavailable
from tenure.body import Body
from tenure.engines.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_serial = itertools.count(1)


def lose(lease: AsyncLease, reason: LossReason = LossReason.STOLEN) -> None:
    """Latch a loss, as the keeper does; its callbacks run at once."""
    ledger = lease._core.ledger
    with ledger.mutex:
        ledger.lose(lease._own, reason, ledger.runtime.now())
    ledger.flush()


def soon(*actions: Callable[[], object]) -> None:
    """Do these in the next turn of the loop, in this order, before any task runs."""

    def do() -> None:
        for action in actions:
            action()

    asyncio.get_running_loop().call_soon(do)


def here() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def scenario(body: Callable[[AsyncClient], Awaitable[None]], **named: Any) -> None:
    """Run a body in a task of its own, and see that nothing is left of a cancellation in it."""

    async def inner(client: AsyncClient) -> None:
        base = here().cancelling()
        await body(client)
        assert here().cancelling() == base, "the count of cancellations is not back to its base"
        for _ in range(3):
            await asyncio.sleep(0)  # a stray cancellation would strike here

    async def main() -> None:
        async with AsyncClient(f"memory://body-{next(_serial)}", **named) as client, asyncio.timeout(20):
            await asyncio.create_task(inner(client))

    asyncio.run(main())


# -- the loss alone ---------------------------------------------------------------------------------------------------


async def loss_alone(client: AsyncClient) -> None:
    with pytest.raises(LeaseLost) as caught:
        async with client.lock("name") as lease:
            soon(lambda: lose(lease))
            await asyncio.sleep(20)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert caught.value.reason is LossReason.STOLEN
    assert (caught.value.name, caught.value.token) == ("name", lease.token)


def test_a_loss_cancels_the_body_and_raises_lease_lost() -> None:
    scenario(loss_alone)


def test_a_loss_by_a_real_steal_and_by_a_real_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = False
    heartbeat = MemoryStore.heartbeat

    async def perhaps(self: MemoryStore, *arguments: Any) -> Any:
        if cut:
            raise StoreUnavailable("cut off by the test")
        return await heartbeat(self, *arguments)

    monkeypatch.setattr(MemoryStore, "heartbeat", perhaps)

    async def body(client: AsyncClient) -> None:
        nonlocal cut
        with pytest.raises(LeaseLost, match="stole"):
            async with client.lock("name") as lease:
                assert await client.steal("name", lease.token)
                await asyncio.sleep(20)
        with pytest.raises(LeaseLost, match="deadline") as caught:
            async with client.lock("name") as lease:
                cut = True
                await asyncio.sleep(20)
        now = client._core.ledger.runtime.now()
        assert lease.deadline <= now < lease.deadline + 2
        assert caught.value.reason is LossReason.DEADLINE
        cut = False

    scenario(body, ttl=0.3)


def test_the_timer_alone_cancels_at_the_deadline() -> None:
    """Without the keeper: after a stop of the whole process it may come a hundred turns later."""

    async def body(client: AsyncClient) -> None:
        with pytest.raises(LeaseLost, match="max_hold"):
            async with client.lock("name", max_hold=0.2) as lease:
                lease._own.on_lost.clear()
                await asyncio.sleep(20)

    scenario(body)


def test_the_timer_is_armed_anew_when_the_deadline_moved() -> None:
    async def body(client: AsyncClient) -> None:
        async with client.lock("name") as lease:
            first = lease.deadline
            while lease.deadline < first + 0.7:
                await asyncio.sleep(0.02)
            assert lease.held

    scenario(body, ttl=0.3)


def test_a_lease_lost_before_it_is_entered_cancels_at_the_first_await() -> None:
    async def body(client: AsyncClient) -> None:
        lease = await client.lock("name").acquire()
        lose(lease)
        with pytest.raises(LeaseLost):
            async with lease:
                await asyncio.sleep(20)

    scenario(body)


def test_a_timeout_inside_the_block_is_none_of_ours() -> None:
    async def body(client: AsyncClient) -> None:
        with pytest.raises(LeaseLost):
            async with client.lock("name") as lease, asyncio.timeout(20):
                soon(lambda: lose(lease))
                await asyncio.sleep(20)
        async with client.lock("name"):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await asyncio.sleep(20)

    scenario(body)


def test_a_task_group_inside_the_block_is_cancelled_with_it() -> None:
    async def body(client: AsyncClient) -> None:
        with pytest.raises(LeaseLost):
            async with client.lock("name") as lease, asyncio.TaskGroup() as group:
                child = group.create_task(asyncio.sleep(20))
                soon(lambda: lose(lease))
                await asyncio.sleep(20)
        assert child.cancelled()

    scenario(body)


# -- cancelled from outside -------------------------------------------------------------------------------------------


def test_an_outer_cancel_passes_unchanged_and_frees_the_name() -> None:
    async def body(client: AsyncClient) -> None:
        async def victim() -> None:
            async with client.lock("name"):
                soon(here().cancel)
                await asyncio.sleep(20)

        task = asyncio.create_task(victim())
        await asyncio.wait([task])
        assert task.cancelled()
        assert task.cancelling() == 1, "its count is left intact"
        await (await client.lock("name", wait=5).acquire()).release()

    scenario(body)


def test_an_outer_timeout_is_a_timeout() -> None:
    async def body(client: AsyncClient) -> None:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.02), client.lock("name"):
                await asyncio.sleep(20)
        assert not isinstance(caught.value, LeaseLost)

    scenario(body)


def test_a_sibling_in_an_outer_task_group() -> None:
    async def fails() -> None:
        raise KeyError("the sibling")

    async def body(client: AsyncClient) -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group, client.lock("name"):
                group.create_task(fails())
                await asyncio.sleep(20)
        assert [type(error) for error in caught.value.exceptions] == [KeyError]

    scenario(body)


@pytest.mark.parametrize("loss_first", [True, False])
def test_both_in_one_tick_the_outer_one_wins_and_the_lease_still_tells(loss_first: bool) -> None:
    async def body(client: AsyncClient) -> None:
        leases: list[AsyncLease] = []

        async def victim() -> None:
            async with client.lock("name") as lease:
                leases.append(lease)
                both = [lease._body._fire, here().cancel]  # type: ignore[union-attr]  # it is entered
                with lease._core.ledger.mutex:
                    lease._own.lost = LossReason.STOLEN
                soon(*(both if loss_first else both[::-1]))
                await asyncio.sleep(20)

        task = asyncio.create_task(victim())
        await asyncio.wait([task])
        assert task.cancelled()
        assert task.cancelling() == 1
        assert leases[0].lost is LossReason.STOLEN

    scenario(body)


@pytest.mark.parametrize("loss_first", [True, False])
def test_a_loss_and_an_outer_timeout_in_one_tick_are_a_timeout(loss_first: bool) -> None:
    async def body(client: AsyncClient) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as outer, client.lock("name") as lease:
                expire = lambda: outer.reschedule(0)  # noqa: E731 - two actions, in either order
                soon(*([lambda: lose(lease), expire] if loss_first else [expire, lambda: lose(lease)]))
                await asyncio.sleep(20)
        assert lease.lost is LossReason.STOLEN

    scenario(body)


@pytest.mark.parametrize("loss_first", [True, False])
def test_a_loss_and_a_failing_sibling_in_one_tick(loss_first: bool) -> None:
    async def body(client: AsyncClient) -> None:
        async def fails() -> None:
            await go.wait()
            raise KeyError("the sibling")

        go = asyncio.Event()
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group, client.lock("name") as lease:
                group.create_task(fails())
                await asyncio.sleep(0)
                soon(*([lambda: lose(lease), go.set] if loss_first else [go.set, lambda: lose(lease)]))
                await asyncio.sleep(20)
        kinds = {type(error) for error in caught.value.exceptions}
        # If the loss came out of the block before the sibling failed, the group has both.
        assert kinds in ({KeyError}, {KeyError, LeaseLost}, {LeaseLost})
        assert lease.lost is LossReason.STOLEN

    scenario(body)


# -- what the body makes of it ----------------------------------------------------------------------------------------


def test_a_body_that_swallows_the_cancellation_still_ends_in_lease_lost() -> None:
    async def body(client: AsyncClient) -> None:
        with pytest.raises(LeaseLost) as caught:
            async with client.lock("name") as lease:
                soon(lambda: lose(lease))
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(20)
        assert not isinstance(caught.value.__cause__, asyncio.CancelledError)

    scenario(body)


def test_a_body_that_ends_first_ends_in_lease_lost_and_no_stray_cancellation() -> None:
    async def body(client: AsyncClient) -> None:
        with pytest.raises(LeaseLost):
            async with client.lock("name") as lease:
                lose(lease)  # the cancellation is on its way, for the next turn of the loop

    scenario(body)


def test_a_body_that_ends_in_the_very_turn_in_which_it_is_cancelled() -> None:
    async def body(client: AsyncClient) -> None:
        with pytest.raises(LeaseLost):
            async with client.lock("name") as lease:
                lose(lease)
                await asyncio.sleep(0)

    scenario(body)


def test_a_body_that_turns_it_into_another_error_keeps_that_error_with_a_note() -> None:
    async def body(client: AsyncClient) -> None:
        with pytest.raises(KeyError) as caught:
            async with client.lock("name") as lease:
                soon(lambda: lose(lease))
                try:
                    await asyncio.sleep(20)
                except asyncio.CancelledError as error:
                    raise KeyError("a driver's own") from error
        assert any("stole" in note for note in caught.value.__notes__)

    scenario(body)


def test_an_error_of_the_body_without_a_loss_gets_no_note() -> None:
    async def body(client: AsyncClient) -> None:
        with pytest.raises(KeyError) as caught:
            async with client.lock("name"):
                raise KeyError("theirs")
        assert not hasattr(caught.value, "__notes__")
        assert await client.names() == []

    scenario(body)


def test_a_cancelled_error_that_the_body_raises_itself_passes() -> None:
    async def body(client: AsyncClient) -> None:
        with pytest.raises(asyncio.CancelledError):
            async with client.lock("name"):
                raise asyncio.CancelledError

    scenario(body)


def test_cancel_on_loss_false_leaves_the_body_alone() -> None:
    async def body(client: AsyncClient) -> None:
        reached = False
        with pytest.raises(LeaseLost):
            async with client.lock("name", cancel_on_loss=False) as lease:
                lose(lease)
                await asyncio.sleep(0.02)
                reached = True
        assert reached

    scenario(body)


def test_a_semaphore_and_a_lease_cancel_like_a_lock() -> None:
    async def body(client: AsyncClient) -> None:
        with pytest.raises(LeaseLost):
            async with client.semaphore("pool", 2) as lease:
                soon(lambda: lose(lease))
                await asyncio.sleep(20)
        lease = await client.lock("name").acquire()
        with pytest.raises(LeaseLost):
            async with lease:
                soon(lambda: lose(lease))
                await asyncio.sleep(20)

    scenario(body)


# -- nested, and left elsewhere ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner_first", [True, False])
def test_two_nested_leases_lost_in_one_tick(inner_first: bool) -> None:
    async def body(client: AsyncClient) -> None:
        passed: list[BaseException] = []
        with pytest.raises(LeaseLost) as caught:
            async with client.lock("outer") as outer:
                try:
                    async with client.lock("inner") as inner:
                        both = [lambda: lose(inner), lambda: lose(outer)]
                        soon(*(both if inner_first else both[::-1]))
                        await asyncio.sleep(20)
                except BaseException as error:
                    passed.append(error)
                    raise
        assert [type(error) for error in passed] == [asyncio.CancelledError]
        assert caught.value.name == "outer"
        assert inner.lost is outer.lost is LossReason.STOLEN

    scenario(body)


def test_only_the_inner_lost_leaves_the_outer_body_running() -> None:
    async def body(client: AsyncClient) -> None:
        async with client.lock("outer") as outer:
            with pytest.raises(LeaseLost, match="inner"):
                async with client.lock("inner") as inner:
                    soon(lambda: lose(inner))
                    await asyncio.sleep(20)
            await asyncio.sleep(0)
            assert outer.held

    scenario(body)


def test_only_the_outer_lost_passes_through_the_inner_and_frees_it() -> None:
    async def body(client: AsyncClient) -> None:
        with pytest.raises(LeaseLost, match="outer"):
            async with client.lock("outer") as outer, client.lock("inner") as inner:
                soon(lambda: lose(outer))
                await asyncio.sleep(20)
        assert inner.lost is None
        assert not inner.held
        await (await client.lock("inner", wait=5).acquire()).release()

    scenario(body)


def test_left_in_another_task_than_entered() -> None:
    async def body(client: AsyncClient) -> None:
        lock = client.lock("name")
        lease = await asyncio.create_task(lock.__aenter__())
        lose(lease)
        for _ in range(3):
            await asyncio.sleep(0)  # nobody here is cancelled
        with pytest.raises(LeaseLost):
            await lock.__aexit__(None, None, None)

    scenario(body)


def test_left_in_another_task_without_a_loss() -> None:
    async def body(client: AsyncClient) -> None:
        lock = client.lock("name")
        await asyncio.create_task(lock.__aenter__())
        await lock.__aexit__(None, None, None)
        assert await client.names() == []

    scenario(body)


def test_others_who_use_the_lease_are_told_by_wait_lost_and_check() -> None:
    async def body(client: AsyncClient) -> None:
        lease = await client.lock("name").acquire()
        child = asyncio.create_task(lease.wait_lost())
        await asyncio.sleep(0)
        lose(lease)
        assert await child is LossReason.STOLEN
        with pytest.raises(LeaseLost):
            lease.check()
        with pytest.raises(LeaseLost):
            await lease.release()

    scenario(body)


def test_a_blocked_loop_keeps_its_locks() -> None:
    async def body(client: AsyncClient) -> None:
        async with client.lock("name") as lease:
            time.sleep(0.9)  # noqa: ASYNC251 - three ttls without a turn of the loop
            assert lease.held

    scenario(body, ttl=0.3)


# -- the tests are tested ---------------------------------------------------------------------------------------------


def a_flag_without_uncancel(self: Body, task: asyncio.Task[object] | None) -> bool:
    self._out = True
    if self._timer is not None:
        self._timer.cancel()
    return False


def test_a_flag_without_uncancel_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Body, "leave", a_flag_without_uncancel)
    with pytest.raises(AssertionError, match="not back to its base"):
        scenario(loss_alone)


def test_a_callback_that_comes_late_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fire(self: Body) -> None:
        if not self._ours:
            self._ours = True
            self._task.cancel()

    monkeypatch.setattr(Body, "_fire", fire)
    with pytest.raises((asyncio.CancelledError, AssertionError)):
        test_a_body_that_ends_first_ends_in_lease_lost_and_no_stray_cancellation()


def test_an_outer_timeout_taken_for_ours_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    leave = Body.leave

    def never_outer(self: Body, task: asyncio.Task[object] | None) -> bool:
        leave(self, task)
        self._ours = True
        return False

    monkeypatch.setattr(Body, "leave", never_outer)
    with pytest.raises(LeaseLost):
        test_an_outer_timeout_is_a_timeout()


def test_the_blocking_face_cancels_nobody() -> None:
    with Client(f"memory://body-{next(_serial)}") as client:
        lock = client.lock("name")
        with pytest.raises(LeaseLost), lock as lease:
            ledger = lease._core.ledger
            with ledger.mutex:
                ledger.lose(lease._own, LossReason.STOLEN, ledger.runtime.now())
            ledger.flush()
            assert not lease.held
