"""What must hold of the rule, for any module that states it: the shipped one, and its mutants.

Grants come from a queue that follows the prefix rule, so that floors and co-holders are what an engine would give.
"""

# ruff: noqa: E501 - the text to change is quoted as it stands

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, NamedTuple

from tenure.model import EXCLUSIVE, SHARED, Kind, Mode, holders

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

MODES = (EXCLUSIVE, SHARED, SHARED, SHARED, SHARED, Mode(Kind.PERMITS, 1, 2), Mode(Kind.PERMITS, 2, 3))


class Claim(NamedTuple):
    number: int
    mode: Mode


class Granted(NamedTuple):
    token: int
    floor: int


class World:
    """A queue, all that it ever granted, and one fence."""

    def __init__(self, rule: ModuleType, seed: int) -> None:
        self.rule = rule
        self.random = random.Random(seed)  # noqa: S311 - a test's
        self.queue: list[Claim] = []
        self.granted: dict[int, Granted] = {}
        self.last = 0
        self.fence = rule.Fence()
        self.seen = 0

    def step(self) -> None:
        """Somebody enters, or leaves, or comes to the fence."""
        choice = self.random.random()
        if choice < 0.3:
            self.last += self.random.randint(1, 3)
            self.queue.append(Claim(self.last, self.random.choice(MODES)))
        elif choice < 0.6 and self.queue:
            self.queue.remove(self.random.choice(self.queue))
        for claim in (now := holders(self.queue)):
            self.granted.setdefault(claim.number, Granted(claim.number, now[0].number))
        if self.granted:
            self.visit(self.random.choice(list(self.granted.values())))

    def visit(self, grant: Granted) -> None:
        """A holder, or one that was, comes to announce, to raise, or to work."""
        rule, fence = self.rule, self.fence
        proof = rule.Proof("r", grant.token, grant.floor)
        verdict = rule.judge(fence, proof)
        is_holder = any(claim.number == grant.token for claim in holders(self.queue))
        assert not (is_holder and verdict is rule.Verdict.STALE), "a rightful holder is refused"
        assert verdict is not rule.Verdict.FOREIGN
        assert (verdict is rule.Verdict.STALE) == (grant.token < self.seen), (
            "who was overtaken, and only they, is stale"
        )
        if verdict is rule.Verdict.ACCEPTED:
            assert grant.floor <= fence.token <= grant.token
        elif verdict is rule.Verdict.NOT_RAISED:
            if self.random.random() < 0.6:
                self.fence = rule.announced(fence, proof)
            else:
                self.fence = rule.raised(rule.announced(fence, proof), proof)
                assert rule.judge(self.fence, proof) is rule.Verdict.ACCEPTED, "who has raised may work"
            self.seen = max(self.seen, grant.floor)
        assert self.fence.token >= fence.token, "a fence falls"
        assert self.fence.intent >= fence.intent, "an intent falls"
        # Announced or raised: every earlier holder that does not hold together with this one is shut out.
        for other in self.granted.values():
            if verdict is rule.Verdict.NOT_RAISED and other.token < grant.floor:
                refused = rule.judge(self.fence, rule.Proof("r", other.token, other.floor))
                assert refused is rule.Verdict.STALE, "an earlier holder gets in"


def histories(rule: ModuleType) -> None:
    """Whoever raises shuts out all earlier holders, and never a co-holder."""
    for seed in range(300):
        world = World(rule, seed)
        for _ in range(60):
            world.step()


