"""The prefix rule: who of a queue holds the name, and which claims together prove another one blocked."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure.model import EXCLUSIVE, SHARED, Kind, Mode, blockers, holders


class Waiting(NamedTuple):
    """Something that stands in a queue."""

    number: int
    mode: Mode


def permits(many: int, limit: int) -> Mode:
    return Mode(Kind.PERMITS, many, limit)


@st.composite
def permit_modes(draw: st.DrawFn) -> Mode:
    limit = draw(st.integers(1, 5))
    return permits(draw(st.integers(1, limit)), limit)


modes = st.one_of(st.just(EXCLUSIVE), st.just(SHARED), permit_modes())
mixed = st.lists(modes, max_size=9)
semaphores = st.lists(permit_modes(), max_size=9)
queues = st.one_of(mixed, semaphores).map(lambda found: [Waiting(i + 1, mode) for i, mode in enumerate(found)])


def numbers(queue: list[Waiting]) -> list[int]:
    return [claim.number for claim in holders(queue)]


def fits(together: list[Mode]) -> bool:
    """Whether modes may hold together, restated from the rule's words."""
    kinds = {mode.kind for mode in together}
    if len(together) < 2 or kinds == {Kind.SHARED}:
        return True
    return kinds == {Kind.PERMITS} and sum(m.permits for m in together) <= min(m.limit for m in together)


@given(queues)
def test_holders_are_the_longest_compatible_prefix(queue: list[Waiting]) -> None:
    longest = 0
    while longest < len(queue) and fits([claim.mode for claim in queue[: longest + 1]]):
        longest += 1
    assert holders(queue) == queue[:longest]


@given(queues)
def test_somebody_holds_a_queue_that_is_not_empty(queue: list[Waiting]) -> None:
    assert bool(holders(queue)) == bool(queue)


@given(queues, modes)
def test_a_join_never_ejects_a_holder(queue: list[Waiting], mode: Mode) -> None:
    before = numbers(queue)
    after = numbers([*queue, Waiting(99, mode)])
    assert after[: len(before)] == before


@given(queues, st.integers(0, 8))
def test_leaving_from_any_place_only_adds_holders(queue: list[Waiting], place: int) -> None:
    left = [claim for index, claim in enumerate(queue) if index != place]
    gone = {queue[place].number} if place < len(queue) else set()
    assert set(numbers(queue)) - gone <= set(numbers(left))


@given(queues, modes)
def test_nobody_blocks_a_claim_that_holds_and_somebody_blocks_one_that_waits(queue: list[Waiting], mode: Mode) -> None:
    newcomer = Waiting(99, mode)
    ahead = list(reversed(queue))
    # A claim behind one that waits is not among the holders, yet nothing may block it but the claims before that one:
    # what proves it blocked is then found among those, for a queue that waits does so behind holders.
    if newcomer in holders([*queue, newcomer]):
        assert blockers(ahead, mode) == []
    else:
        assert blockers(ahead, mode)


@given(queues, modes)
def test_blockers_prove_it_blocked_whoever_else_leaves(queue: list[Waiting], mode: Mode) -> None:
    newcomer = Waiting(99, mode)
    proof = blockers(list(reversed(queue)), mode)
    if proof:
        assert newcomer not in holders([*sorted(proof), newcomer])


@given(queues, modes)
def test_blockers_are_the_nearest_and_all_of_them_are_needed(queue: list[Waiting], mode: Mode) -> None:
    newcomer = Waiting(99, mode)
    proof = blockers(list(reversed(queue)), mode)
    if mode.kind is Kind.PERMITS and len(proof) > 1:
        assert proof == list(reversed(queue))[: len(proof)]
        # Without the farthest of them the rest would let it in, so it must be watched too.
        assert newcomer in holders([*sorted(proof[:-1]), newcomer])


@pytest.mark.parametrize(
    ("queue", "held"),
    [
        ([], 0),
        ([EXCLUSIVE, EXCLUSIVE], 1),
        ([SHARED, SHARED, EXCLUSIVE, SHARED], 2),
        ([permits(1, 3), permits(2, 3), permits(1, 3)], 2),
        ([permits(1, 3), permits(1, 3), permits(1, 2)], 2),
        ([permits(2, 3), permits(2, 3), permits(1, 3)], 1),
        ([permits(1, 2), SHARED], 1),
        ([SHARED, permits(1, 2)], 1),
    ],
)
def test_the_rule_by_example(queue: list[Mode], held: int) -> None:
    assert len(holders([Waiting(i, mode) for i, mode in enumerate(queue)])) == held
