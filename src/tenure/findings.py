"""What a doctor finds: how an engine is set up, what that means for a lock, and what to change.

Promises: values only; nothing here holds a password. A finding's name is stable, and so are the grades.
Does not promise: that the sentences are stable; match on names and grades. Nor that the set-up stays as it was found.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tenure.model import Seconds


class Grade(enum.IntEnum):
    """How much a finding matters; the worse, the larger."""

    OK = 0
    INFO = 1
    """Worth knowing; nothing needs to be done. Also what could not be found out."""
    WARNING = 2
    """The promises hold, but less well than they could: after a crash, a fail-over or under load."""
    DANGER = 3
    """Locks fail, or are lost without any fault."""

    def __str__(self) -> str:
        return self.name.lower()


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: what was looked at, such as "eviction".
        grade: how much it matters.
        found: what was found, with units.
        means: what that means for a lock; empty where nothing needs to be said.
        change: what to change; empty where nothing needs to be.
    """

    name: str
    grade: Grade
    found: str
    means: str = ""
    change: str = ""


class Examination(NamedTuple):
    """What an engine tells of itself.

    Attributes:
        capabilities: what is offered here, also what depends on how the server is set up.
        findings: in an order that reads well.
    """

    capabilities: frozenset[str]
    findings: tuple[Finding, ...]


class Report(NamedTuple):
    """What `doctor` found.

    Attributes:
        url: which engine, without secrets.
        engine: its kind, such as "redis".
        scope: whom its locks keep apart, in words.
        ttl: the ttl, in seconds, against which times were judged.
        capabilities: what is offered here, also what depends on how the server is set up.
        findings: the worst first.
    """

    url: str
    engine: str
    scope: str
    ttl: Seconds
    capabilities: frozenset[str]
    findings: tuple[Finding, ...]

    @property
    def worst(self) -> Grade:
        """The worst grade among the findings."""
        return max((finding.grade for finding in self.findings), default=Grade.OK)
