"""Leases by a clock that the test moves: what a real client would see, in no time, the same each time.

These clients do not go through `tests/contract`, whose scenarios let time pass by itself and let one thread wait while
another one acts: here nothing passes unless the test moves the clock, and whoever waits moves it for all (tried, 47 of
its 424 runs over the memory engine fail). The steps and the protocols are those that the contract holds that engine to.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import tenure
from tenure.model import Instant, LossReason
from tenure.observe import Lost, Renewed
from tenure.testing import VirtualClock
from tests.timing import Bound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tenure.observe import Event


@pytest.fixture(autouse=True)
def no_time_passes() -> Iterator[None]:
    """Hours pass in these tests; a wait of real seconds would show."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < Bound(20)


def test_a_keeper_keeps_its_lease_for_as_long_as_it_runs() -> None:
    told: list[Event] = []
    clock = VirtualClock()
    with clock.client(ttl=30, on_event=told.append) as client:
        lease = client.lock("orders").acquire()
        assert lease.deadline == pytest.approx(30 * 0.99 - 0.002)
        clock.advance(3600)
        assert lease.held
        assert clock.now() == Instant(3600)
        assert sum(isinstance(event, Renewed) for event in told) == 360
        lease.release()


def test_max_hold_ends_a_lease_at_its_instant() -> None:
    told: list[Event] = []
    clock = VirtualClock()
    with clock.client(on_event=told.append) as client:
        lease = client.lock("orders", max_hold=100).acquire()
        clock.advance(99.9)
        assert lease.held
        clock.advance(0.1)
        assert not lease.held
        [lost] = [event for event in told if isinstance(event, Lost)]
        assert (lost.held, lost.reason) == (pytest.approx(100), LossReason.MAX_HOLD)


def test_a_thread_that_waits_makes_time_pass() -> None:
    clock = VirtualClock()
    with clock.client() as one, clock.client() as two:
        lease = one.lock("orders").acquire()
        with pytest.raises(tenure.AcquireTimeout) as over:
            two.lock("orders").acquire(wait=10)
        assert over.value.waited == pytest.approx(10)
        assert clock.now() == pytest.approx(10)
        assert lease.held
        assert lease.wait_lost(timeout=1000) is None
        assert clock.now() == pytest.approx(1010)
        lease.release()
        with two.lock("orders", wait=0) as after:
            assert after.token > lease.token


def test_an_idle_session_ends_and_the_next_lease_opens_another() -> None:
    clock = VirtualClock()
    with clock.client(ttl=5) as client:
        with client.lock("orders") as lease:
            first = lease.token
        clock.advance(100)
        with client.lock("orders") as lease:
            assert lease.token > first
            assert lease.held


def test_what_two_clocks_measure_is_apart() -> None:
    one, two = VirtualClock(), VirtualClock()
    with one.client() as a, two.client() as b, one.client("memory://other") as c:
        leases = [client.lock("orders").acquire(wait=0) for client in (a, b, c)]
        one.advance(50)
        assert (one.now(), two.now()) == (Instant(50), Instant(0))
        for lease in leases:
            lease.release()


def test_the_same_test_has_the_same_course() -> None:
    def course() -> list[Any]:
        told: list[Event] = []
        clock = VirtualClock()
        with clock.client(ttl=7, on_event=told.append) as one, clock.client(ttl=3) as two:
            for _ in range(5):
                lease = one.lock("orders").acquire()
                clock.advance(2.5)
                with pytest.raises(tenure.AcquireTimeout):
                    two.lock("orders").acquire(wait=4.25)
                lease.release()
        # Tokens are of the wall clock; all else is of this one.
        return [(type(event).__name__, event[:1], event[2:]) for event in told] + [clock.now()]

    assert course() == course()


def test_a_waiting_task_is_granted_by_a_release_and_its_wait_ends_with_the_clock() -> None:
    async def main() -> None:
        clock = VirtualClock()
        async with clock.async_client() as one, clock.async_client() as two:
            lease = await one.lock("orders").acquire()
            waiting = asyncio.create_task(two.lock("orders").acquire(wait=None))
            await asyncio.sleep(0)
            clock.advance(1000)
            await lease.release()
            granted = await waiting
            assert granted.token > lease.token
            late = asyncio.create_task(one.lock("orders").acquire(wait=5))
            for _ in range(3):
                await asyncio.sleep(0)
            clock.advance(5)
            with pytest.raises(tenure.AcquireTimeout):
                await late
            await granted.release()

    asyncio.run(main())


def test_a_wait_that_nobody_ends_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenure.testing.virtual.PATIENCE_S", 0.05)

    async def main() -> None:
        clock = VirtualClock()
        async with clock.async_client() as one, clock.async_client() as two:
            lease = await one.lock("orders").acquire()
            with pytest.raises(tenure.UsageError, match="advance the clock"):
                await two.lock("orders").acquire(wait=5)
            await lease.release()

    asyncio.run(main())


def test_no_thread_is_started() -> None:
    before = threading.active_count()
    clock = VirtualClock()
    with clock.client() as client, client.lock("orders"):
        clock.advance(60)
        assert threading.active_count() == before


@pytest.mark.parametrize("url", ["sqlite://", "redis://localhost", "memory://a b"])
def test_a_server_lives_by_no_such_clock(url: str) -> None:
    with pytest.raises(tenure.UsageError):
        VirtualClock().client(url)
    with pytest.raises(tenure.UsageError):
        VirtualClock().async_client(url)


@pytest.mark.parametrize("by", [-1, float("nan"), float("inf"), "1", None, 1e9])
def test_time_passes_by_a_number_of_seconds(by: Any) -> None:
    clock = VirtualClock()
    with pytest.raises(tenure.UsageError):
        clock.advance(by)
    assert clock.now() == Instant(0)
