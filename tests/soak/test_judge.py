"""The judge of a soak finds out what is wrong, and nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.soak.judge import Belief, disorder, overlaps, read

if TYPE_CHECKING:
    from pathlib import Path


def belief(token: int, first: float, last: float, *, asked: float | None = None, kind: str = "exclusive") -> Belief:
    return Belief(f"w{token}", "n", token, first if asked is None else asked, first, last, kind, 2)


@pytest.mark.parametrize(
    ("beliefs", "found"),
    [
        ([belief(1, 0, 1), belief(2, 1.1, 2)], 0),
        ([belief(1, 0, 1), belief(2, 0.9, 2)], 1),
        ([belief(1, 0, 5), belief(2, 1, 2), belief(3, 3, 4)], 2),
        ([belief(1, 0, 1), belief(2, 0.9, 2)._replace(name="other")], 0),
        ([belief(1, 0, 1, kind="shared"), belief(2, 0.5, 2, kind="shared")], 0),
        ([belief(1, 0, 1, kind="shared"), belief(2, 0.5, 2)], 1),
        ([belief(n, 0, 1, kind="permits") for n in (1, 2)], 0),
        ([belief(n, 0, 1, kind="permits") for n in (1, 2, 3)], 1),
    ],
)
def test_two_who_believe_at_one_instant_are_found(beliefs: list[Belief], found: int) -> None:
    assert len(overlaps(beliefs)) == found


@pytest.mark.parametrize(
    ("beliefs", "found"),
    [
        ([belief(1, 0, 1), belief(2, 2, 3)], 0),
        ([belief(2, 0, 1), belief(1, 2, 3)], 1),
        # Asked for before the larger one was known to anybody.
        ([belief(2, 0.5, 1), belief(1, 2, 3, asked=0.4)], 0),
        ([belief(1, 0, 1), belief(1, 2, 3)], 1),
    ],
)
def test_tokens_that_fall_or_repeat_are_found(beliefs: list[Belief], found: int) -> None:
    assert len(disorder(beliefs)) == found


def test_a_log_ends_where_its_worker_was_killed(tmp_path: Path) -> None:
    granted = {"what": "granted", "name": "n", "token": 7, "asked": 1.0, "first": 2.0, "kind": "exclusive", "limit": 2}
    lines = [granted, {"what": "held", "name": "n", "at": 3.0}, {"what": "served", "name": "n"}]
    path = tmp_path / "4-1.log"
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"what": "held", "na')
    log = read([path])
    assert log.beliefs == [Belief("4-1", "n", 7, 1.0, 2.0, 3.0, "exclusive", 2)]
    assert log.served == {"4": {"n"}}
    assert log.counts == {"granted": 1, "held": 1, "served": 1}
