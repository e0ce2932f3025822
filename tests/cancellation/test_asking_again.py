"""Whoever has lost its place in the queue asks again until its wait is over (A3), also while nobody answers."""

from __future__ import annotations

import pytest

from tenure.errors import StoreUnavailable
from tests.cancellation.world import Member, World


def lost_its_place(world: World) -> tuple[Member, Member]:
    """A member that waits, and whose session is ended by the engine; and the holder."""
    other, member = world.member(ttl=3.0), world.member(ttl=3.0, keeper=False)
    other.hold()
    return other, member


@pytest.mark.parametrize("answers", [1, 3])
def test_a_waiter_whose_place_is_gone_asks_until_it_is_answered(answers: int) -> None:
    world = World()
    other, member = lost_its_place(world)
    waits = member.acquire(wait=60)
    world.run(lambda: waits.trap is not None and waits.trap.where == "a signal", seconds=0)
    # Its keeper has died, so its session ends; when it looks, nobody can be reached for a while.
    member.store.faults["enter"] = [StoreUnavailable("down")] * answers
    world.run(seconds=10)
    [held] = [c for s in other.ledger.sessions for c in s.claims.values()]
    other.release(held)
    world.run(lambda: waits.is_done, seconds=30)
    assert waits.error is None
    assert waits.result is not None
    world.end()


def test_when_its_wait_is_over_it_says_that_nobody_answers() -> None:
    world = World()
    _, member = lost_its_place(world)
    waits = member.acquire(wait=20)
    world.run(lambda: waits.trap is not None and waits.trap.where == "a signal", seconds=0)
    begun = world.time
    member.store.faults["enter"] = [StoreUnavailable("down")] * 1000
    world.run(lambda: waits.is_done, seconds=60)
    assert isinstance(waits.error, StoreUnavailable)
    assert 20 <= world.time - begun < 25
    world.end()


def test_whoever_was_never_queued_is_told_at_once() -> None:
    world = World()
    member = world.member()
    member.store.faults["enter"] = [StoreUnavailable("down")]
    begun = world.time
    asks = member.acquire(wait=60)
    world.run(lambda: asks.is_done)
    assert isinstance(asks.error, StoreUnavailable)
    assert world.time == begun
    world.end()
