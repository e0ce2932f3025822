"""A lease that is lost on purpose looks like one that was lost in earnest."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import tenure
from tenure.model import LossReason
from tenure.observe import Lost
from tenure.testing import VirtualClock, lose_lease, pause

if TYPE_CHECKING:
    from pathlib import Path

    from tenure.observe import Event


@pytest.mark.parametrize("url", ["memory://", "sqlite://{folder}/locks.db"])
def test_a_lost_lease_is_lost_on_any_engine(url: str, tmp_path: Path) -> None:
    told: list[Event] = []
    with tenure.Client(url.format(folder=tmp_path), on_event=told.append) as client:
        lease = client.lock("orders").acquire()
        lose_lease(lease)
        assert not lease.held
        assert lease.lost is LossReason.SESSION_ENDED
        with pytest.raises(tenure.LeaseLost, match="the engine ended its session"):
            lease.check()
        assert [event.reason for event in told if isinstance(event, Lost)] == [LossReason.SESSION_ENDED]
        lose_lease(lease, LossReason.STOLEN)
        assert lease.lost is LossReason.SESSION_ENDED
        with client.lock("orders", wait=20) as after:  # the keeper tells the engine
            assert after.token > lease.token
        with pytest.raises(tenure.LeaseLost):
            lease.release()


def test_a_lost_lease_cancels_the_body_under_it_on_any_engine() -> None:
    async def main() -> None:
        reached = []
        async with tenure.AsyncClient("memory://losing") as client:
            with pytest.raises(tenure.LeaseLost):
                async with client.lock("orders") as lease:
                    lose_lease(lease, LossReason.STORE_LOST)
                    reached.append("the next line")
                    await asyncio.sleep(30)
                    reached.append("after the await")
        assert reached == ["the next line"]
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    asyncio.run(main())


def test_a_paused_holder_has_lost_by_its_deadline_and_others_may_have_the_name() -> None:
    clock = VirtualClock()
    with clock.client(ttl=30) as one, clock.client(ttl=30) as two:
        lease, others = one.lock("orders").acquire(), two.lock("report").acquire()
        clock.advance(1000)
        pause(lease)
        assert not lease.held
        assert lease.lost is LossReason.DEADLINE
        assert others.held, "only the one was paused"
        with two.lock("orders", wait=0) as after:
            assert after.token > lease.token
        with pytest.raises(tenure.LeaseLost):
            lease.check()
        with one.lock("orders", wait=0) as again:
            assert again.held
        others.release()


def test_a_short_pause_is_survived_and_nothing_is_renewed_in_it() -> None:
    clock = VirtualClock()
    with clock.client(ttl=30) as client:
        lease = client.lock("orders").acquire()
        pause(lease, 29)
        assert lease.held
        assert lease.remaining() == pytest.approx(29.7, abs=0.5), "renewed as soon as it went on"
        pause(client, 29.8)
        assert not lease.held


def test_a_paused_loop_cancels_its_body_when_it_goes_on() -> None:
    async def main() -> None:
        clock = VirtualClock()
        reached = []
        async with clock.async_client() as client, clock.async_client() as other:
            with pytest.raises(tenure.LeaseLost, match="deadline"):
                async with client.lock("orders") as lease:
                    clock.advance(1000)
                    await asyncio.sleep(0)
                    reached.append("held")
                    pause(lease)
                    reached.append("paused")
                    await asyncio.sleep(0)
                    reached.append("after the await")
            assert reached == ["held", "paused"]
            async with other.lock("orders", wait=0):
                pass

    asyncio.run(main())


def test_the_timer_of_a_body_cancels_it_where_the_keeper_is_mute() -> None:
    """Both triggers are there under a virtual clock too: the loop's own timer, and the keeper's call."""

    async def main() -> None:
        clock = VirtualClock()
        async with clock.async_client(ttl=30) as client:
            with pytest.raises(tenure.LeaseLost):
                async with client.lock("orders") as lease:
                    keeper = lease._core._keeper  # type: ignore[attr-defined]
                    clock._works._keepers.remove(keeper)
                    clock.advance(29)
                    await asyncio.sleep(0)
                    clock.advance(1)
                    await asyncio.sleep(30)
            clock._works._keepers.append(keeper)

    asyncio.run(main())


@pytest.mark.parametrize("holder", [None, 7, "orders", object()])
def test_only_a_holder_can_lose(holder: Any) -> None:
    with pytest.raises(tenure.UsageError):
        lose_lease(holder)
    with pytest.raises(tenure.UsageError):
        pause(holder)


def test_a_real_clock_cannot_be_paused_and_a_reason_is_a_reason() -> None:
    with tenure.Client("memory://losing") as client, client.lock("orders") as lease:
        with pytest.raises(tenure.UsageError, match="VirtualClock"):
            pause(lease)
        with pytest.raises(tenure.UsageError, match="LossReason"):
            lose_lease(lease, "because")  # type: ignore[arg-type]
        assert lease.held
    with VirtualClock().client() as client, client.lock("orders") as lease:
        with pytest.raises(tenure.UsageError, match="seconds"):
            pause(lease, -1)
        assert lease.held