def operations(rule: ModuleType) -> None:
    """Under one token each operation number is done once, in order; a new token counts from the start."""
    fence = rule.raised(rule.Fence(), rule.Proof("r", 5, 5))
    done = 0
    for seq in (1, 1, 3, 2, 3, 4):
        verdict = rule.judge(fence, rule.Proof("r", 5, 5, seq=seq))
        assert verdict is (rule.Verdict.ACCEPTED if seq > done else rule.Verdict.DUPLICATE)
        if seq > done:
            done = seq
            fence = fence._replace(seq=seq)
    assert rule.judge(fence, rule.Proof("r", 5, 5)) is rule.Verdict.ACCEPTED
    assert rule.judge(fence, rule.Proof("r", 4, 4, seq=9)) is rule.Verdict.STALE
    after = rule.raised(fence, rule.Proof("r", 6, 6))
    assert rule.judge(after, rule.Proof("r", 6, 6, seq=1)) is rule.Verdict.ACCEPTED
    assert rule.raised(after, rule.Proof("r", 5, 5)) == after


def authorities(rule: ModuleType) -> None:
    """Tokens of two known authorities are never compared; whoever has none is compared by its number alone."""
    known, other, bare = (rule.Proof("r", 5, 5, a) for a in ("redis/a", "etcd/a", ""))
    fence = rule.raised(rule.Fence(), known)
    assert fence.authority == "redis/a"
    for token in (1, 5, 9):
        foreign = other._replace(token=token, floor=token)
        assert rule.judge(fence, foreign) is rule.Verdict.FOREIGN
    assert rule.judge(fence, bare) is rule.Verdict.ACCEPTED
    assert rule.judge(fence, bare._replace(token=4, floor=4)) is rule.Verdict.STALE
    assert rule.raised(fence, bare._replace(token=6, floor=6)).authority == "redis/a"
    unknown = rule.raised(rule.Fence(), bare)
    assert unknown.authority == ""
    assert rule.judge(unknown, known) is rule.Verdict.ACCEPTED
    assert rule.raised(unknown, known._replace(token=6, floor=6)).authority == "redis/a"


PROPERTIES: list[Callable[[Any], None]] = [histories, operations, authorities]

# fmt: off
MUTANTS = [
    ("strict comparison", "max(fence.token, fence.intent) > proof.token", "max(fence.token, fence.intent) >= proof.token"),
    ("the intent is not read", "max(fence.token, fence.intent) > proof.token", "fence.token > proof.token"),
    ("the fence is not compared", "max(fence.token, fence.intent) > proof.token", "fence.intent > proof.token"),
    ("the floor alone is compared", "max(fence.token, fence.intent) > proof.token", "max(fence.token, fence.intent) > proof.floor"),
    ("work without a raise", "if fence.token < proof.floor:\n        return Verdict.NOT_RAISED", "if False:\n        return Verdict.NOT_RAISED"),
    ("the token must be known", "if fence.token < proof.floor:", "if fence.token < proof.token:"),
    ("raised to the token", "return Fence(proof.floor, fence.intent, 0,", "return Fence(proof.token, fence.intent, 0,"),
    ("announced to the token", "max(fence.intent, proof.floor)", "max(fence.intent, proof.token)"),
    ("an intent falls", "max(fence.intent, proof.floor)", "proof.floor"),
    ("a late raise lowers", "if fence.token >= proof.floor:\n        return fence\n", ""),
    ("a raise forgets the intent", "return Fence(proof.floor, fence.intent, 0,", "return Fence(proof.floor, 0, 0,"),
    ("counts go on", "return Fence(proof.floor, fence.intent, 0,", "return Fence(proof.floor, fence.intent, fence.seq,"),
    ("an equal number is new", "fence.seq >= proof.seq", "fence.seq > proof.seq"),
    ("duplicates pass", "if proof.seq and fence.seq >= proof.seq:", "if False:"),
    ("authorities are not compared", "fence.authority and proof.authority and fence.authority != proof.authority", "False"),
    ("nobody is somebody", "fence.authority and proof.authority and fence.authority != proof.authority", "fence.authority != proof.authority"),
    ("a bare raise forgets whose", "0, proof.authority or fence.authority)", "0, proof.authority)"),
]
# fmt: on
"""(what, text, replacement): each rule taken out, of which one property must notice."""
