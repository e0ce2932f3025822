"""What a client knows of its sessions and claims, and the decisions on it.

Promises: every decision is made under one mutex and awaits nothing; what follows from it (signals, loss callbacks,
events) happens after the mutex is let go. A lost lease stays lost.
Does not promise that the engine agrees: a lease is the client's own, conservative view.

The ledger is shared by the callers (threads, or tasks of one loop) and by the keeper, which is a thread of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenure.errors import UsageError
from tenure.model import Instant, LossReason, Mode, Seconds, maker
from tenure.observe.events import Abandoned, Event, Lost
from tenure.ports import Closing, Entry
from tenure.protocols.records import CLOSED, ENTERING, GRANTED, HELD, WAITING, Claim, Debt, Session
from tenure.protocols.waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tenure.ports import Beat, Inbox, Mailbox, Message, Runtime, SessionCard, SessionFacts

DRIFT: Final = 0.99
"""The part of a granted ttl that is counted on: 1 % for two clocks that run at different rates (A1)."""

MARGIN: Final = 0.002
"""Seconds taken off every deadline for the engine's and the kernel's granularity (A1)."""


_entry = maker(Entry)
_closing = maker(Closing)


def _whole(name: str) -> str:  # noqa: ARG001 - a store that has no parts
    return ""


class Ledger:
    """Sessions, claims and debts of one client."""

    def __init__(
        self,
        runtime: Runtime,
        inbox: Inbox[object],
        mailbox: Mailbox,
        card: Callable[[str], SessionCard],
        observe: Callable[[Event], None],
        skew: Seconds = 0.0,
    ) -> None:
        self.runtime = runtime
        self.inbox = inbox
        self.mutex = runtime.mutex()
        self.skew = skew
        self.watched = False
        """Whether anybody wants the events of every cycle; the rare ones are always made."""
        self.closing = False
        self.part: Callable[[str], str] = _whole
        """The part of the store in which a name lives: each has sessions of its own, whose ids end with it."""
        self.sessions: list[Session] = []
        self._current: dict[str, Session] = {}
        """By part: the session that new claims enter."""
        self.debts: dict[Claim, Debt] = {}
        # The keeper looks at these each second, and never at all the leases: there may be ten thousand.
        self.pending: dict[Claim, None] = {}
        """Claims that are not leases yet."""
        self.bounded: dict[Claim, None] = {}
        """Leases with a max_hold."""
        self.next_due = Instant(float("inf"))
        """When it looks next; it is woken if a new lease needs it earlier."""
        self.waiters = Waiters(runtime, mailbox, self.later)
        self._card = card
        self._observe = observe
        self.left: list[Callable[[], None]] = []
        """What decisions left to do after the mutex is let go."""

    # -- after a decision -------------------------------------------------------------------------------------------

    def later(self, action: Callable[[], None]) -> None:
        """Do this after the mutex is let go."""
        self.left.append(action)

    def emit(self, event: Event) -> None:
        """Hand out an event after the mutex is let go."""
        observe = self._observe
        self.left.append(lambda: observe(event))

    def flush(self) -> None:
        """Do what decisions left to do. Called without the mutex."""
        while self.left:
            try:
                action = self.left.pop(0)
            except IndexError:  # another thread took it
                return
            action()

    # -- sessions ---------------------------------------------------------------------------------------------------

    def register(self, name: str, mode: Mode, now: Instant) -> Claim:
        """A new claim, in the session in force or in a new one. From here on the keeper owns it (B2)."""
        with self.mutex:
            if self.closing:
                # Looked at under the mutex: what is registered after the keeper's last look would be nobody's.
                raise UsageError("this client is closed; open another")
            session = self._session(self.part(name), now)
            session.last_claim += 1
            claim = Claim(session, session.last_claim, name, mode, now)
            session.claims[claim.id] = claim
            self.pending[claim] = None
        if self.left:
            self.flush()
        return claim

    def _session(self, part: str, now: Instant) -> Session:
        session = self._current.get(part)
        if session is not None and session.over is None and not session.retired:
            if not session.opened or now < session.deadline - session.spent:
                return session
            # It had no lease (a lease would have latched it), so nobody renewed it: it is left to end (A5).
            self.finish(session, LossReason.DEADLINE, now)
        session = self._current[part] = Session(self._card(self.runtime.new_id() + part), part)
        self.sessions = [s for s in self.sessions if s.over is None or s.claims]
        self.sessions.append(session)
        return session

    def entry(self, claim: Claim, at_once: bool, sent: Instant) -> Entry | None:
        """The request that puts a claim into its queue; opens or extends the session where that is due.

        None if the keeper has closed the claim: then it must not be sent.
        """
        session = claim.session
        # With less than half the ttl left the same step extends it, so that a fresh lease is worth something (A1).
        extend = session.opened and session.deadline - sent < session.ttl / 2
        with self.mutex:
            if claim.phase is CLOSED:
                # Closed between two lines, when it had never been sent and nothing was owed: never send it.
                return None
            if not claim.unanswered and not claim.sent_twice:
                claim.epoch = session.epoch
            claim.sent_twice = claim.sent_twice or claim.unanswered
            claim.unanswered = True
        return _entry(
            (
                session.card,
                not session.opened,
                extend,
                claim.id,
                claim.name,
                claim.mode,
                claim.delay,
                claim.info,
                at_once,
                claim.sent_twice,
            )
        )

    def extended(self, session: Session, facts: SessionFacts, sent: Instant) -> None:
        """A request that extended the session was answered. Called under the mutex."""
        now = self.runtime.now()
        if session.over is not None:
            return
        if not session.opened:
            session.opened = True
            session.facts = facts
        elif now >= session.deadline:
            # An answer after the deadline that it extends came too late, whatever the engine thinks (A3).
            self.finish(session, LossReason.DEADLINE, now)
            return
        elif session.facts is None or (facts.life, facts.stolen) != (session.facts.life, session.facts.stolen):
            session.changed = facts
            return
        session.ttl = facts.ttl
        session.failing = False
        # From before the request: the engine may have counted from the moment it was sent, not answered (A1); or from
        # earlier still (C3).
        since = sent if facts.since is None else min(sent, facts.since)
        deadline = Instant(since + facts.ttl * DRIFT - MARGIN - self.skew)
        if deadline > session.deadline:
            session.deadline = deadline
            session.next_beat = Instant(sent + session.period)
        if deadline <= now:
            self.finish(session, LossReason.DEADLINE, now)
        while session.unfresh:
            self.waiters.wake(session.unfresh.pop())

    def refused(self, claim: Claim) -> None:
        """The engine refused an enqueue: its session is over, or it was stolen meanwhile; the keeper finds out which.

        A session that was never opened can only have been ended by a tombstone that came before any enqueue; nobody
        renews it, so without this it would be asked for ever.
        """
        with self.mutex:
            if claim.phase is not CLOSED and not claim.session.opened:
                self.finish(claim.session, LossReason.SESSION_ENDED, self.runtime.now())
        self.flush()

    def ended(self, session: Session, beat: Beat) -> None:
        """The engine says that a session is over."""
        with self.mutex:
            # Another life, and the session is not in it: not its time was over, the store has lost it (A2).
            lost = session.facts is not None and beat.facts.life != session.facts.life
            self.finish(session, LossReason.STORE_LOST if lost else LossReason.SESSION_ENDED, self.runtime.now())
        self.flush()

    def finish(self, session: Session, reason: LossReason, now: Instant) -> None:
        """Latch the end of a session: all its leases are lost. Called under the mutex."""
        if session.over is not None:
            return
        session.over = reason
        session.over_at = now
        for claim in list(session.claims.values()):
            self.lose(claim, reason, now)

    # -- claims -----------------------------------------------------------------------------------------------------

    def grant(self, claim: Claim, number: int, floor: int) -> None:
        """A claim became one of the holders. Called under the mutex."""
        if claim.phase in (ENTERING, WAITING) and claim.session.over is None:
            claim.number, claim.floor = number, floor
            claim.phase = GRANTED
            claim.granted_at = self.runtime.now()
            if claim.signal is not None or self.waiters.reader is claim:
                self.waiters.wake(claim)

    def deliver(self, messages: Iterable[Message]) -> None:
        """Hand messages to the claims that they are bound to (B4)."""
        with self.mutex:
            for message in messages:
                if not message.claim:
                    # A session in front ended, or nobody knows what came: whoever waits looks again.
                    self.waiters.hint_all()
                    continue
                # Unbound, a message read after the session was replaced makes two holders (B4).
                claim = self._find(message.session, message.claim)
                if claim is None:
                    continue
                is_known = claim.number == message.number
                # A message for a claim whose number is not known yet may be from before a steal or a loss (A2).
                if message.number and (is_known or (not claim.number and claim.epoch == claim.session.epoch)):
                    self.grant(claim, message.number, message.floor)
                else:
                    claim.hinted = True
                    self.waiters.wake(claim)
        if self.left:
            self.flush()

    def _find(self, session_id: str, claim_id: int) -> Claim | None:
        for session in self.sessions:
            if session.card.id == session_id:
                return session.claims.get(claim_id)
        return None

    # -- what ends, and what is owed ---------------------------------------------------------------------------------

    def lose(self, claim: Claim, reason: LossReason, now: Instant) -> None:
        """A claim ended before its time. Called under the mutex."""
        if claim.phase is CLOSED:
            return
        was_held = claim.phase is HELD
        group = claim.group
        # The others first: whoever asks in between, without the mutex, must not find one held beside one that is lost.
        for other in group:
            other.lost = other.lost or LossReason.TOGETHER
        claim.lost = reason
        self.waiters.wake(claim)
        for action in claim.on_lost:
            self.later(action)
        if was_held:
            self.emit(Lost(claim.name, claim.number, max(0.0, now - claim.granted_at), reason))
        # The engine may still have it: a lost lease is closed, uncleanly (B2). What never was one, nobody worked under.
        self.owe(claim, clean=not was_held, now=now)
        for other in group:
            self.lose(other, LossReason.TOGETHER, now)

    def abandon(self, claim: Claim) -> None:
        """Give back what may or may not have been granted. Never waits: the keeper does it (B2)."""
        with self.mutex:
            # Ctrl-C may have come where its wait began or ended.
            heir = self.waiters.stop(claim)
            if heir is not None:
                self.later(heir.set)
            if claim.phase is not CLOSED:
                now = self.runtime.now()
                self.emit(Abandoned(claim.name, claim.number))
                # Cleanly, though the engine may have granted it meanwhile: it was never handed out, so nobody worked
                # under it, and its lock_delay would close the name for nothing (B10).
                self.owe(claim, clean=True, now=now)
        self.flush()

    def owe(self, claim: Claim, *, clean: bool, now: Instant) -> None:
        """Close a claim here and owe the engine its closing. Called under the mutex."""
        # Whatever was never sent needs no closing; the rest is repeated until it is answered. Noted before the claim is
        # closed here: were Ctrl-C to come in between, nobody would ever close it there.
        if claim.number or claim.unanswered or claim.sent_twice:
            self.debts[claim] = Debt(claim, self.bill(claim, clean=clean), now)
            self.inbox.put(None)
        self.settle(claim)

    def bill(self, claim: Claim, *, clean: bool, held: bool = False) -> Closing:
        """The request that closes a claim, with a tombstone where its enqueue may still arrive (B1)."""
        return _closing((claim.ref, claim.unanswered or claim.sent_twice, clean, held, claim.session.ttl))

    def settle(self, claim: Claim) -> None:
        """A claim is closed on this side. Called under the mutex."""
        claim.phase = CLOSED
        claim.session.claims.pop(claim.id, None)
        self.pending.pop(claim, None)
        self.bounded.pop(claim, None)
        for other in claim.group:
            other.group = tuple(one for one in other.group if one is not claim)
        claim.group = ()
        for action in claim.on_end:
            self.later(action)

    def forget(self, claim: Claim) -> None:
        """The engine said that it has no such claim."""
        with self.mutex:
            self.settle(claim)

    def fork(self) -> None:
        """In a forked child: nothing of the parent's is held here, and nothing of it is ever released (C1)."""
        self.mutex = self.runtime.mutex()
        for session in self.sessions:
            session.over = session.over or LossReason.FORKED
            for claim in session.claims.values():
                if claim.phase is not CLOSED:
                    claim.lost = claim.lost or LossReason.FORKED
                    claim.phase = CLOSED
        self.sessions, self.left = [], []
        self._current.clear()
        self.debts.clear()
        self.pending.clear()
        self.bounded.clear()
        self.waiters.clear()
