"""What is decided on a lease, from the moment its grant is taken up until it is given back.

Promises: whoever sees a passed deadline latches it; what is given back is owed before its closing is sent.
Does not promise to be where every lease ends: it may end with its session, or be closed as claims are, in the ledger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenure.model import Instant, LeaseState, LossReason
from tenure.observe.events import Lost
from tenure.protocols.records import CLOSED, GRANTED, HELD, Debt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenure.model import Seconds
    from tenure.protocols.ledger import Ledger
    from tenure.protocols.records import Claim, Session


def take_up(ledger: Ledger, claim: Claim, max_hold: Seconds | None) -> bool:
    """Make a grant a lease, unless its session ended meanwhile."""
    now = ledger.runtime.now()
    with ledger.mutex:
        if now >= claim.session.deadline:
            _check_session(ledger, claim.session, now)
        taken = claim.phase is GRANTED and claim.session.over is None
        if max_hold is not None and now >= claim.granted_at + max_hold:
            taken = False  # its time ran while its caller did not
        if taken:
            claim.phase = HELD
            ledger.pending.pop(claim, None)
            if max_hold is not None:
                ledger.bounded[claim] = None
                claim.hold_until = Instant(claim.granted_at + max_hold)
            # Not its deadline alone: a keeper that looked while the session was being opened may sleep past the
            # heartbeat.
            if min(claim.deadline, claim.session.next_beat) < ledger.next_due:
                ledger.inbox.put(None)
    if ledger.left:
        ledger.flush()
    return taken


def worth(ledger: Ledger, claim: Claim) -> LeaseState:
    """What a lease is worth now. Whoever sees a passed deadline latches it."""
    if claim.lost is not None:
        return LeaseState.LOST
    if claim.phase is CLOSED:
        return LeaseState.RELEASED
    now = ledger.runtime.now()
    if now >= claim.deadline:
        with ledger.mutex:
            _end_overdue(ledger, claim, now)
        ledger.flush()
        return LeaseState.LOST if claim.lost is not None else LeaseState.RELEASED
    return LeaseState.SUSPECT if claim.session.failing else LeaseState.HELD


def _check_session(ledger: Ledger, session: Session, now: Instant) -> None:
    if session.over is None and session.opened and now >= session.deadline:
        ledger.finish(session, LossReason.DEADLINE, now)


def _end_overdue(ledger: Ledger, claim: Claim, now: Instant) -> None:
    """Latch what the clock says of a lease. Called under the mutex."""
    for one in (claim, *claim.group):
        _check_session(ledger, one.session, now)
        if one.lost is None and one.hold_until is not None and now >= one.hold_until:
            ledger.lose(one, LossReason.MAX_HOLD, now)


def join(ledger: Ledger, claims: Sequence[Claim]) -> bool:
    """Tie leases together: from now on they are lost together (B11). False if one of them is lost already."""
    now = ledger.runtime.now()
    with ledger.mutex:
        for claim in claims:
            _end_overdue(ledger, claim, now)
        joined = all(claim.phase is HELD for claim in claims)
        if joined:
            for claim in claims:
                claim.group = tuple(other for other in claims if other is not claim)
    ledger.flush()
    return joined


def begin_release(ledger: Ledger, claim: Claim, now: Instant) -> Debt | None:
    """Close a held claim on this side and note the debt, before the request is sent: Ctrl-C may come anywhere.

    Returns:
        The debt, whose closing is to be sent; None if there is nothing to send: it was lost or released before.
    """
    with ledger.mutex:
        if now >= claim.deadline:
            _end_overdue(ledger, claim, now)
        debt = None
        if claim.lost is None and claim.phase is HELD:
            debt = Debt(claim, ledger.bill(claim, clean=True, held=True), now)
            debt.not_before = Instant(now + claim.session.patience)
            ledger.debts[claim] = debt
            ledger.settle(claim)
    if ledger.left:
        ledger.flush()
    return debt


def release_later(ledger: Ledger, claim: Claim) -> None:
    """Release without waiting: the keeper does it."""
    if begin_release(ledger, claim, ledger.runtime.now()) is not None:
        press(ledger, claim)


def press(ledger: Ledger, claim: Claim) -> None:
    """A release got no answer: from now on it is the keeper's."""
    debt = ledger.debts.get(claim)
    if debt is not None:
        debt.not_before = debt.since
    ledger.inbox.put(None)


def missed(ledger: Ledger, claim: Claim, reason: LossReason) -> None:
    """A release found that the engine no longer had the claim."""
    with ledger.mutex:
        claim.lost = reason
        ledger.emit(Lost(claim.name, claim.number, ledger.runtime.now() - claim.granted_at, reason))
        for action in claim.on_lost:
            ledger.later(action)
    ledger.flush()
