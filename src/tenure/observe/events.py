"""The events: named tuples, made where the thing happens, handed to a client's `on_event` after the decision.

Promises: small, immutable, without secrets; durations in seconds on the boot-time clock.
Does not promise a thread: an event is handed over in whichever thread saw it, the keeper's often. A hook must be
quick and must not raise; what it raises is logged and goes no further.
"""

from __future__ import annotations

from typing import NamedTuple

from tenure.model import LossReason, Seconds  # noqa: TC001 - the fields' types may be asked for at run time


class Claimed(NamedTuple):
    """A claim entered the queue and waits."""

    name: str
    number: int


class Granted(NamedTuple):
    """A lease was handed out after `waited` seconds, with `remaining` seconds of validity."""

    name: str
    token: int
    waited: Seconds
    remaining: Seconds


class Renewed(NamedTuple):
    """A heartbeat was answered; `remaining` seconds of validity were left when it was sent."""

    name: str
    leases: int
    remaining: Seconds


class Suspect(NamedTuple):
    """A heartbeat failed; the deadline is `remaining` seconds ahead."""

    name: str
    leases: int
    remaining: Seconds
    cause: str


class Lost(NamedTuple):
    """A lease ended before it was released, after it was held for `held` seconds."""

    name: str
    token: int
    held: Seconds
    reason: LossReason


class Released(NamedTuple):
    """A lease was given back. `confirmed` is False while the engine has not answered; the keeper goes on trying."""

    name: str
    token: int
    held: Seconds
    confirmed: bool


class Stolen(NamedTuple):
    """This client stole a claim for its operator."""

    name: str
    token: int


class Abandoned(NamedTuple):
    """A claim was given up, granted or not; the keeper closes it."""

    name: str
    number: int


class Stalled(NamedTuple):
    """A waiter has been behind the holder with this token for ten minutes, and waits for `waited` seconds."""

    name: str
    token: int
    waited: Seconds


class LimitsDiffer(NamedTuple):
    """Clients give different limits for one semaphore; the smallest among the holders counts."""

    name: str
    limit: int
    seen: int


Event = Claimed | Granted | Renewed | Suspect | Lost | Released | Stolen | Abandoned | Stalled | LimitsDiffer
"""Something happened to a claim on a name, or, where the name is empty, to a session as a whole."""
