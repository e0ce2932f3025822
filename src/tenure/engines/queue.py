"""The steps of an engine whose queues we keep ourselves: memory and SQLite.

Promises: each step is a function of the tables, the clocks handed in and its arguments; it decides, and returns its
reply with the mail to send *once it is committed*. Whoever calls it makes it atomic.
Does not promise: durability or delivery. Those are the tables' and the transport's.

The rules are those of the protocol: the dead are passed over and their death is latched in the same step (A3); every
removal tells the holders not yet told, by a mark on the claim (B3); a message is a grant (B4); tombstones (B1).
All times are integer microseconds of the engine's clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tenure.model import ALONE, NUMBER_MAX, PERMITS, Contender, Mode, Queue, UtcTime, blockers, holders, maker
from tenure.ports import (
    BUSY,
    GONE,
    HOLDS,
    WAITS,
    Beat,
    ClaimRef,
    Mail,
    Message,
    Peer,
    Place,
    SessionCard,
    SessionFacts,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenure.engines.tables import ClaimRow, Tables
    from tenure.model import Instant
    from tenure.ports import Closing, Entry

SWEEP: Final = 100
"""How many dead claims one step removes; the next live claim is told to go on (B3)."""

NOBODY: Final[frozenset[str]] = frozenset()


class At(NamedTuple):
    """The clocks as a step sees them.

    Attributes:
        now_us: the engine's clock, by which sessions end.
        wall_us: the engine's wall clock, for hybrid numbers and display.
        sent: the caller's own clock before the request; `Peer.due` counts from it.
    """

    now_us: int
    wall_us: int
    sent: Instant


at_ = maker(At)
_peer = maker(Peer)
_place = maker(Place)
_mail = maker(Mail)
_message = maker(Message)


def _us(seconds: float) -> int:
    return int(seconds * 1e6)


def ends_us(row: ClaimRow) -> int:
    """When a claim stops counting. A holder's lock_delay outlasts its session; a waiter's does not (B10)."""
    if row.freed_us:
        return row.freed_us
    if row.delay_us and row.floor and row.until_us:
        return row.until_us + row.delay_us
    # A session that is gone, or ended and latched, is dead whatever a clock that was set back says (A3).
    return 0 if row.ended else row.until_us


def _ended(rows: Sequence[ClaimRow], now_us: int) -> list[ClaimRow]:
    # No comprehension: up to Python 3.11 that is one more call.
    gone = []
    for row in rows:
        if ends_us(row) <= now_us:
            gone.append(row)  # noqa: PERF401 - see above
    return gone


def _other_limit(holding: Sequence[ClaimRow], mode: Mode) -> int:
    """The first limit among the holders that differs; 0 if they all agree."""
    return next((c.mode.limit for c in holding if c.mode.kind is mode.kind and c.mode.limit != mode.limit), 0)


class Steps:
    """The steps over one set of tables. Not thread-safe: the caller serialises."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.mail: list[Mail] = []

    def take_mail(self) -> list[Mail]:
        """The mail of the step just committed, for sending; a caller that rolled back throws it away."""
        mail, self.mail = self.mail, []
        return mail

    # -- sessions ---------------------------------------------------------------------------------------------------

    def heartbeat(self, at: At, session: str, ttl: float, waiting: bool) -> Beat:
        """Extend a session and sweep a little, unless it is over (A3)."""
        row = self.tables.session(session)
        if row is None or row.ended or row.until_us <= at.now_us:
            return Beat(SessionFacts(ttl, self.tables.life, 0), (), over=True)
        self.tables.extend(session, at.now_us + _us(ttl))
        self.sweep(at, SWEEP)
        facts = SessionFacts(ttl, self.tables.life, row.stolen)
        if not waiting:
            return Beat(facts, ())
        told = [c for c in self.tables.owned(session, SWEEP) if c.floor and not c.freed_us]
        return Beat(facts, tuple(Message(session, c.claim, c.number, c.floor) for c in told))

    def end(self, at: At, session: str) -> None:
        """End a session; claims without a lock_delay go at once."""
        self.tables.latch(session, at.now_us)
        self._clear(at, session)

    def sweep(self, at: At, limit: int) -> None:
        """Remove claims of sessions past their end, so that names which nobody asks for again are cleaned (B3)."""
        for session in self.tables.over(at.now_us, limit):
            self.tables.latch(session, at.now_us)
            self._clear(at, session)

    def _clear(self, at: At, session: str) -> None:
        owned = self.tables.owned(session, SWEEP)
        left = len(owned) == SWEEP
        for row in owned:
            if ends_us(row) <= at.now_us:
                self._remove(row)
                self._settle(at, row.name, row.number)
            else:
                left = True
        if not left:
            # The tombstones go with it: ids are used once and every late request of this session is refused
            # because only an opening request creates a session.
            self.tables.drop(session)

    # -- claims -----------------------------------------------------------------------------------------------------

    def enter(self, at: At, entry: Entry, dead: frozenset[str] = NOBODY) -> Place:
        """Put a claim into its queue. A repeat finds the first; a tombstone refuses it.

        Args:
            at: the clocks.
            entry: the claim.
            dead: sessions that the caller knows to be dead for good, whatever their time says (C1).
        """
        tables, card = self.tables, entry.session
        if dead:
            self._latch(at, dead)
        seen = tables.glance(card.id, entry.name)
        facts = None
        if seen.until_us is None:
            if not entry.opening:
                return Place(GONE)
            self.sweep(at, 2)
            # The count of steals begins at the clock, not at 0: should a late opening request make an ended session
            # anew, its heartbeats differ from those of the first, and its client reconciles (A2, A3).
            tables.open(card, at.now_us + _us(card.ttl), 0, at.wall_us, "")
            facts = SessionFacts(card.ttl, tables.life, at.wall_us)
        else:
            if seen.ended or seen.until_us <= at.now_us:
                return Place(GONE)
            if seen.tombstones and f" {entry.claim} " in seen.tombstones:
                return Place(GONE)
            if entry.opening or entry.extend:
                tables.extend(card.id, at.now_us + _us(card.ttl))
                facts = SessionFacts(card.ttl, tables.life, seen.stolen)
        prefix: list[ClaimRow] = []
        peers: tuple[Peer, ...] = ()
        limit = 0
        if seen.held_us and facts is None and entry.mode.kind is ALONE and min(seen.held_us, seen.last_us) > at.now_us:
            # The usual wait: nothing at the head is to be settled, and the last claim blocks an exclusive one (B6).
            peers = (_peer((seen.last, seen.address, at.sent + (seen.last_us - at.now_us) / 1e6)),)
        elif seen.held_us is not None:
            prefix = self._settle(at, entry.name)
            if prefix:
                peers = self._peers(at, self._blocked(at, entry.name, entry.mode, NUMBER_MAX + 1))
            limit = _other_limit(prefix, entry.mode) if entry.mode.kind is PERMITS else 0
        if peers and entry.at_once:
            return Place(BUSY, peers=peers, facts=facts, limit=limit)
        number = tables.draw(at.wall_us)
        floor = 0 if peers else (prefix[0].number if prefix else number)
        if not tables.insert(entry, number, floor, _us(entry.delay)):
            # The number is wasted, not given twice.
            return self.look(at, ClaimRef(card.id, entry.claim, entry.name, 0), dead)._replace(facts=facts)
        return _place((WAITS if peers else HOLDS, number, floor, peers, facts, limit))

    def look(self, at: At, ref: ClaimRef, dead: frozenset[str] = NOBODY) -> Place:
        """Say where a claim stands, after passing over the dead in front of it."""
        if dead:
            self._latch(at, dead)
        row = self.tables.find(ref)
        if row is None or row.freed_us or row.ended or row.until_us <= at.now_us:
            return Place(GONE)
        prefix = self._settle(at, row.name)
        blocked = self._blocked(at, row.name, row.mode, row.number)
        # The caller learns it from the reply; a second message would only fill its mailbox.
        self.mail = [m for m in self.mail if (m.message.session, m.message.claim) != (row.session, row.claim)]
        if blocked:
            return Place(WAITS, row.number, 0, self._peers(at, blocked))
        floor = row.floor or prefix[0].number
        return Place(HOLDS, row.number, floor)

    def close(self, at: At, closings: Sequence[Closing]) -> list[bool]:
        """Remove claims, each telling its successors; for each, whether it was there."""
        return [self._close(at, closing) for closing in closings]

    def _close(self, at: At, closing: Closing) -> bool:
        ref, tables = closing.ref, self.tables
        if closing.tombstone:
            self._bury(at, closing)
        if closing.held and ref.number:
            # A holder's release: nothing about the claim can matter any more, so it is not even read.
            if not tables.remove(ref.session, ref.name, ref.number):
                return False
            self._settle(at, ref.name, ref.number)
            return True
        row = tables.find(ref)
        if row is None or row.freed_us:
            return False
        if not closing.clean and row.delay_us and row.floor:
            tables.free_at(row.name, row.number, at.now_us + row.delay_us)
            self._hint_first(row.name)
            return True
        self._remove(row)
        self._settle(at, row.name, row.number)
        return True

    def _bury(self, at: At, closing: Closing) -> None:
        ref = closing.ref
        if self.tables.session(ref.session) is None:
            # The opening request itself may still arrive: an ended record refuses it as long as it could live.
            card = SessionCard(ref.session, closing.ttl, "", "", "", 0)
            self.tables.open(card, at.now_us + _us(closing.ttl), 1, 0, f" {ref.claim} ")
        else:
            self.tables.bury(ref.session, ref.claim)

    def standing(self, refs: Sequence[ClaimRef]) -> list[bool]:
        """For each claim, whether it stands in its queue."""
        found = [self.tables.find(ref) for ref in refs]
        # One that the store lost and a late repeat entered anew has another number: it is not the one asked for.
        return [
            row is not None and not row.freed_us and row.number == ref.number
            for row, ref in zip(found, refs, strict=True)
        ]

    def claims(self, session: str) -> list[ClaimRef]:
        """What the engine has for a session."""
        return [ClaimRef(session, c.claim, c.name, c.number) for c in self.tables.owned(session, SWEEP)]

    def steal(self, at: At, name: str, number: int) -> bool:
        """Compare and remove (B9): by name alone a repeat would rob the successor."""
        row = next((c for c in self.tables.queue(name) if c.number == number), None)
        if row is None:
            return False
        self.tables.rob(row.session)
        # A repeat of its enqueue must not bring it back: claim ids are used once (B1).
        self.tables.bury(row.session, row.claim)
        # The robbed session's waiters look again; its keeper learns it from the counter in the next heartbeat.
        self._hint(row)
        # At once, also past a lock_delay: an operator who steals has decided that nobody is at work.
        self._remove(row)
        self._settle(at, name, row.number)
        return True

    def inspect(self, name: str) -> Queue:
        """Who holds and who waits; reads only, so the dead not yet passed over are still shown."""
        rows = list(self.tables.queue(name))
        held = {c.number for c in holders(rows)}
        seen = [self._contender(c, c.number in held) for c in rows]
        return Queue(name, tuple(c for c in seen if c.holds), tuple(c for c in seen if not c.holds))

    # -- the rules --------------------------------------------------------------------------------------------------

    def _settle(self, at: At, name: str, last_gone: int = 0) -> list[ClaimRow]:
        """Pass over the dead at the head and tell the holders not yet told; return the holders.

        Args:
            at: the clocks.
            name: whose queue.
            last_gone: the largest number that this step has removed before; 0 if it has removed none.
        """
        removed = 0
        while True:
            first = self.tables.after(name, 0)
            if first is None:
                return []
            # Whoever holds alone is the only one: no need to read on.
            prefix = [first] if first.mode.kind is ALONE else holders(self.tables.queue(name))
            gone = _ended(prefix, at.now_us)
            if not gone:
                break
            if removed >= SWEEP:
                self._go_on(at, name, prefix[-1])
                return prefix
            for row in gone:
                self._bury_session(at, row)
                self.tables.remove(row.session, name, row.number)
                removed += 1
                last_gone = max(last_gone, row.number)
        for row in prefix:
            if not row.floor:
                floor = prefix[0].number
                self.tables.tell(name, row.number, floor)
                self._send(row, row.number, floor)
        last = prefix[-1]
        if last_gone and (kind := last.mode.kind) is not ALONE and (kind is PERMITS or last_gone > last.number):
            # What left may be what the first waiter watches, without letting it in: a permit, or the nearest of the
            # readers. It looks again (B6), for it counts on another end than that of those who are left. Whoever
            # waits behind it cannot hold before it, and is hinted when it is the first.
            first = self.tables.after(name, last.number)
            if first is not None:
                self._hint(first)
        return prefix

    def _blocked(self, at: At, name: str, mode: Mode, number: int) -> list[ClaimRow]:
        """The claims that block a place, after removing the dead among them."""
        blocked: list[ClaimRow] = []
        for _ in range(SWEEP):
            blocked = blockers(self.tables.backwards(name, number), mode)
            gone = _ended(blocked, at.now_us)
            if not gone:
                break
            for row in gone:
                self._bury_session(at, row)
                self._remove(row)
            self._settle(at, name, gone[0].number)
        return blocked

    def _bury_session(self, at: At, row: ClaimRow) -> None:
        # A claim whose lock_delay is over was closed by a session that may well live on.
        if not row.freed_us:
            self.tables.latch(row.session, at.now_us)

    def _latch(self, at: At, dead: frozenset[str]) -> None:
        for session in dead:
            self.tables.latch(session, at.now_us)

    def _remove(self, row: ClaimRow) -> None:
        self.tables.remove(row.session, row.name, row.number)
        if not row.floor:
            # Whoever is behind a waiter that left watches a claim that is gone.
            behind = self.tables.after(row.name, row.number)
            if behind is not None and not behind.floor:
                self._hint(behind)

    def _hint_first(self, name: str) -> None:
        """A claim will end at another time than the first waiter counts on: it looks again, and learns when."""
        first = next((c for c in self.tables.queue(name) if not c.floor), None)
        if first is not None:
            self._hint(first)

    def _hint(self, row: ClaimRow) -> None:
        self._send(row, 0, 0)

    def _send(self, row: ClaimRow, number: int, floor: int) -> None:
        self.mail.append(_mail((row.address, _message((row.session, row.claim, number, floor)))))

    def _go_on(self, at: At, name: str, last: ClaimRow) -> None:
        """The sweep stopped short: tell the next live claim to look, which sweeps further."""
        row = self.tables.after(name, last.number)
        while row is not None:
            if ends_us(row) > at.now_us:
                self._hint(row)
                return
            row = self.tables.after(name, row.number)

    def _peers(self, at: At, rows: Sequence[ClaimRow]) -> tuple[Peer, ...]:
        return tuple([_peer((c.session, c.address, at.sent + max(0, ends_us(c) - at.now_us) / 1e6)) for c in rows])

    def _contender(self, row: ClaimRow, holds: bool) -> Contender:
        card = self.tables.card(row.session)
        client, host, pid = ("", "", 0) if card is None else card[-3:]
        # A number is the wall clock at which the claim entered, unless the clock has been set back since.
        since = UtcTime(row.number / 1e6)
        return Contender(row.number, row.mode, holds, client, host, pid, row.info, since)
