"""Those of a client who wait: who is told something looks at once, whether it reads the mailbox or sleeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tenure.ports import Message
from tenure.protocols.news import LOOK
from tests.cancellation.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tenure.protocols.records import Claim
    from tests.cancellation.world import Member


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.end()


@pytest.fixture
def member(world: World) -> Member:
    """The first of its two claims reads, the second one sleeps."""
    other, member = world.member(), world.member()
    for name in ("one", "two"):
        other.hold(name)
        member.acquire(name)
    waiters = member.ledger.waiters
    world.run(lambda: len(waiters.waiting) == 2, seconds=0)
    assert waiters.reader is member.adopted[0]
    return member


def looked(member: Member) -> list[Claim]:
    """Who has asked the store where it stands."""
    asked = [arguments[0].claim for operation, arguments in member.store.calls if operation == "look"]
    return [claim for claim in member.adopted if claim.id in asked]


@pytest.mark.parametrize("place", [0, 1], ids=["the reader", "the sleeper"])
def test_whoever_is_hinted_looks_at_once(world: World, member: Member, place: int) -> None:
    claim = member.adopted[place]
    member.ledger.deliver([Message(claim.session.card.id, claim.id, 0, 0)])
    world.run(seconds=0.01)
    assert claim in looked(member)


def test_where_nobody_knows_what_came_all_look_at_once(world: World, member: Member) -> None:
    member.ledger.deliver([LOOK])
    world.run(seconds=0.01)
    assert looked(member) == member.adopted


@pytest.mark.parametrize("news", ["a hint", "a grant"])
def test_what_came_between_a_look_and_the_wait_is_not_slept_over(member: Member, news: str) -> None:
    """Another thread delivers it there, and there is nobody to wake yet."""
    waiters, claim = member.ledger.waiters, member.adopted[1]
    waiters.stop(claim)
    number = claim.number if news == "a grant" else 0
    member.ledger.deliver([Message(claim.session.card.id, claim.id, number, number)])
    assert waiters.start(claim) is None
    assert waiters.reader is member.adopted[0]
    assert claim not in waiters.waiting


def test_one_waiter_reads_at_a_time(member: Member) -> None:
    """A mailbox is read by one; the other would take its messages, or wait for what the first has taken."""
    waiters, (reader, sleeper) = member.ledger.waiters, member.adopted
    waiters.read_on(sleeper)
    assert waiters.reader is reader
    assert waiters.stop(reader) is sleeper.signal
    waiters.read_on(sleeper)
    assert waiters.reader is sleeper
