"""Where an engine whose queues we keep ourselves keeps its sessions and claims: the port between steps and storage.

The steps of `queue` own the meaning, the tables own the storage: memory, SQLite and the simulator have tables of their
own. Times are integer microseconds of the engine's clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tenure.model import Mode
    from tenure.ports import ClaimRef, Entry, SessionCard


class SessionRow(Protocol):
    """What every step asks of a session."""

    @property
    def until_us(self) -> int: ...
    @property
    def ended(self) -> int: ...
    @property
    def stolen(self) -> int: ...
    @property
    def tombstones(self) -> str: ...


class ClaimRow(Protocol):
    """A claim as the tables keep it, with the liveness of its session joined in."""

    @property
    def session(self) -> str: ...
    @property
    def claim(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def mode(self) -> Mode: ...
    @property
    def delay_us(self) -> int: ...
    @property
    def floor(self) -> int:
        """The floor that its holder was told; 0 = not yet told."""
        ...

    @property
    def freed_us(self) -> int:
        """Closed uncleanly: it blocks until then (B10); 0 = open."""
        ...

    @property
    def info(self) -> str: ...
    @property
    def until_us(self) -> int:
        """Its session's end; 0 = there is no such session."""
        ...

    @property
    def ended(self) -> int: ...
    @property
    def address(self) -> str: ...


class Glance(NamedTuple):
    """What an enter mostly needs to know, in one look.

    Attributes:
        until_us: its session's end; None = there is no such session.
        ended, stolen, tombstones: as in `SessionRow`.
        held_us: until when one exclusive claim, told and open, holds the name for certain: its session's end. 0 = look
            closer; None = the queue is empty.
        last, address: the session of the last claim in the queue.
        last_us: until when the last claim stands for certain: its session's end if it is open and without a delay.
    """

    until_us: int | None
    ended: int
    stolen: int
    tombstones: str
    held_us: int | None
    last: str
    address: str
    last_us: int


class Tables(Protocol):
    """Where sessions and claims are kept. The steps own the meaning, the tables own the storage."""

    life: str

    def draw(self, wall_us: int) -> int:
        """The next number: max(last + 1, wall_us)."""
        ...

    def glance(self, session: str, name: str) -> Glance: ...
    def session(self, session: str) -> SessionRow | None: ...
    def card(self, session: str) -> SessionCard | None:
        """Who opened a session, for display; its ttl is not kept."""
        ...

    def open(self, card: SessionCard, until_us: int, ended: int, stolen: int, tombstones: str) -> None: ...
    def extend(self, session: str, until_us: int) -> None: ...
    def latch(self, session: str, now_us: int) -> None:
        """End a session for good: `ended`, and `until_us` no later than now."""
        ...

    def rob(self, session: str) -> None:
        """Count a steal."""
        ...

    def bury(self, session: str, claim: int) -> None:
        """Leave a tombstone in the session's record."""
        ...

    def drop(self, session: str) -> None: ...
    def over(self, now_us: int, limit: int) -> list[str]:
        """Sessions that ended or whose time is over."""
        ...

    def queue(self, name: str) -> Iterator[ClaimRow]:
        """The claims of a name by rising number, read lazily."""
        ...

    def backwards(self, name: str, below: int) -> Iterator[ClaimRow]:
        """The claims of a name below a number, the nearest first, read lazily."""
        ...

    def after(self, name: str, number: int) -> ClaimRow | None: ...
    def find(self, ref: ClaimRef) -> ClaimRow | None: ...
    def insert(self, entry: Entry, number: int, floor: int, delay_us: int) -> bool:
        """False if this claim of this session is already there; then nothing changed."""
        ...

    def remove(self, session: str, name: str, number: int) -> bool: ...
    def tell(self, name: str, number: int, floor: int) -> None: ...
    def free_at(self, name: str, number: int, at_us: int) -> None: ...
    def owned(self, session: str, limit: int) -> list[ClaimRow]: ...
    def names(self, prefix: str) -> list[str]: ...
    def addresses(self) -> frozenset[str]:
        """The addresses of all sessions, dead or alive."""
        ...
