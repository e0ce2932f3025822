"""Where a claim stands by a listing agrees with the prefix rule, whatever the queue."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from tenure.engines.listing import shown, stand
from tenure.model import EXCLUSIVE, SHARED, Contender, Kind, Mode, UtcTime, holders

MODES = [
    EXCLUSIVE,
    SHARED,
    *(Mode(Kind.PERMITS, permits, limit) for permits, limit in ((1, 1), (1, 2), (2, 2), (1, 3))),
]


class Row(NamedTuple):
    number: int
    mode: Mode


QUEUES = [
    [Row(10 * (place + 1), mode) for place, mode in enumerate(modes)]
    for length in range(1, 5)
    for modes in itertools.product(MODES, repeat=length)
]


def test_a_claim_that_nothing_blocks_is_a_holder_and_no_other_is() -> None:
    for queue in QUEUES:
        held = holders(queue)
        for place, row in enumerate(queue):
            found = stand(queue[:place], row.number, row.mode)
            assert (not found.blockers) is (row in held), queue
            assert found.floor == (held[0].number if row in held else 0), queue


def test_as_long_as_all_that_is_watched_stands_the_claim_is_blocked() -> None:
    for queue in QUEUES:
        *ahead, row = queue
        watched = stand(ahead, row.number, row.mode).blockers
        if not watched:
            continue
        others = [c for c in ahead if c not in watched]
        for gone in itertools.chain.from_iterable(itertools.combinations(others, n) for n in range(len(others) + 1)):
            left = [c for c in queue if c not in gone]
            assert row not in holders(left), (queue, watched, gone)


def test_the_nearest_claim_is_enough_for_an_exclusive_one() -> None:
    for queue in QUEUES:
        *ahead, row = queue
        if row.mode == EXCLUSIVE and ahead:
            assert stand(ahead, row.number, EXCLUSIVE) == stand(ahead[-1:], row.number, EXCLUSIVE)


def test_a_differing_limit_of_a_holder_is_told() -> None:
    ahead = [Row(1, Mode(Kind.PERMITS, 1, 3)), Row(2, Mode(Kind.PERMITS, 1, 3))]
    assert stand(ahead, 3, Mode(Kind.PERMITS, 1, 2)).limit == 3
    assert stand(ahead, 3, Mode(Kind.PERMITS, 1, 3)).limit == 0
    assert stand(ahead, 3, SHARED).limit == 0


def test_a_queue_is_shown_as_holders_and_waiters() -> None:
    rows = [
        Contender(n, mode, False, "", "", 0, "", UtcTime(0.0)) for n, mode in ((1, SHARED), (2, SHARED), (3, EXCLUSIVE))
    ]
    queue = shown("name", rows)
    assert [c.token for c in queue.holders] == [1, 2]
    assert [c.token for c in queue.waiters] == [3]
    assert [c.holds for c in (*queue.holders, *queue.waiters)] == [True, True, False]
