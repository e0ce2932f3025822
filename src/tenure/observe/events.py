"""The events: frozen values, made where the thing happens, handed to a client's `on_event` after the decision.

Promises: small, immutable, without secrets; durations in seconds on the boot-time clock.
Does not promise a thread: an event is handed over in whichever thread saw it, the keeper's often. A hook must be
quick and must not raise; what it raises is logged and goes no further.
"""

from __future__ import annotations

import dataclasses

from tenure.model import LossReason, Seconds


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a claim on a name, or, where the name is empty, to a session as a whole."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Claimed(Event):
    """A claim entered the queue and waits."""

    number: int


@dataclasses.dataclass(frozen=True, slots=True)
class Granted(Event):
    """A lease was handed out after `waited` seconds, with `remaining` seconds of validity."""

    token: int
    waited: Seconds
    remaining: Seconds


@dataclasses.dataclass(frozen=True, slots=True)
class Renewed(Event):
    """A heartbeat was answered; `remaining` seconds of validity were left when it was sent."""

    leases: int
    remaining: Seconds


@dataclasses.dataclass(frozen=True, slots=True)
class Suspect(Event):
    """A heartbeat failed; the deadline is `remaining` seconds ahead."""

    leases: int
    remaining: Seconds
    cause: str


@dataclasses.dataclass(frozen=True, slots=True)
class Lost(Event):
    """A lease ended before it was released, after it was held for `held` seconds."""

    token: int
    held: Seconds
    reason: LossReason


@dataclasses.dataclass(frozen=True, slots=True)
class Released(Event):
    """A lease was given back. `confirmed` is False while the engine has not answered; the keeper goes on trying."""

    token: int
    held: Seconds
    confirmed: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Stolen(Event):
    """This client stole a claim for its operator."""

    token: int


@dataclasses.dataclass(frozen=True, slots=True)
class Abandoned(Event):
    """A claim was given up, granted or not; the keeper closes it."""

    number: int


@dataclasses.dataclass(frozen=True, slots=True)
class LimitsDiffer(Event):
    """Clients give different limits for one semaphore; the smallest among the holders counts."""

    limit: int
    seen: int
