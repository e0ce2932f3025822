"""What a simulated run leaves behind, as data: the checkers judge nothing else.

All times are true world time in seconds, which no simulated process can see.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter

from tenure.model import EXCLUSIVE, Kind, LossReason, Mode

FOREVER = float("inf")


class Ending(enum.Enum):
    """How the belief in a lease ended."""

    OPEN = "open"
    RELEASED = "released"
    LOST = "lost"
    DEADLINE = "deadline"
    CRASHED = "crashed"


@dataclasses.dataclass(slots=True)
class Held:
    """A lease as its holder saw it.

    Attributes:
        asked: when the caller asked; `began` and `ended` bound the time in which it believed to hold.
        learnt: when its client learnt of the grant, before it was handed out.
        told_loss: when its loss was told, without anybody asking.
        revived: it was reported held after it had ended.
        limit: `max_hold`, in true seconds.
        left: what was left of the session when the grant was learnt, as a part of its ttl.
        dropped: its caller dropped it unreleased.
    """

    client: str
    session: str
    claim: int
    name: str
    mode: Mode
    number: int
    floor: int
    asked: float
    learnt: float
    began: float
    ended: float = FOREVER
    ending: Ending = Ending.OPEN
    reason: LossReason | None = None
    told_loss: float | None = None
    revived: bool = False
    delay: float = 0.0
    limit: float | None = None
    left: float = 1.0
    dropped: bool = False


@dataclasses.dataclass(slots=True)
class Group:
    """Leases that were handed out together: session and claim of each."""

    at: float
    members: list[tuple[str, int]]


@dataclasses.dataclass(slots=True)
class Entered:
    """A number that was drawn: asked for, answered."""

    name: str
    number: int
    sent: float
    answered: float


@dataclasses.dataclass(slots=True)
class Place:
    """A claim as the engine saw it.

    Attributes:
        entitled: when it first stood among the live holders.
        told: when the engine first marked it as told.
        learnt: when its client learnt that it holds.
        removed: when it went.
        dropped: when its client gave it up or died; nobody needs to be told afterwards.
        by_death: it became entitled as a session in front ended.
        went_back: a store that went back to an earlier state brought it back after it had been removed.
    """

    name: str
    number: int
    session: str
    claim: int
    mode: Mode = EXCLUSIVE
    entered: float = 0.0
    entitled: float = FOREVER
    told: float = FOREVER
    learnt: float = FOREVER
    removed: float = FOREVER
    dropped: float = FOREVER
    by_death: bool = False
    went_back: bool = False


@dataclasses.dataclass(slots=True)
class Theft:
    """A steal that removed something."""

    at: float
    name: str
    number: int
    removed: tuple[int, ...]


@dataclasses.dataclass(slots=True)
class Disaster:
    """A declared fault that may end sessions early or lose claims: beliefs may overlap for one ttl after it."""

    at: float
    kind: str


@dataclasses.dataclass(slots=True)
class Outrun:
    """A local deadline that lay behind the end of its session in the engine."""

    at: float
    client: str
    session: str
    by: float


@dataclasses.dataclass(slots=True)
class Leftover:
    """A claim that the engine still had at the end although nobody wanted it."""

    name: str
    number: int
    session: str
    why: str


@dataclasses.dataclass
class History:
    """One run.

    Attributes:
        ttl: the longest ttl in use.
        calm: from when to when no fault was about and no message lost its way.
        lossy: the mail was lossy even then.
        pauses: per client, when it was paused; a crash is a pause without an end.
        stuck: callers that had not come back long after everything was free.
    """

    ttl: float = 0.0
    calm: tuple[float, float] = (FOREVER, FOREVER)
    lossy: bool = False
    held: list[Held] = dataclasses.field(default_factory=list)
    groups: list[Group] = dataclasses.field(default_factory=list)
    entered: list[Entered] = dataclasses.field(default_factory=list)
    places: dict[tuple[str, int], Place] = dataclasses.field(default_factory=dict)
    thefts: list[Theft] = dataclasses.field(default_factory=list)
    disasters: list[Disaster] = dataclasses.field(default_factory=list)
    outruns: list[Outrun] = dataclasses.field(default_factory=list)
    leftovers: list[Leftover] = dataclasses.field(default_factory=list)
    stuck: list[str] = dataclasses.field(default_factory=list)
    broken: list[str] = dataclasses.field(default_factory=list)
    pauses: dict[str, list[tuple[float, float]]] = dataclasses.field(default_factory=dict)
    counts: Counter[str] = dataclasses.field(default_factory=Counter)


def compatible(modes: list[Mode]) -> bool:
    """Whether all of these may hold together: a restatement that shares nothing with `model.holders`."""
    if len(modes) < 2:
        return True
    kinds = {mode.kind for mode in modes}
    if kinds == {Kind.SHARED}:
        return True
    if kinds != {Kind.PERMITS}:
        return False
    return sum(mode.permits for mode in modes) <= min(mode.limit for mode in modes)
