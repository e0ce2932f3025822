"""The keeper: renews the sessions, latches what is over, and pays what the callers owe.

Promises: a lease is SUSPECT as soon as a renewal fails and LOST at its deadline, whatever the network does; one
request per session and heartbeat, whatever it holds; every claim of a session has an owner here or is closed (B2).
Does not promise to be on time: it is a thread like any other. That is why `held` is computed from the clock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from tenure.errors import OutcomeUnknown, SetupError, StoreUnavailable
from tenure.model import EXCLUSIVE, Instant, LossReason
from tenure.observe.events import Renewed, Suspect
from tenure.protocols.records import CLOSED, GRANTED, HELD, WAITING, Claim, Debt, Session

if TYPE_CHECKING:
    from tenure.model import Seconds
    from tenure.ports import Beat, ClaimRef, QueueStore, SessionFacts
    from tenure.protocols.ledger import Ledger

WAKE: Final = 1.0
"""Seconds between looks at the clock while anything is held, for timers sleep through a suspended machine."""

GRACE: Final = 1.0
"""Seconds that a caller has to take up its grant, or to give up, before the keeper does it for it (B2)."""

BATCH: Final = 100
"""How many claims one request names."""

FOREVER: Final = Instant(float("inf"))


class Stop:
    """Put into the inbox to end the keeper; it closes what is left first."""


Failure = StoreUnavailable | OutcomeUnknown | SetupError
"""What a request of the keeper's may end in; no reason for it to end itself."""


class Renewal:
    """One heartbeat that is due: `begin`, send it, `end` with what came of it. A failure is not a loss."""

    def __init__(self, ledger: Ledger, session: Session) -> None:
        self._ledger = ledger
        self.session = session
        self.sent = ledger.runtime.now()
        self.is_answered = False

    def begin(self) -> tuple[str, Seconds, bool, Seconds]:
        """What `QueueStore.heartbeat` takes. It is sent next: from here the engine may count (A1)."""
        session = self.session
        self.sent = self._ledger.runtime.now()
        # Never past the deadline: a renewal in flight must not hide the end of the lease (A4).
        patience = min(session.patience, max(0.001, session.deadline - self.sent))
        with self._ledger.mutex:
            # Callers come and go meanwhile, and a dictionary that changes under a loop would end this thread.
            waiting = any(c.phase is WAITING for c in self._ledger.waiters.waiting)
        return session.card.id, session.ttl, waiting, patience

    def end(self, outcome: Beat | Failure) -> None:
        """It was answered, or was not."""
        if isinstance(outcome, Exception):
            _failed(self._ledger, self.session, outcome)
        elif outcome.over:
            self._ledger.ended(self.session, outcome)
        else:
            self.is_answered = True
            _renewed(self._ledger, self.session, outcome, self.sent)
            self._ledger.deliver(outcome.granted)


Beats = Callable[["QueueStore", Sequence[Renewal]], Awaitable[None]]
"""How heartbeats that are due at the same time are sent. Each is ended as soon as its answer has come."""


async def one_by_one(store: QueueStore, renewals: Sequence[Renewal]) -> None:
    """For a store that is one server: while it is silent, no other request of the keeper's is answered either."""
    for renewal in renewals:
        try:
            renewal.end(await store.heartbeat(*renewal.begin()))
        except (StoreUnavailable, OutcomeUnknown, SetupError) as error:
            renewal.end(error)


async def keep(
    ledger: Ledger, store: QueueStore, tend: Callable[[], None] = lambda: None, beats: Beats = one_by_one
) -> None:
    """Keep a client's sessions until told to stop.

    Args:
        ledger: what to keep.
        store: the keeper's own connection, so that a slow caller never holds up a heartbeat.
        tend: called after each round of heartbeats, for the engine's own housekeeping; must not block.
        beats: sends the heartbeats, of which there is one for each part of the store that is in use.
    """
    while True:
        due = _due(ledger)
        items = await ledger.inbox.get(due)
        ledger.next_due = Instant(float("-inf"))
        for item in items:
            if isinstance(item, Stop):
                await _shut(ledger, store)
                return
            if isinstance(item, Session):
                item.next_beat = ledger.runtime.now()
            elif isinstance(item, Claim):
                _dropped(ledger, item)
        _expire(ledger)
        due_now = [Renewal(ledger, session) for session in _to_renew(ledger)]
        if due_now:
            await beats(store, due_now)
            await _reconcile_all(ledger, store, due_now)
            tend()
        await _pay(ledger, store)
        await _retire(ledger, store)


def _due(ledger: Ledger) -> Instant:
    """When to look next: for ever if nothing is held, else within a second."""
    with ledger.mutex:
        now = ledger.runtime.now()
        due = FOREVER
        for session in ledger.sessions:
            if session.over is None and session.opened and session.claims:
                due = min(due, session.next_beat, session.deadline, Instant(now + WAKE))
            elif session.claims:
                due = min(due, Instant(now + WAKE))
        for claim in ledger.bounded:
            due = min(due, claim.hold_until or due)
        for debt in ledger.debts.values():
            due = min(due, max(debt.not_before, now))
        ledger.next_due = due
        return due


