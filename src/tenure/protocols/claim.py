"""Acquire and release, once for every engine and runtime.

Promises: whatever ends an acquire early, an error, a time-out, a cancellation at any await, nothing is held
afterwards: the claim is registered before its request is sent, and what may have been granted goes to the keeper.
Does not promise that nobody else believes to hold the name: the deadline is local and the token protects.

Source: the queue of claims is that of ZooKeeper's lock recipe (Hunt et al. 2010, section 2.4), with the deadline rule
of leases (Gray and Cheriton 1989, section 2).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple

from tenure.errors import OutcomeUnknown, SetupError, StoreUnavailable, UsageError
from tenure.model import Instant, LossReason, Mode, Seconds
from tenure.observe.events import Claimed, Granted, LimitsDiffer, Released
from tenure.ports import BUSY, GONE, HOLDS, WAITS, Place
from tenure.protocols.lease import begin_release, missed, press, take_up
from tenure.protocols.news import news
from tenure.protocols.records import CLOSED, ENTERING, GRANTED, WAITING, Claim
from tenure.protocols.stall import Stall

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenure.ports import QueueStore
    from tenure.protocols.ledger import Ledger
    from tenure.protocols.records import Session

RETRY_FIRST: Final = 0.02
RETRY_MOST: Final = 1.0
"""Seconds between repeats of a request that failed, from the first to the most, with jitter."""

FRESH: Final = 0.48
"""The part of its ttl that a lease must be worth when it is handed out; two hundredths below the part at which its
own request would have extended the session, for the time that the request took."""

LOOK_LEAST: Final = 0.001
"""Seconds after the expected end of a session at which its death is looked at, so that the engine agrees."""


class Ask(NamedTuple):
    """What is asked for."""

    name: str
    mode: Mode
    delay: Seconds = 0.0
    info: str = ""
    max_hold: Seconds | None = None


class _End(enum.Enum):
    """How one claim's wait ended."""

    GRANTED = "granted"
    OVER = "over"
    """The wait is over, or the name was busy: nothing is held."""
    GONE = "gone"
    """The engine no longer has the claim: ask again with a new one (A3)."""


_GRANTED: Final = _End.GRANTED
_OVER: Final = _End.OVER
_GONE: Final = _End.GONE


async def acquire(
    ledger: Ledger,
    store: QueueStore,
    ask: Ask,
    until: Instant | None,
    at_once: bool,
    adopt: Callable[[Claim], None],
) -> Claim | None:
    """Wait until a claim is among the holders of its name.

    Args:
        ledger: the client's.
        store: the caller's own connection to the engine.
        ask: what is asked for.
        until: give up at this instant; None waits for ever.
        at_once: enter the queue only if that grants the name at once.
        adopt: called with each claim before its request is sent, so that a handle which is thrown away can give
            back what its claim was granted.

    Returns:
        The claim, held; its deadline is counted from before the request that opened or extended its session was
        sent (A1). None if the wait is over: nothing is held.

    Raises:
        StoreUnavailable: nothing is held, and nothing was queued; or its place was lost, and `until` has come.
        OutcomeUnknown: no answer came until `until`; whatever was granted is being given back.
        UsageError: the client was closed.

    Cancellation: safe at every await; nothing is held afterwards, and the claim is closed by the keeper.
    """
    pause = RETRY_FIRST
    is_first = True
    while True:
        if ledger.closing:
            raise UsageError("this client is closed; open another")
        claim = ledger.register(ask.name, ask.mode, ledger.runtime.now())
        claim.delay, claim.info, claim.wait_until = ask.delay, ask.info, until
        adopt(claim)
        try:
            end = await _attempt(ledger, store, claim, until, at_once)
            if end is _GRANTED and take_up(ledger, claim, ask.max_hold):
                if ledger.watched:
                    now = ledger.runtime.now()
                    ledger.emit(Granted(ask.name, claim.number, now - claim.asked_at, claim.deadline - now))
                    ledger.flush()
                return claim
        except BaseException as error:
            # Also a cancellation, also Ctrl-C: handing it to the keeper never waits.
            ledger.abandon(claim)
            is_unavailable = isinstance(error, StoreUnavailable)
            if not is_unavailable or is_first or (until is not None and ledger.runtime.now() >= until):
                raise
            # Whoever has lost its place in the queue asks until its wait is over, also while nobody answers (A3).
            pause = await _pause(ledger, claim, pause)
            continue
        if end is _OVER:
            ledger.abandon(claim)
            return None
        # An engine that refuses a claim may yet receive an earlier copy of its enqueue: then it wants a tombstone (B1).
        ledger.abandon(claim)
        over = await _is_over(ledger, store, claim.session)
        if not over:
            # This claim was stolen, or nobody answers: the keeper finds out which.
            ledger.inbox.put(claim.session)
            pause = await _pause(ledger, claim, pause)
        if until is not None and ledger.runtime.now() >= until and not (over and at_once and is_first):
            return None
        # A try whose session was over asks once more: nobody has said that the name is busy.
        is_first = False


