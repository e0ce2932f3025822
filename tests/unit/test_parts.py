"""A store of several parts: sessions, heartbeats, losses and debts are each part's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tenure.errors import StoreUnavailable
from tenure.model import LossReason
from tenure.protocols.keep import Stop
from tests.cancellation.world import Member, World

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.end()


@pytest.fixture
def member(world: World) -> Member:
    """A client of a store in which the first letter of a name is its part."""
    found = world.member(ttl=30)
    found.ledger.part = lambda name: f".{name[0]}"
    return found


def heartbeats(member: Member) -> list[str]:
    return [arguments[0] for operation, arguments in member.keeper_store.calls if operation == "heartbeat"]


class Silent(list[Exception]):
    """Faults for the heartbeats of one part."""

    def __init__(self, member: Member, part: str) -> None:
        super().__init__()
        self._member = member
        self._part = part

    def __bool__(self) -> bool:
        return heartbeats(self._member)[-1].endswith(self._part)

    def pop(self, _: object = 0) -> Exception:
        return StoreUnavailable("silent")


def test_each_part_in_use_has_one_session_whose_id_ends_with_it(world: World, member: Member) -> None:
    claims = [member.hold(name) for name in ("a1", "a2", "b1", "a3")]
    assert [claim.session.card.id[-2:] for claim in claims] == [".a", ".a", ".b", ".a"]
    assert len({claim.session for claim in claims}) == 2
    world.run(seconds=11)
    assert sorted(session[-2:] for session in heartbeats(member)) == [".a", ".b"]


def test_a_part_that_is_silent_costs_its_own_leases_only(world: World, member: Member) -> None:
    lost, kept = member.hold("a"), member.hold("b")
    member.keeper_store.faults["heartbeat"] = Silent(member, ".a")
    world.run(seconds=35)
    assert lost.lost is LossReason.DEADLINE
    assert kept.lost is None
    assert kept.deadline > world.time


def test_a_theft_in_one_part_reconciles_no_other(world: World, member: Member) -> None:
    operator = world.member()
    robbed, kept = member.hold("a"), member.hold("b")
    theft = world.start(operator.store.steal("a", robbed.number, 5.0))
    world.run(lambda: theft.is_done, seconds=0)
    world.run(seconds=11)
    assert robbed.lost is LossReason.STOLEN
    assert kept.lost is None
    asked = [arguments[0] for operation, arguments in member.keeper_store.calls if operation == "claims"]
    assert asked == [robbed.session.card.id]


def test_closing_gives_back_what_the_other_parts_take(world: World, member: Member) -> None:
    member.hold("a")
    member.hold("b")
    member.keeper_store.faults["close"] = [StoreUnavailable("silent")]
    member.ledger.closing = True
    member.inbox.put(Stop())
    world.run(lambda: member.keeper.is_done, seconds=1)
    assert member.keeper.error is None
    assert list(world.queues()) == ["a"]
    closed = [arguments[0] for operation, arguments in member.keeper_store.calls if operation == "close"]
    assert [[c.ref.name for c in closings] for closings in closed] == [["a"], ["b"]]
    assert all(c.clean for closings in closed for c in closings)
    ended = [arguments[0] for operation, arguments in member.keeper_store.calls if operation == "end"]
    assert [session[-2:] for session in ended] == [".b"], "the silent part is not asked again"
