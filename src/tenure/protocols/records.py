"""What a client notes of its own sessions, claims and debts: records, changed by the ledger alone.

Promises: no decisions here, beside what follows from one record. Does not promise to be seen whole: whoever is not
under the ledger's mutex reads one field at a time.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from tenure.model import Instant, maker
from tenure.ports import ClaimRef

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenure.model import LossReason, Mode, Seconds
    from tenure.ports import Closing, SessionCard, SessionFacts, Signal

_ref = maker(ClaimRef)

NEVER: Final = Instant(float("-inf"))


class Phase(enum.Enum):
    """Where a claim of this client is in its life."""

    ENTERING = "entering"
    WAITING = "waiting"
    GRANTED = "granted"
    """Among the holders, not yet taken up by whoever asked."""
    HELD = "held"
    CLOSED = "closed"


# Python 3.11 takes 90 ns for an enum's member and 10 for a module's name, and a cycle asks twenty times.
ENTERING: Final = Phase.ENTERING
WAITING: Final = Phase.WAITING
GRANTED: Final = Phase.GRANTED
HELD: Final = Phase.HELD
CLOSED: Final = Phase.CLOSED


class Claim:
    """One attempt of this client to get a name. Its id is used once."""

    __slots__ = (
        "asked_at",
        "delay",
        "epoch",
        "floor",
        "granted_at",
        "group",
        "hinted",
        "hold_until",
        "id",
        "info",
        "lost",
        "mode",
        "name",
        "number",
        "on_end",
        "on_lost",
        "owner",
        "phase",
        "sent_twice",
        "session",
        "signal",
        "unanswered",
        "wait_until",
    )

    def __init__(self, session: Session, claim: int, name: str, mode: Mode, now: Instant) -> None:
        self.session = session
        self.id = claim
        self.name = name
        self.mode = mode
        self.delay: Seconds = 0.0
        self.info = ""
        self.phase: Phase = ENTERING
        self.number = 0
        self.floor = 0
        self.lost: LossReason | None = None
        # True while an enqueue is unanswered, and for good once one was sent twice: only then can a late one
        # still arrive, and only then does closing leave a tombstone (B1).
        self.unanswered = False
        self.sent_twice = False
        self.epoch = 0
        """The session's when its enqueue was first sent."""
        self.hinted = False
        self.asked_at = now
        self.granted_at = NEVER
        self.wait_until: Instant | None = None
        self.hold_until: Instant | None = None
        self.signal: Signal | None = None
        self.owner: object = None
        """The thread or task that took it, so that its wait for itself can be told."""
        self.group: tuple[Claim, ...] = ()
        """The others that are lost with it (B11)."""
        self.on_lost: list[Callable[[], None]] = []
        self.on_end: list[Callable[[], None]] = []
        """As `on_lost`, and also when it is released."""

    @property
    def ref(self) -> ClaimRef:
        """How the engine knows it."""
        return _ref((self.session.card.id, self.id, self.name, self.number))

    @property
    def deadline(self) -> Instant:
        """The local end: the session's, or that of max_hold (A5) or of another of its group (B11) if it comes first."""
        deadline = self.session.deadline
        if self.hold_until is not None and self.hold_until < deadline:
            deadline = self.hold_until
        for other in self.group:
            deadline = min(deadline, other.session.deadline, other.hold_until or deadline)
        return deadline


class Session:
    """A client's liveness in the engine, as the client sees it. Its id is used once; its end is latched (A3)."""

    def __init__(self, card: SessionCard, part: str = "") -> None:
        self.card = card
        self.part = part
        """The part of the store in which it lives (`Ledger.part`)."""
        self.ttl = card.ttl
        self.deadline = NEVER
        self.opened = False
        self.over: LossReason | None = None
        self.over_at = NEVER
        self.retired = False
        self.failing = False
        self.facts: SessionFacts | None = None
        self.changed: SessionFacts | None = None
        """Facts of another life or of a steal: no deadline moves until the claims are reconciled (A2)."""
        self.next_beat = NEVER
        self.epoch = 0
        """Counts the reconciliations: an answer to a request that was sent before one proves nothing after it (A2)."""
        self.unfresh: list[Claim] = []
        """Granted claims that wait for a renewal before they are handed out (A1)."""
        self.claims: dict[int, Claim] = {}
        self.last_claim = 0

    @property
    def period(self) -> Seconds:
        """How often it is renewed (A4; C3 where the engine says so)."""
        return (self.facts.period if self.facts is not None else 0.0) or self.ttl / 3

    @property
    def spent(self) -> Seconds:
        """How much must be left of it for a new claim, where nothing is held under it.

        Where one request cannot extend it (C3), a claim would wait for heartbeats before it could be handed out.
        """
        return self.ttl / 2 if self.facts is not None and self.facts.since is not None and not self.claims else 0.0

    @property
    def patience(self) -> Seconds:
        """How long one request may take before it is given up and repeated (A4)."""
        return self.ttl / 6


class Debt:
    """A claim that the engine must still be told is closed (B2).

    Attributes:
        found: what the keeper's request for it has found: True if the claim was there, False if it was not; None while
            that is not known.
        is_sent: the keeper has sent such a request.
    """

    __slots__ = ("claim", "closing", "found", "is_sent", "not_before", "since")

    def __init__(self, claim: Claim, closing: Closing, since: Instant) -> None:
        self.claim = claim
        self.closing = closing
        self.since = since
        self.not_before = since
        self.found: bool | None = None
        self.is_sent = False
