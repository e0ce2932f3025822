"""The values of tenure, and `holders`, the prefix rule: who of a queue holds the name.

Promises: everything here is a value or a pure function; no clock, no I/O, no randomness.
Does not promise: that two leases never overlap in time. A lease is a local belief with a deadline; the token protects.

The rule, from which mutex, read-write lock and semaphore follow: *the holders of a name are the longest compatible
prefix of its queue*. A claim's number is its place and its fencing token; because numbers rise and holders are a
prefix, tokens are granted in order.
"""

from __future__ import annotations

import enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NewType, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

V = TypeVar("V", bound="tuple[Any, ...]")


def maker(value: type[V]) -> Callable[[Iterable[Any]], V]:
    """As the `_make` of a named tuple, at a third of its price: a turn makes ten of them. Give all the fields."""
    return partial(tuple.__new__, value)


Seconds = float
"""A duration in seconds."""

Instant = NewType("Instant", float)
"""A reading of this machine's boot-time clock, in seconds. It never leaves the process."""

UtcTime = NewType("UtcTime", float)
"""A wall-clock time in seconds since 1970, for display only. It decides nothing."""

NUMBER_MAX: Final = 2**53 - 1
"""The largest number: exact in Lua and JavaScript. In microseconds since 1970 it is reached in the year 2255."""


class Kind(enum.StrEnum):
    """Whether a claim shares its name, and with whom. Claims of different kinds are incompatible."""

    EXCLUSIVE = "exclusive"
    SHARED = "shared"
    PERMITS = "permits"


# Python 3.11 takes 90 ns for an enum's member and 10 for a module's name, and a hand-over asks ten times.
ALONE: Final = Kind.EXCLUSIVE
PERMITS: Final = Kind.PERMITS


class Mode(NamedTuple):
    """How a claim wants its name: alone, with other readers, or as `permits` of a `limit`."""

    kind: Kind
    permits: int = 1
    limit: int = 1


EXCLUSIVE: Final = Mode(Kind.EXCLUSIVE)
SHARED: Final = Mode(Kind.SHARED)


class HasMode(Protocol):
    """Anything that stands in a queue."""

    @property
    def mode(self) -> Mode:
        """How it wants its name."""
        ...


C = TypeVar("C", bound=HasMode)


def holders(queue: Iterable[C]) -> list[C]:
    """Return the longest compatible prefix of a queue: those who hold the name.

    Permits are held in order while they fit *the smallest limit among the holders* (rule B5: "the latest limit" and
    "the smallest limit in the queue" both let a newcomer eject a holder).

    Reads no further than the first claim that does not fit, so that a hand-over costs the same however many wait.
    """
    prefix: list[C] = []
    kind: Kind | None = None
    used = 0
    limit = 0
    for claim in queue:
        mode = claim.mode
        if kind is None:
            kind, limit = mode.kind, mode.limit
        elif mode.kind is not kind or kind is ALONE:
            break
        if kind is PERMITS:
            limit = min(limit, mode.limit)
            used += mode.permits
            if used > limit:
                break
        prefix.append(claim)
        if kind is ALONE:
            break
    return prefix


def blockers(ahead: Iterable[C], mode: Mode) -> list[C]:
    """Return the nearest claims ahead that *together* prove a claim of this mode blocked (rule B6).

    Args:
        ahead: the claims in front, the nearest first.
        mode: what is asked for.

    Returns:
        As long as all of these stand in the queue, the claim is not among the holders; when any goes, look again.
        Empty if nothing ahead blocks it. (Watching one nearest claim alone stalls semaphores.)
    """
    needed: list[C] = []
    used, limit = mode.permits, mode.limit
    for claim in ahead:
        other = claim.mode
        if other.kind is not mode.kind or mode.kind is ALONE:
            # One claim of another kind, or any claim before an exclusive one, is proof by itself.
            return [claim]
        if mode.kind is PERMITS:
            needed.append(claim)
            used += other.permits
            limit = min(limit, other.limit)
            if used > limit:
                return needed
    return []


class LossReason(enum.StrEnum):
    """Why a lease ended before its holder released it."""

    DEADLINE = "its deadline passed before a renewal was answered"
    SESSION_ENDED = "the engine ended its session"
    STORE_LOST = "the store lost it"
    STOLEN = "an operator stole it"
    MAX_HOLD = "it was held for longer than max_hold"
    FORKED = "it belongs to the parent process of a fork"
    CLOSED = "its client was closed"
    DROPPED = "it was garbage-collected without having been released"
    REFUSED = "a resource refused its token"
    TOGETHER = "another of the names that were taken with it was lost"


class LeaseState(enum.StrEnum):
    """What a lease is worth at this moment."""

    HELD = "held"
    SUSPECT = "suspect"
    """Renewals fail, but the deadline is ahead: start nothing new, hope."""
    LOST = "lost"
    RELEASED = "released"


class Grant(NamedTuple):
    """Proof of a grant that may travel: to another process, into a queue, to the resource that checks it.

    Attributes:
        name: what is locked.
        token: the fencing token; larger than that of every earlier grant of the name.
        floor: the smallest token of its group of co-holders; equal to `token` for an exclusive lease (rule B8).
        authority: who drew the token: engine kind, the store's random id and namespace. Tokens of different
            kinds or namespaces cannot be compared. Empty: it came from elsewhere, and nobody knows.
    """

    name: str
    token: int
    floor: int
    authority: str = ""


class Contender(NamedTuple):
    """One claim of a queue as an operator sees it.

    Attributes:
        token: its number, and its fencing token once it holds.
        mode: what it asked for.
        holds: whether it is among the holders.
        client: the client's own name for itself.
        host: the host that it runs on.
        pid: its process id there.
        info: what the caller attached to the claim; data, never code.
        since: when it entered the queue, by the engine's wall clock.
    """

    token: int
    mode: Mode
    holds: bool
    client: str
    host: str
    pid: int
    info: str
    since: UtcTime


class Queue(NamedTuple):
    """Who holds a name and who waits for it, in order."""

    name: str
    holders: tuple[Contender, ...]
    waiters: tuple[Contender, ...]
