"""Where a claim stands, from a listing of its queue: for engines that only list claims and forget the dead themselves.

Promises: pure functions of what was listed; the holders are those of the prefix rule, and what is watched is what
together proves a claim blocked (B6).
Does not promise that the listing is of this instant, or that it was whole: whoever hands it in vouches for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from tenure.model import Contender, Kind, Mode, Queue, blockers, holders

if TYPE_CHECKING:
    from collections.abc import Sequence


class Listed(Protocol):
    """A claim of a listing."""

    @property
    def number(self) -> int:
        """Its number, and its token once it holds."""
        ...

    @property
    def mode(self) -> Mode:
        """How it wants its name."""
        ...


L = TypeVar("L", bound=Listed)


class Stand(NamedTuple, Generic[L]):
    """Where a claim stands.

    Attributes:
        blockers: the claims that together prove it blocked, the nearest first; empty if it is among the holders.
        floor: the number of the first claim of its group if it holds, else 0 (rule B8).
        limit: the differing limit of a holder, where permits are asked for; 0 if there is none.
    """

    blockers: tuple[L, ...]
    floor: int
    limit: int


def stand(ahead: Sequence[L], number: int, mode: Mode) -> Stand[L]:
    """Say where a claim stands.

    Args:
        ahead: the claims in front of it, in order. For an exclusive claim the nearest one is enough: any claim in
            front blocks it.
        number: its own number.
        mode: its own mode.
    """
    blocked = tuple(blockers(reversed(ahead), mode))
    limit = 0
    if mode.kind is Kind.PERMITS:
        held = (c.mode for c in holders(ahead))
        limit = next((m.limit for m in held if m.kind is mode.kind and m.limit != mode.limit), 0)
    if blocked:
        return Stand(blocked, 0, limit)
    # Counted when it is looked at and not when it was granted, the first may have left meanwhile. That is safe: no
    # holder is below the first of those who stand, and everyone incompatible was in front of it.
    return Stand((), ahead[0].number if ahead else number, limit)


def shown(name: str, queue: Sequence[Contender]) -> Queue:
    """Who holds and who waits, for people; `queue` is the whole one, in order, and its `holds` are not looked at."""
    held = len(holders(queue))
    return Queue(
        name,
        tuple(c._replace(holds=True) for c in queue[:held]),
        tuple(c._replace(holds=False) for c in queue[held:]),
    )