async def _is_over(ledger: Ledger, store: QueueStore, session: Session) -> bool:
    """Ask about a session that refused a claim. The keeper would not: without claims it is left to end (A5)."""
    if session.over is None:
        try:
            beat = await store.heartbeat(session.card.id, session.ttl, False, session.patience)
        except (StoreUnavailable, OutcomeUnknown, SetupError):
            return False
        if not beat.over:
            return False
        ledger.ended(session, beat)
    return True


async def _attempt(ledger: Ledger, store: QueueStore, claim: Claim, until: Instant | None, at_once: bool) -> _End:
    """One claim, from its enqueue to its grant or its end."""
    place = await _enter(ledger, store, claim, until, at_once)
    if place.standing is BUSY:
        if not claim.sent_twice:
            ledger.forget(claim)
        return _OVER
    if place.standing is GONE:
        ledger.refused(claim)
        return _GONE
    if claim.phase is WAITING:
        if ledger.watched:
            ledger.emit(Claimed(claim.name, claim.number))
            ledger.flush()
        end = await _wait(ledger, store, claim, until, place)
        if end is not _GRANTED:
            return end
    if _is_fresh(claim, claim.granted_at):
        return _GRANTED
    return await _freshen(ledger, claim, until)


def _is_fresh(claim: Claim, now: Instant) -> bool:
    """Whether about half of its ttl is left: the step that granted it extends it then (A1)."""
    session = claim.session
    return session.deadline - now >= session.ttl * FRESH


def _timeout(claim: Claim, until: Instant | None, now: Instant) -> Seconds:
    """How long one request may take: the session's patience, less if the caller's wait ends earlier."""
    patience = claim.session.patience
    if until is None or until - now >= patience:
        return patience
    return min(patience, max(1.0, until - now))


async def _enter(ledger: Ledger, store: QueueStore, claim: Claim, until: Instant | None, at_once: bool) -> Place:
    """Send the enqueue until it is answered; a repeat carries the same claim id and finds the first."""
    pause = RETRY_FIRST
    while True:
        # Read before the request: from here the engine may have counted (A1).
        sent, epoch = ledger.runtime.now(), claim.session.epoch
        entry = ledger.entry(claim, at_once, sent)
        if entry is None:
            return Place(GONE)
        try:
            place = await store.enter(entry, _timeout(claim, until, sent))
            if claim.session.epoch != epoch:
                # Its claims were reconciled meanwhile, this one not among them: the answer may be from before (A2).
                raise OutcomeUnknown("the store lost claims, or one was stolen, while the answer was under way")
        except (StoreUnavailable, OutcomeUnknown) as error:
            if isinstance(error, StoreUnavailable):
                if not claim.sent_twice:
                    claim.unanswered = False
                    raise
                # This request certainly had no effect; an earlier one may have had.
                error = OutcomeUnknown(f"an earlier request was not answered, and now: {error}")
            if until is not None and ledger.runtime.now() >= until:
                raise error
            pause = await _pause(ledger, claim, pause)
            if claim.phase is GRANTED and claim.session.opened:
                # Only the answer was lost: a message is the grant (B4), and its time runs.
                return Place(HOLDS, claim.number, claim.floor)
            continue
        _answered(ledger, claim, place, sent)
        return place


def _answered(ledger: Ledger, claim: Claim, place: Place, sent: Instant) -> None:
    with ledger.mutex:
        if place.facts is not None:
            ledger.extended(claim.session, place.facts, sent)
            if claim.session.changed is not None:
                ledger.inbox.put(claim.session)
        _apply(ledger, claim, place)
        # Only now, when its number is known: a claim with neither is taken for one that was never sent, and Ctrl-C may
        # come between any two calls.
        claim.unanswered = False
        if place.limit:
            ledger.emit(LimitsDiffer(claim.name, claim.mode.limit, place.limit))
    ledger.flush()


def _apply(ledger: Ledger, claim: Claim, place: Place) -> None:
    """Take over what the engine said of a claim. Called under the mutex."""
    if place.number and place.number != claim.number:
        if claim.phase is GRANTED:
            # The store lost it after it had told us, and a repeat entered it anew: that grant is no more.
            claim.phase = ENTERING
        claim.number = place.number
    if place.standing is HOLDS:
        ledger.grant(claim, place.number, place.floor)
    elif place.standing is WAITS and claim.phase is ENTERING:
        # A message may have come before this answer: then the claim is GRANTED already, and stays so.
        claim.phase = WAITING
        if claim.session.next_beat < ledger.next_due:
            # The keeper of an idle client sleeps for ever; without it the session would end during a long wait.
            ledger.inbox.put(None)