def _dropped(ledger: Ledger, claim: Claim) -> None:
    """A lease was garbage-collected without having been released: an unclean end (B2)."""
    with ledger.mutex:
        ledger.lose(claim, LossReason.DROPPED, ledger.runtime.now())
    ledger.flush()


def _expire(ledger: Ledger) -> None:
    """Latch what the clock has ended, apart from any renewal in flight (A4)."""
    with ledger.mutex:
        now = ledger.runtime.now()
        for session in ledger.sessions:
            if session.over is None and session.opened and now >= session.deadline and session.claims:
                ledger.finish(session, LossReason.DEADLINE, now)
        for claim in list(ledger.bounded):
            if claim.hold_until is not None and now >= claim.hold_until:
                ledger.lose(claim, LossReason.MAX_HOLD, now)
        for claim in list(ledger.pending):
            if _forsaken(claim, now):
                ledger.owe(claim, clean=True, now=now)  # never handed out: see Ledger.abandon
                ledger.waiters.wake(claim)
    ledger.flush()


def _forsaken(claim: Claim, now: Instant) -> bool:
    """Whether nobody took a claim up in time (B2); its caller may be a thread that was killed."""
    if claim.wait_until is not None:
        # A try (wait 0) still has the time of one request.
        return now >= claim.wait_until + claim.session.patience + GRACE
    return claim.phase is GRANTED and now >= claim.granted_at + claim.session.ttl


def _to_renew(ledger: Ledger) -> list[Session]:
    """The sessions whose heartbeat is due. One without claims is left to end (A5)."""
    with ledger.mutex:
        now = ledger.runtime.now()
        return [
            s for s in ledger.sessions if s.over is None and s.opened and now >= s.next_beat and (s.claims or s.unfresh)
        ]


def _failed(ledger: Ledger, session: Session, error: Exception) -> None:
    with ledger.mutex:
        now = ledger.runtime.now()
        if session.over is None:
            if not session.failing:
                session.failing = True
                ledger.emit(Suspect("", len(session.claims), session.deadline - now, str(error)))
            session.next_beat = Instant(now + session.ttl / 24 * (0.5 + ledger.runtime.random()))
    ledger.flush()


def _renewed(ledger: Ledger, session: Session, beat: Beat, sent: Instant) -> None:
    with ledger.mutex:
        left = session.deadline - sent
        session.next_beat = Instant(sent + session.period)
        ledger.extended(session, beat.facts, sent)
        if ledger.watched and session.over is None and session.changed is None:
            ledger.emit(Renewed("", len(session.claims), left))
    ledger.flush()


async def _reconcile_all(ledger: Ledger, store: QueueStore, renewals: list[Renewal]) -> None:
    """Reconcile the sessions whose heartbeats told of a change; after a failure, the others a little later."""
    may_ask = True
    for renewal in renewals:
        session, sent = renewal.session, renewal.sent
        # Only the facts of an answered heartbeat: one without an answer may have extended nothing (A1).
        if session.changed is None or session.over is not None or not renewal.is_answered:
            continue
        if may_ask:
            # Were each of them to wait for a silent server in turn, those of the others would not be renewed in time.
            may_ask = await _reconcile(ledger, store, session, session.changed, sent)
        else:
            with ledger.mutex:
                session.next_beat = ledger.runtime.now()


async def _reconcile(ledger: Ledger, store: QueueStore, session: Session, facts: SessionFacts, sent: Instant) -> bool:
    """Look each own claim up in its queue after a steal or another life of the store (A2).

    The heartbeat that answered `facts`, sent at `sent`, counts then: what is found in the queues after it stands under
    the session that it extended. Were another heartbeat needed, a server that evicts all the time would have changed
    again by then, and every lease would end at its deadline.

    Returns:
        Whether it was answered.
    """
    known = session.facts
    reason = LossReason.STORE_LOST if known is None or known.life != facts.life else LossReason.STOLEN
    # What the engine has is asked first: each claim is registered here before its request is sent, so one that
    # the engine shows and nobody here knows is nobody's.
    try:
        theirs = await store.claims(session.card.id, session.patience)
        with ledger.mutex:
            # What is answered from here on to a request of before was perhaps given before the loss.
            session.epoch += 1
            ours = [c for c in session.claims.values() if c.number]
            orphans = [ref for ref in theirs if ref.claim not in session.claims]
        for start in range(0, len(ours), BATCH):
            batch = ours[start : start + BATCH]
            stands = await store.standing([c.ref for c in batch], session.patience)
            _lose_missing(ledger, [c for c, there in zip(batch, stands, strict=True) if not there], reason)
    except (StoreUnavailable, OutcomeUnknown, SetupError) as error:
        _failed(ledger, session, error)
        return False
    with ledger.mutex:
        now = ledger.runtime.now()
        if session.changed == facts:
            session.facts, session.changed = facts, None
            session.next_beat = Instant(sent + session.period)
            left = session.deadline - sent
            ledger.extended(session, facts, sent)
            if ledger.watched and session.over is None:
                ledger.emit(Renewed("", len(session.claims), left))
        else:
            session.next_beat = now
        for ref in orphans:
            _owe_orphan(ledger, session, ref, now)
    ledger.inbox.put(None)
    return True


