"""Positive controls: each checker finds the fault that it is there for, in a history written by hand, and only then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tenure.model import EXCLUSIVE, SHARED, Kind, LossReason, Mode
from tenure.testing import checkers
from tenure.testing.history import (
    FOREVER,
    Disaster,
    Ending,
    Entered,
    Group,
    Held,
    History,
    Leftover,
    Outrun,
    Place,
    Theft,
    compatible,
)

if TYPE_CHECKING:
    from collections.abc import Callable

TTL = 10.0


def held(number: int, began: float, ended: float, mode: Mode = EXCLUSIVE, **other: Any) -> Held:
    values: dict[str, Any] = {
        "client": f"c{number}", "session": f"c{number}.1", "claim": 1, "name": "n", "floor": number, "asked": began - 1,
        "learnt": began, "ending": Ending.RELEASED,
    }  # fmt: skip
    return Held(number=number, began=began, ended=ended, mode=mode, **{**values, **other})


def place(number: int, removed: float = FOREVER, **other: Any) -> tuple[tuple[str, int], Place]:
    return ("n", number), Place("n", number, f"c{number}.1", 1, removed=removed, **other)


def history(*leases: Held, **other: Any) -> History:
    return History(ttl=TTL, held=list(leases), **other)


def permits(many: int, limit: int) -> Mode:
    return Mode(Kind.PERMITS, many, limit)


LATE = {"entitled": 20.0, "told": 20.0, "learnt": 20.001}
CALM = (10.0, 100.0)
A, B = ("c5.1", 1), ("c6.1", 1)

BAD: list[tuple[Callable[[History], Any], History]] = [
    (checkers.unique_tokens, history(held(5, 1, 2), held(5, 3, 4))),
    (checkers.unique_tokens, history(broken=["n 5 was drawn twice"])),
    (checkers.real_time_order, history(held(9, 2, 3), held(5, 11, 12))),
    (checkers.real_time_order, history(entered=[Entered("n", 9, 1, 2), Entered("n", 5, 3, 4)])),
    (checkers.first_come, history(held(9, 1, 2), held(5, 3, 4))),
    (checkers.belief_is_covered, history(held(5, 1, 4), places=dict([place(5, 3.0)]))),
    (
        checkers.belief_is_covered,
        history(held(5, 1, 14), places=dict([place(5, 3.0)]), disasters=[Disaster(3.0, "forget")]),
    ),
    (
        checkers.belief_is_covered,
        history(held(5, 1, FOREVER), places=dict([place(5, 3.0)]), thefts=[Theft(3.0, "n", 5, (5,))]),
    ),
    (checkers.deadlines_are_covered, history(outruns=[Outrun(1.0, "c", "c.1", 0.1)])),
    (checkers.no_overlap, history(held(5, 1, 4), held(6, 3, 5))),
    (checkers.no_overlap, history(held(5, 1, 4, SHARED), held(6, 3, 5))),
    (
        checkers.no_overlap,
        history(held(5, 1, 9, permits(1, 3)), held(6, 2, 9, permits(1, 3)), held(7, 3, 9, permits(1, 2))),
    ),
    (checkers.loss_latches, history(held(5, 1, 4, revived=True))),
    (checkers.leases_are_fresh, history(held(5, 1, 4, left=0.2))),
    (checkers.max_hold_ends, history(held(5, 1, 4, limit=2.0))),
    (checkers.loss_is_told, history(held(5, 1, 20, ending=Ending.DEADLINE), calm=CALM)),
    (checkers.loss_is_told, history(held(5, 1, 20, ending=Ending.DEADLINE, told_loss=26.0), calm=CALM)),
    (checkers.floors, history(held(5, 1, 4, floor=4))),
    (checkers.floors, history(held(5, 1, 4, SHARED), held(6, 2, 5, SHARED, floor=6))),
    (checkers.floors, history(held(5, 1, 2), held(6, 3, 4, SHARED, floor=5))),
    (
        checkers.lost_together,
        history(held(5, 1, 2, ending=Ending.LOST), held(6, 1, 4, name="m"), groups=[Group(1.0, [A, B])]),
    ),
    (checkers.lost_together, history(held(5, 1, 2), held(6, 1, 4, name="m"), groups=[Group(3.0, [A, B])])),
    (checkers.delays, history(held(5, 1, 2, ending=Ending.LOST, delay=3.0), held(6, 3, 4))),
    (checkers.delays, history(held(5, 1, 2, SHARED, ending=Ending.CRASHED, delay=3.0), held(6, 3, 4))),
    (checkers.steals_take_one, history(thefts=[Theft(1.0, "n", 5, (6,))])),
    (checkers.nothing_left, history(leftovers=[Leftover("n", 5, "c.1", "nobody wants it")])),
    (checkers.nothing_left, history(stuck=["c0.1"])),
    (checkers.nothing_left, history(held(5, 1, FOREVER, ending=Ending.OPEN, dropped=True))),
    (checkers.hand_over_is_prompt, history(calm=CALM, places=dict([place(5, entitled=20.0)]))),
    (
        checkers.hand_over_is_prompt,
        history(calm=CALM, places=dict([place(5, entitled=20.0, told=21.0, by_death=True)])),
    ),
    (checkers.hand_over_is_prompt, history(calm=CALM, places=dict([place(5, entitled=20.0, told=20.0, learnt=23.0)]))),
    (checkers.who_is_served_is_woken, history(held(5, 21, 22, learnt=20.0), calm=CALM)),
]

GOOD: list[History] = [
    history(held(5, 1, 2), held(6, 1, 4, name="m"), groups=[Group(1.0, [A, B])]),
    history(held(5, 1, 2), held(6, 2, 3)),
    history(held(5, 1, 9, SHARED), held(6, 2, 9, SHARED, floor=5)),
    history(held(5, 1, 9, permits(1, 3)), held(6, 2, 9, permits(2, 3), floor=5)),
    history(
        held(5, 1, 9), held(6, 4, 12), places=dict([place(5, 3.0), place(6, 12.0)]), disasters=[Disaster(3.0, "skip")]
    ),
    history(held(5, 1, 9), held(6, 4, 12), places=dict([place(5, 3.0)]), thefts=[Theft(3.0, "n", 5, (5,))]),
    history(held(5, 1, 9, asked=0.0), held(6, 9, 10, asked=0.0)),
    history(held(5, 1, 2, delay=3.0), held(6, 3, 4)),
    history(held(5, 1, 2, ending=Ending.LOST, reason=LossReason.CLOSED, delay=3.0), held(6, 3, 4)),
    history(held(5, 1, 20, ending=Ending.DEADLINE, told_loss=20.5), calm=CALM),
    history(held(5, 1, 20, ending=Ending.DEADLINE, told_loss=55.0), calm=CALM, pauses={"c5": [(19.0, 54.0)]}),
    history(calm=CALM, places=dict([place(5, **LATE)])),
    history(held(5, 8, 12, learnt=7.0), held(6, 20.05, 22, learnt=20.0), calm=CALM),
    history(calm=CALM, places=dict([place(5, entitled=20.0, removed=20.0)])),
    history(calm=CALM, lossy=True, places=dict([place(5, entitled=20.0, told=20.0, learnt=23.0)])),
]


@pytest.mark.parametrize(("checker", "bad"), BAD)
def test_a_fault_is_found(checker: Callable[[History], Any], bad: History) -> None:
    assert list(checker(bad))


@pytest.mark.parametrize("good", GOOD)
def test_what_is_allowed_passes(good: History) -> None:
    assert checkers.check(good) == []


def test_every_checker_has_a_control() -> None:
    assert {checker for checker, _ in BAD} == set(checkers.CHECKERS)


def test_modes_that_may_hold_together() -> None:
    assert compatible([EXCLUSIVE])
    assert compatible([SHARED, SHARED])
    assert not compatible([EXCLUSIVE, SHARED])
    assert not compatible([permits(2, 3), permits(2, 3)])
    assert not compatible([permits(1, 3), SHARED])