async def _wait(ledger: Ledger, store: QueueStore, claim: Claim, until: Instant | None, place: Place) -> _End:
    """Wait for the grant: by message, or by looking when a session in front is due or gone (B6)."""
    runtime = ledger.runtime
    pause = 0.0
    look_at, pause = _watch(ledger, place, pause)
    stall = Stall(runtime.now())
    while True:
        if claim.phase is GRANTED:
            return _GRANTED
        if claim.phase is CLOSED or claim.session.over is not None:
            return _GONE
        now = runtime.now()
        if until is not None and now >= until:
            return _OVER
        if not claim.hinted and now < look_at:
            if now >= stall.look_at:
                await stall.look(ledger, store, claim)
                continue
            soon = min(look_at, stall.look_at)
            await news(ledger, claim, soon if until is None else min(soon, until))
            continue
        claim.hinted = False
        try:
            place = await store.look(claim.ref, _timeout(claim, until, now))
        except (StoreUnavailable, OutcomeUnknown):
            # The place in the queue is worth more than this answer: the wait goes on.
            pause = min(max(pause * 2, RETRY_FIRST), RETRY_MOST)
            look_at = Instant(runtime.now() + pause)
            continue
        if place.standing is GONE:
            return _GONE
        with ledger.mutex:
            _apply(ledger, claim, place)
        ledger.flush()
        look_at, pause = _watch(ledger, place, pause)


def _watch(ledger: Ledger, place: Place, pause: Seconds) -> tuple[Instant, Seconds]:
    """Listen to the sessions in front. Returns when to look at the latest, and the pause after the next failure."""
    now = ledger.runtime.now()
    due = min([peer.due for peer in place.peers], default=now) + LOOK_LEAST
    if ledger.waiters.mailbox.watch(place.peers):
        return Instant(due), 0.0
    # One of them cannot be heard. It may have died since: look at once, and by and by more slowly, for it may also
    # be alive and mute.
    return Instant(min(due, now + pause)), min(max(pause * 2, RETRY_FIRST), RETRY_MOST)


async def _freshen(ledger: Ledger, claim: Claim, until: Instant | None) -> _End:
    """Have the session renewed before the lease is handed out, if less than half its ttl is left (A1)."""
    session, runtime = claim.session, ledger.runtime
    give_up: Instant | None = None
    while True:
        now = runtime.now()
        if session.over is not None or claim.phase is not GRANTED:
            return _GONE
        if _is_fresh(claim, now):
            return _GRANTED
        if give_up is None:
            give_up = Instant(now + session.patience) if until is None else Instant(max(until, now + session.patience))
            ledger.inbox.put(session)
        if now >= give_up:
            return _OVER
        if claim.signal is None:
            claim.signal = runtime.signal()
        with ledger.mutex:
            session.unfresh.append(claim)
        await claim.signal.wait(give_up)


async def _pause(ledger: Ledger, claim: Claim, pause: Seconds) -> Seconds:
    """Wait before a repeat, with jitter, so that a fleet does not knock in step."""
    if claim.signal is None:
        claim.signal = ledger.runtime.signal()
    await claim.signal.wait(Instant(ledger.runtime.now() + pause * (0.5 + ledger.runtime.random())))
    return min(pause * 2, RETRY_MOST)


async def release(ledger: Ledger, store: QueueStore, claim: Claim) -> LossReason | None:
    """Give a lease back.

    Returns:
        None if it was held until now, or had been released before; else why it was lost. A release without an
        answer is not a loss: the keeper repeats it until it is answered, and the name is free at the latest when
        the session ends.

    Cancellation: safe; the keeper closes the claim.
    """
    now = ledger.runtime.now()
    debt = begin_release(ledger, claim, now)
    if debt is None:
        return claim.lost
    held = now - claim.granted_at
    try:
        there = (await store.close([debt.closing], claim.session.patience))[0]
    except (StoreUnavailable, OutcomeUnknown):
        press(ledger, claim)
        ledger.emit(Released(claim.name, claim.number, held, confirmed=False))
        ledger.flush()
        return None
    except BaseException:
        press(ledger, claim)
        raise
    ledger.debts.pop(claim, None)
    # A caller that was held up between its debt and its request may come after the keeper, which paid the debt for it:
    # then the claim is gone because it was released, and not lost.
    if there or debt.found or (debt.is_sent and debt.found is None):
        if ledger.watched:
            ledger.emit(Released(claim.name, claim.number, held, confirmed=there or debt.found is True))
            ledger.flush()
        return None
    # "Not yours" is a loss: somebody else may have worked under this name meanwhile.
    return await _why(ledger, store, claim)


async def _why(ledger: Ledger, store: QueueStore, claim: Claim) -> LossReason:
    """Find out why the engine no longer had a claim that was thought to be held."""
    session = claim.session
    reason = LossReason.STORE_LOST
    try:
        beat = await store.heartbeat(session.card.id, session.ttl, False, session.patience)
    except (StoreUnavailable, OutcomeUnknown, SetupError):
        pass
    else:
        if beat.over and session.facts is not None and beat.facts.life == session.facts.life:
            reason = LossReason.SESSION_ENDED
        elif not beat.over and session.facts is not None and beat.facts.stolen != session.facts.stolen:
            reason = LossReason.STOLEN
    missed(ledger, claim, reason)
    return reason
