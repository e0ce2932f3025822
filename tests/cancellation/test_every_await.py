"""A cancellation, a Ctrl-C or a destroyed coroutine, at every await of every protocol: nothing is held afterwards.

The awaits are not listed: each scenario is run again and again, and the k-th run is interrupted at the k-th trap that
the protocol reaches, until it ends by itself.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tenure.errors import OutcomeUnknown, StoreUnavailable
from tenure.model import EXCLUSIVE, SHARED, Kind, Mode
from tenure.ports import Message
from tenure.protocols.claim import Ask
from tenure.protocols.ledger import Ledger
from tenure.protocols.records import Claim, Phase
from tests.cancellation.world import Process, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cancellation.world import Member


class Scene(NamedTuple):
    """The victim, whose it is, and what makes it go on where it waits."""

    victim: Process
    member: Member
    go_on: Callable[[], object] = lambda: None


def uncontended(world: World) -> Scene:
    member = world.member()
    return Scene(member.acquire(), member)


def in_an_open_session(world: World) -> Scene:
    member = world.member()
    member.hold("another")
    return Scene(member.acquire(), member)


def contended(world: World) -> Scene:
    other, member = world.member(), world.member()
    held = other.hold()
    return Scene(member.acquire(), member, lambda: other.release(held))


def contended_behind_another_waiter_of_the_same_client(world: World) -> Scene:
    other, member = world.member(), world.member()
    held = other.hold()
    first = member.acquire()
    world.run(lambda: first.trap is not None and first.trap.where == "a signal", seconds=0)

    def both() -> None:
        other.release(held)
        world.run(lambda: first.is_done, seconds=0.5)
        assert isinstance(first.result, Claim)
        member.release(first.result)

    return Scene(member.acquire(), member, both)


def shared(world: World) -> Scene:
    other, member = world.member(), world.member()
    held = other.hold()
    return Scene(member.acquire(ask=Ask("name", SHARED)), member, lambda: other.release(held))


def permits(world: World) -> Scene:
    other, member = world.member(), world.member()
    held = other.hold(ask=Ask("name", Mode(Kind.PERMITS, 2, 3)))
    return Scene(member.acquire(ask=Ask("name", Mode(Kind.PERMITS, 2, 3))), member, lambda: other.release(held))


def with_a_lock_delay(world: World) -> Scene:
    other, member = world.member(), world.member()
    held = other.hold()
    # Nobody worked under a claim that was never handed out, so its delay closes the name for nobody.
    ask = Ask("name", EXCLUSIVE, delay=60.0)
    return Scene(member.acquire(ask=ask), member, lambda: other.release(held))


def a_try(world: World) -> Scene:
    member = world.member()
    return Scene(member.acquire(at_once=True), member)


def a_try_while_busy(world: World) -> Scene:
    other, member = world.member(), world.member()
    held = other.hold()
    scene = Scene(member.acquire(at_once=True), member, lambda: None)
    world.run(lambda: scene.victim.is_done, seconds=0)
    assert scene.victim.result is None
    other.release(held)
    return Scene(member.acquire(at_once=True), member)


def answered_at_the_second_time(world: World) -> Scene:
    member = world.member()
    member.store.faults["enter"] = [OutcomeUnknown("lost"), OutcomeUnknown("lost again")]
    return Scene(member.acquire(), member)


def looking_in_vain(world: World) -> Scene:
    other, member = world.member(ttl=1.0, keeper=False), world.member()
    other.hold()
    member.store.faults["look"] = [StoreUnavailable("down"), OutcomeUnknown("lost")]
    return Scene(member.acquire(), member)


def with_little_time_left(world: World) -> Scene:
    """The session is renewed before the lease is handed out (A1)."""
    other, member = world.member(), world.member(ttl=3.0, keeper=False)
    held = other.hold()
    victim = member.acquire()
    world.run(lambda: victim.trap is not None and victim.trap.where == "a signal", seconds=0)

    def go_on() -> None:
        world.time += 2.0
        world.processes.append(member.keeper)
        other.release(held)

    return Scene(victim, member, go_on)


def several(world: World) -> Scene:
    """Two names are free, and a third is held by another."""
    other, member = world.member(), world.member()
    held = other.hold("b")
    return Scene(member.acquire_all("a", "b", "c"), member, lambda: other.release(held))


def several_without_waiting(world: World) -> Scene:
    other, member = world.member(), world.member()
    other.hold("b")
    return Scene(member.acquire_all("a", "b", at_once=True), member)


def release_of_several(world: World) -> Scene:
    member = world.member()
    taken = member.acquire_all("a", "b")
    world.run(lambda: taken.is_done)
    return Scene(member.release_all(taken.result), member)


def release(world: World) -> Scene:
    member = world.member()
    return Scene(member.release(member.hold()), member)


def release_of_what_was_stolen(world: World) -> Scene:
    operator, member = world.member(), world.member()
    held = member.hold()
    theft = world.start(operator.store.steal("name", held.number, 5.0))
    world.run(lambda: theft.is_done, seconds=0)
    assert theft.result
    return Scene(member.release(held), member)


def release_without_an_answer(world: World) -> Scene:
    member = world.member()
    held = member.hold()
    member.store.faults["close"] = [OutcomeUnknown("lost")]
    return Scene(member.release(held), member)


SCENES = [
    uncontended,
    in_an_open_session,
    contended,
    contended_behind_another_waiter_of_the_same_client,
    shared,
    permits,
    with_a_lock_delay,
    a_try,
    a_try_while_busy,
    answered_at_the_second_time,
    looking_in_vain,
    with_little_time_left,
    several,
    several_without_waiting,
    release_of_several,
    release,
    release_of_what_was_stolen,
    release_without_an_answer,
]
ERRORS = [asyncio.CancelledError, KeyboardInterrupt, GeneratorExit]


def interrupted(scene: Callable[[World], Scene], at: int, error: type[BaseException], late: bool) -> str | None:
    """Interrupt a scene at its k-th trap and check what is left; None if it ended before."""
    world = World()
    try:
        victim, member, go_on = scene(world)
        helped = False

        def there() -> bool:
            nonlocal helped
            waits = victim.trap is not None and victim.trap.where == "a signal"
            if waits and not helped and victim.passed < at:
                helped = True
                go_on()
            return victim.is_done or victim.passed >= at

        world.run(there)
        if victim.is_done:
            assert victim.error is None
            return None
        assert victim.trap is not None
        where, effect = victim.trap.where, victim.trap.effect
        victim.resume(error())
        assert victim.is_done, f"{where}: it awaits while it cleans up, so that a second cancellation would hurt"
        assert isinstance(victim.error, error), f"{where}: {error.__name__} became {victim.error!r}"
        if late and effect is not None:
            # The request was on its way, and arrives when the keeper has long cleaned up.
            world.run(seconds=1.5)
            effect()
        if not helped:
            go_on()
        check_clean(world, member, where)
        return where
    finally:
        world.end()


def check_clean(world: World, member: Member, where: str) -> None:
    """The keeper pays its debts; then nothing of the victim is left, and others get in."""
    if member.keeper not in world.processes:
        world.processes.append(member.keeper)
    world.run(seconds=1.5)
    mine = {session.card.id for session in member.ledger.sessions}
    kept = {
        (c.session.card.id, c.id) for s in member.ledger.sessions for c in s.claims.values() if c.phase is Phase.HELD
    }
    assert {c.name for s in member.ledger.sessions for c in s.claims.values() if c.phase is Phase.HELD} <= {"another"}
    left = [c for queue in world.queues().values() for c in queue if c[0] in mine and c not in kept]
    assert left == [], f"{where}: claims left in the store"
    assert member.ledger.debts == {}, f"{where}: debts"
    assert member.ledger.waiters.waiting == {}, f"{where}: it is still a waiter here"
    assert member.ledger.waiters.reader is None, f"{where}: the mailbox still has its reader"
    unfinished = [c for s in member.ledger.sessions for c in s.claims.values() if c.phase is not Phase.HELD]
    assert unfinished == [], f"{where}: claims without an owner"
    for other in world.members:
        for session in other.ledger.sessions:
            for claim in list(session.claims.values()):
                if claim.phase is Phase.HELD:
                    other.release(claim)
    late_comer = world.member()
    successor = late_comer.acquire(wait=5.0)
    world.run(lambda: successor.is_done, seconds=5.0)
    assert isinstance(successor.result, Claim), f"{where}: nobody else can acquire"


def every_await(scene: Callable[[World], Scene], error: type[BaseException], late: bool = False) -> list[str]:
    seen: list[str] = []
    while (where := interrupted(scene, len(seen) + 1, error, late)) is not None:
        seen.append(where)
        assert len(seen) < 100
    return seen


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("scene", SCENES)
def test_interrupted_at_any_await_nothing_is_held(scene: Callable[[World], Scene], error: type[BaseException]) -> None:
    seen = every_await(scene, error)
    assert len(seen) >= 2, "a request has a trap before its effect and one before its reply"


@pytest.mark.parametrize("scene", SCENES)
def test_interrupted_at_any_await_a_request_that_arrives_late_changes_nothing(
    scene: Callable[[World], Scene],
) -> None:
    every_await(scene, asyncio.CancelledError, late=True)


def test_the_scenes_reach_every_await_of_acquire_and_release() -> None:
    seen = {where for scene in SCENES for where in every_await(scene, asyncio.CancelledError)}
    assert seen == {
        "enter, before its effect",
        "enter, before its reply",
        "look, before its effect",
        "look, before its reply",
        "close, before its effect",
        "close, before its reply",
        "heartbeat, before its effect",
        "heartbeat, before its reply",
        "a signal",
    }


@pytest.mark.parametrize("scene", [uncontended, contended, in_an_open_session, answered_at_the_second_time])
def test_positive_control_without_abandon_something_is_left(
    scene: Callable[[World], Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "abandon", lambda self, claim: None)
    with pytest.raises(AssertionError):
        every_await(scene, asyncio.CancelledError)


def test_positive_control_without_tombstones_a_late_enqueue_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    bill = Ledger.bill
    monkeypatch.setattr(
        Ledger, "bill", lambda self, claim, *, clean: bill(self, claim, clean=clean)._replace(tombstone=False)
    )
    with pytest.raises(AssertionError, match="claims left"):
        every_await(in_an_open_session, asyncio.CancelledError, late=True)


def test_when_the_reader_of_the_mailbox_is_interrupted_another_waiter_reads_on() -> None:
    world = World()
    try:
        other, member = world.member(), world.member()
        held = other.hold()
        reader, heir = member.acquire(), member.acquire()
        world.run(lambda: len(member.ledger.waiters.waiting) == 2, seconds=0)
        assert member.ledger.waiters.reader is member.adopted[0]
        reader.resume(asyncio.CancelledError())
        world.run(seconds=0.01)
        assert member.ledger.waiters.reader is member.adopted[1]
        other.release(held)
        world.run(lambda: heir.is_done, seconds=0.01)
        assert isinstance(heir.result, Claim), "it hears the grant at once, not when its neighbour's session is due"
    finally:
        world.end()


@pytest.mark.parametrize("place", [0, 1], ids=["the reader", "the sleeper"])
def test_a_waiter_is_woken_by_a_grant_that_the_keeper_has_heard_of(place: int) -> None:
    world = World()
    try:
        other, member = world.member(), world.member()
        held = [other.hold(name) for name in ("one", "two")]
        waits = [member.acquire(name) for name in ("one", "two")]
        world.run(lambda: len(member.ledger.waiters.waiting) == 2, seconds=0)
        claim = member.adopted[place]
        assert (member.ledger.waiters.reader is claim, claim.signal is None) == (place == 0, place == 0)
        # Its message was lost, so the heartbeat lists it.
        member.ledger.deliver([Message(claim.session.card.id, claim.id, claim.number, claim.number)])
        world.run(lambda: waits[place].is_done, seconds=0.01)
        assert waits[place].result is claim
        for lease in held:
            other.release(lease)
        world.run(lambda: waits[1 - place].is_done, seconds=0.5)
        assert isinstance(waits[1 - place].result, Claim), "and the other is heard of as before"
    finally:
        world.end()


def test_a_grant_that_arrives_as_its_waiter_is_cancelled_goes_to_the_next() -> None:
    world = World()
    try:
        one, two, three = world.member(), world.member(), world.member()
        held = one.hold()
        victim = two.acquire()
        world.run(lambda: len(two.ledger.waiters.waiting) == 1, seconds=0)
        behind = three.acquire()
        world.run(lambda: len(three.ledger.waiters.waiting) == 1, seconds=0)
        released = one.release(held)
        world.run(lambda: released.is_done, seconds=0, without=victim)
        assert two.mailbox._messages, "the grant lies in the mailbox, and nobody has read it"
        victim.resume(asyncio.CancelledError())
        world.run(lambda: behind.is_done, seconds=0.5)
        assert isinstance(behind.result, Claim)
    finally:
        world.end()