def _lose_missing(ledger: Ledger, claims: list[Claim], reason: LossReason) -> None:
    with ledger.mutex:
        now = ledger.runtime.now()
        for claim in claims:
            # One that waits too: a late message must not grant what is gone. Its caller asks again with a new one.
            ledger.lose(claim, reason, now)
    ledger.flush()


def _owe_orphan(ledger: Ledger, session: Session, ref: ClaimRef, now: Instant) -> None:
    """A claim that the store brought back, after its release: nobody here would ever close it (A2)."""
    if any(debt.closing.ref[:2] == ref[:2] for debt in ledger.debts.values()):
        return
    orphan = Claim(session, ref.claim, ref.name, EXCLUSIVE, now)
    orphan.number = ref.number
    orphan.phase = CLOSED
    ledger.debts[orphan] = Debt(orphan, ledger.bill(orphan, clean=False), now)


async def _pay(ledger: Ledger, store: QueueStore, failures: int = 1) -> set[str]:
    """Close what is owed, in batches, until each is answered (B2).

    Args:
        ledger: whose debts.
        store: whom they are owed.
        failures: after how many to leave the rest for later, so that the next heartbeats are not late.

    Returns:
        The parts of the store that did not answer.
    """
    silent: set[str] = set()
    while True:
        with ledger.mutex:
            now = ledger.runtime.now()
            owed = [d for d in ledger.debts.values() if d.not_before <= now and d.claim.session.part not in silent]
            # One part at a time: what another one does not answer is not repeated here.
            due = [d for d in owed if d.claim.session.part == owed[0].claim.session.part][:BATCH]
            ends = [s.deadline - now for s in ledger.sessions if s.over is None and s.opened and s.claims]
            repeated = {d for d in due if d.is_sent}
            for debt in due:
                debt.is_sent = True
        if not due:
            return silent
        # Not past a deadline: a loss must be told on time (A4).
        patience = max(0.001, min([d.claim.session.patience for d in due] + ends))
        closings = [
            # A clean release that is repeated after its deadline is clean no longer (B10).
            d.closing._replace(clean=d.closing.clean and now < d.claim.session.deadline, held=False)
            for d in due
        ]
        try:
            found = await store.close(closings, patience)
        except (StoreUnavailable, OutcomeUnknown, SetupError):
            _postpone(ledger, due)
            silent.add(due[0].claim.session.part)
            if len(silent) >= failures:
                return silent
            continue
        with ledger.mutex:
            for debt, was_there in zip(due, found, strict=True):
                # One that is repeated may miss what it has itself removed.
                if was_there or debt not in repeated:
                    debt.found = was_there
                if ledger.debts.get(debt.claim) is debt:
                    del ledger.debts[debt.claim]


def _postpone(ledger: Ledger, debts: list[Debt]) -> None:
    with ledger.mutex:
        now = ledger.runtime.now()
        for debt in debts:
            session = debt.claim.session
            debt.not_before = Instant(now + session.ttl / 24 * (0.5 + ledger.runtime.random()))
            if now - debt.since >= session.ttl:
                # One stuck row must not drop ten thousand leases, nor keep its session alive for ever (B2).
                session.retired = True
            if session.over is not None and now - session.over_at >= 2 * session.ttl:
                # The engine has long ended that session itself, and the claim with it.
                ledger.debts.pop(debt.claim, None)


async def _retire(ledger: Ledger, store: QueueStore) -> None:
    """End retired sessions with their last lease."""
    with ledger.mutex:
        done = [s for s in ledger.sessions if s.retired and not s.claims]
        for session in done:
            ledger.sessions.remove(session)
    for session in done:
        try:
            await store.end(session.card.id, session.patience)
        except (StoreUnavailable, OutcomeUnknown, SetupError):
            continue  # its ttl ends it


async def _shut(ledger: Ledger, store: QueueStore) -> None:
    """Close everything in batches, then end the sessions (B3)."""
    with ledger.mutex:
        now = ledger.runtime.now()
        # Also one whose first request is under way: its claims are closed with tombstones. It is not ended, for that
        # would take them away while the request may still arrive.
        sessions = [s for s in ledger.sessions if s.over is None]
        opened = [s for s in sessions if s.opened]
        for session in sessions:
            clean = now < session.deadline
            for claim in list(session.claims.values()):
                held = claim.phase is HELD
                ledger.lose(claim, LossReason.CLOSED, now)
                debt = ledger.debts.get(claim)
                if debt is not None and held and clean:
                    debt.closing = debt.closing._replace(clean=True)
            ledger.finish(session, LossReason.CLOSED, now)
        for debt in ledger.debts.values():
            debt.not_before = now
    ledger.flush()
    silent = await _pay(ledger, store, failures=len(sessions) + 1)
    for session in opened:
        if session.part in silent:
            continue  # its ttl ends it
        try:
            await store.end(session.card.id, session.patience)
        except (StoreUnavailable, OutcomeUnknown, SetupError):
            silent.add(session.part)
