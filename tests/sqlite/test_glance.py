"""What an enter sees at a glance decides as the whole queue would, and SQLite sees what the dictionaries see."""

from __future__ import annotations

import random
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tenure.engines.memory import MemoryTables
from tenure.engines.queue import At, Steps
from tenure.engines.sqlite import tables
from tenure.model import EXCLUSIVE, SHARED, Instant, Kind, Mode
from tenure.ports import ClaimRef, Closing, Entry, Place, SessionCard
from tests.sqlite.rig import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tenure.engines.tables import Glance

SESSIONS = ("anne", "bob", "carol", "dora")
NAMES = ("n", "m")
TTL = 60.0
DELAY = 25.0
JUMP_US = 20_000_000
START_US = 1_800_000_000_000_000


class Careful(MemoryTables):
    """Tables that see nothing at a glance but whether anybody is there."""

    def glance(self, session: str, name: str) -> Glance:
        seen = super().glance(session, name)
        return seen if seen.held_us is None else seen._replace(held_us=0)


class Life:
    """Random steps at a clock that jumps, so that sessions end in the middle."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - which steps to take
        self.now_us = START_US
        self.claims: list[ClaimRef] = []
        self.serial = 0

    def at(self) -> At:
        return At(self.now_us, self.now_us, Instant(self.now_us / 1e6))

    def step(self) -> Callable[[Steps], Any]:
        """The next step, to be made on each of the twins."""
        choose = self.random
        self.now_us += choose.choice((1, 1, 1, 1_000, JUMP_US))
        at, session, name = self.at(), choose.choice(SESSIONS), choose.choice(NAMES)
        kind = choose.choice(("enter", "enter", "enter", "close", "close", "look", "beat", "steal", "end"))
        if kind == "enter":
            self.serial += 1
            mode = choose.choice((EXCLUSIVE, EXCLUSIVE, SHARED, Mode(Kind.PERMITS, choose.randint(1, 2), 3)))
            card = SessionCard(session, TTL, f"at-{session}", "", "host", 1)
            entry = Entry(
                card, choose.random() < 0.7, choose.random() < 0.2, self.serial, name, mode,
                choose.choice((0.0, 0.0, DELAY)), "", choose.random() < 0.1, False,
            )  # fmt: skip
            dead = frozenset([choose.choice(SESSIONS)] if choose.random() < 0.05 else [])
            return lambda steps: steps.enter(at, entry, dead)
        if kind == "beat":
            return lambda steps: steps.heartbeat(at, session, TTL, True)
        if kind == "end":
            return (lambda steps: steps.end(at, session)) if choose.random() < 0.3 else (lambda _steps: None)
        if not self.claims:
            return lambda _steps: None
        ref = choose.choice(self.claims)
        if kind == "look":
            return lambda steps: steps.look(at, ref)
        if kind == "steal":
            return lambda steps: steps.steal(at, ref.name, ref.number)
        closing = Closing(ref, choose.random() < 0.2, choose.random() < 0.7, False, TTL)
        return lambda steps: steps.close(at, [closing])

    def learn(self, reply: object, tables: MemoryTables) -> None:
        """Take note of what stands in the queues now."""
        if isinstance(reply, Place):
            rows = [row for name in NAMES for row in tables.queue(name)]
            self.claims = [ClaimRef(row.session, row.claim, row.name, row.number) for row in rows]


@pytest.mark.parametrize("seed", range(150))
def test_what_is_decided_at_a_glance_is_what_the_queue_decides(seed: int) -> None:
    life, quick, careful = Life(seed), Steps(MemoryTables()), Steps(Careful())
    quick.tables.life = careful.tables.life = "one"
    for _ in range(60):
        step = life.step()
        reply = step(quick)
        assert reply == step(careful)
        assert quick.take_mail() == careful.take_mail()
        assert isinstance(quick.tables, MemoryTables)
        life.learn(reply, quick.tables)


@pytest.mark.parametrize("seed", range(15))
def test_the_file_is_seen_as_the_dictionaries_are(path: Path, seed: int) -> None:
    life, model = Life(seed), Steps(MemoryTables())
    with Store(path) as store:
        glances = 0
        for _ in range(60):
            step = life.step()
            ours = store.do(partial(_on, step))
            model.tables.life = "one"
            reply = step(model)
            assert ours == (reply, model.take_mail())
            assert isinstance(model.tables, MemoryTables)
            life.learn(reply, model.tables)
            for session in (*SESSIONS, "nobody"):
                for name in NAMES:
                    seen = store.do(partial(_seen, session, name))
                    assert seen == model.tables.glance(session, name)
                    glances += bool(seen.held_us)
        assert glances


def _on(step: Callable[[Steps], Any], steps: Steps, _at: At) -> tuple[Any, Any]:
    # The mail is taken here: its addresses are nobody's.
    steps.tables.life = "one"
    reply = step(steps)
    return reply, steps.take_mail()


def _seen(session: str, name: str, steps: Steps, _at: At) -> Glance:
    return steps.tables.glance(session, name)


def test_a_head_that_was_not_told_is_told_by_whoever_enters() -> None:
    """No step leaves one; a file from elsewhere may have one, and its claim must not be waited for in vain (B3)."""
    steps, at = Steps(MemoryTables()), At(START_US, START_US, Instant(0.0))
    for session in ("anne", "bob"):
        card = SessionCard(session, TTL, f"at-{session}", "", "host", 1)
        steps.enter(at, Entry(card, True, False, 1, "n", EXCLUSIVE, 0.0, "", False, False))
    first = next(iter(steps.tables.queue("n")))
    steps.tables.tell("n", first.number, 0)
    card = SessionCard("bob", TTL, "at-bob", "", "host", 1)
    steps.enter(at, Entry(card, False, False, 2, "n", EXCLUSIVE, 0.0, "", False, False))
    assert [(m.message.session, m.message.number) for m in steps.take_mail()] == [("anne", first.number)]


def test_no_statement_numbers_its_placeholders() -> None:
    """Python 3.12.0 to 3.12.3 warn of those at each statement: with warnings as errors, nobody is granted anything."""
    statements = [
        text for text in vars(tables).values() if isinstance(text, str) and text.lstrip().startswith("SELECT")
    ]
    assert any(text is tables._GLANCE for text in statements)
    assert [text for text in statements if re.search(r"\?\d", text)] == []
