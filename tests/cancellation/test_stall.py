"""Whoever waits behind one holder for long says so, once, and waits on."""

from __future__ import annotations

from functools import partial

from tenure.errors import StoreUnavailable
from tenure.observe import Stalled
from tests.cancellation.world import Member, World


def told(member: Member) -> list[Stalled]:
    return [event for event in member.events if isinstance(event, Stalled)]


def test_a_waiter_behind_one_holder_for_ten_minutes_says_so_once() -> None:
    world = World()
    other, member = world.member(), world.member()
    held = other.hold()
    waits = member.acquire(wait=None)
    world.run(seconds=590)
    assert told(member) == []
    world.run(seconds=130)
    [event] = told(member)
    assert (event.name, event.token) == ("name", held.number)
    assert 600 <= event.waited <= 720
    world.run(seconds=1000)
    assert len(told(member)) == 1
    other.release(held)
    world.run(lambda: waits.is_done)
    assert waits.error is None
    world.end()


def test_behind_a_queue_that_moves_nobody_says_anything() -> None:
    world = World()
    others, member = [world.member() for _ in range(3)], world.member()
    held = others[0].hold()
    queue = [other.acquire(wait=None) for other in others[1:]]
    member.acquire(wait=None)
    for waiting, other in zip(queue, others[1:], strict=True):
        world.run(seconds=500)
        owner = others[others.index(other) - 1]
        owner.release(held)
        world.run(partial(getattr, waiting, "is_done"))
        held = waiting.result
    world.run(seconds=500)
    assert told(member) == []
    world.end()


def test_an_engine_that_does_not_answer_is_no_news() -> None:
    world = World()
    other, member = world.member(), world.member()
    held = other.hold()
    member.store.faults["inspect"] = [StoreUnavailable("down")] * 3
    waits = member.acquire(wait=None)
    world.run(seconds=1000)
    assert len(told(member)) == 1
    other.release(held)
    world.run(lambda: waits.is_done)
    assert waits.error is None
    world.end()
