"""The store's port over etcd: a transaction per step, written once for both transports.

Promises: every step compares the genesis record before it changes anything (B12); a claim enters only while its
session's lease lives, without a tombstone, and once; whatever is said of a place comes from a linearizable answer; a
step without an answer is `OutcomeUnknown`, never a guess.
Does not promise that a session ends at its ttl: after another leader is elected, etcd gives each lease its whole ttl
anew. A session never ends before it, but for faults of old releases (see the doctor).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenure.engines.etcd import messages as m
from tenure.engines.etcd.keys import Row, after, contender, marked, row, value_of, whole_ttl
from tenure.engines.etcd.pipe import NOT_FOUND, Refused
from tenure.engines.etcd.requests import AGAIN_MOST, LeaseGone, Requests, explained
from tenure.engines.etcd.watches import Waiter, address
from tenure.engines.listing import shown, stand
from tenure.errors import OutcomeUnknown, StoreUnavailable
from tenure.model import Instant, Kind, Mode, Queue
from tenure.ports import BUSY, GONE, HOLDS, WAITS, Beat, ClaimRef, Peer, Place, SessionFacts
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenure.engines.etcd.watches import Watches
    from tenure.model import Seconds
    from tenure.ports import Closing, Entry

NEAREST: Final = 8
"""How many claims in front are read at first; most waiters need one."""

LOOK_S: Final = 10.0
"""Seconds after which a waiter looks although nothing was heard; its watches are what wakes it."""

PAGE: Final = 2000
"""How many names one request lists."""


class EtcdStore:
    """As `ports.QueueStore`."""

    def __init__(self, ask: Requests, watches: Watches, delays: dict[str, dict[int, None]], namespace: str) -> None:
        self._ask = ask
        self._keys = ask.keys
        self._watches = watches
        self._delays = delays
        """The lock_delays in use, by session: each has a lease of its own, which outlives the session's (B10)."""
        self._prefix = f"{namespace}:"

    # -- the steps --------------------------------------------------------------------------------------------------

    async def enter(self, entry: Entry, timeout: Seconds) -> Place:
        until = self._ask.now() + timeout
        # As it is before the request: what another connection learns meanwhile may be of a loss after it (A2).
        life = self._ask.life.value
        facts: SessionFacts | None = None
        ttl = 0
        if entry.opening:
            if entry.at_once and not entry.again and (busy := await self._busy(entry, until)):
                return busy
            ttl = await self._ask.open_lease(self._keys.lease(entry.session.id), entry.session.ttl, until)
        elif entry.extend:
            beat = await self.heartbeat(entry.session.id, entry.session.ttl, False, timeout)
            if beat.over:
                return Place(GONE)
            facts = beat.facts
        sure_below = 1
        for _ in range(AGAIN_MOST):
            try:
                reply = await self._ask.txn(self._entering(entry, sure_below), until, writes=True)
            except LeaseGone:
                return Place(GONE)
            if not reply.succeeded and await self._ask.is_other(reply.parts[0], until):
                continue
            own, session, listing = reply.parts[-3:]
            if session.kvs and entry.opening:
                facts = SessionFacts(ttl, life, session.kvs[0].mod)
            if not reply.succeeded and (reply.parts[1].kvs or not (session.kvs or entry.opening)):
                return Place(GONE, facts=facts)  # by its tombstone, or its session's end
            mine = self._rows(own.kvs)
            if mine:
                return (await self._entered(entry, mine[0], reply, until))._replace(facts=facts)
            # Asked for at once, and others were there.
            found = stand(self._rows(listing.kvs), 0, entry.mode)
            if found.blockers:
                return Place(BUSY, facts=facts, limit=found.limit)
            sure_below = reply.header.revision + 1
        raise StoreUnavailable("the queue changed all the time; nothing was entered")

    async def _entered(self, entry: Entry, mine: Row, reply: m.Txn, until: float) -> Place:
        """Where a claim stands that is in its queue now."""
        try:
            if reply.succeeded:
                return await self._place(mine, reply.parts[-1], reply.header.revision, until)
            # It was there before, and others may have come since: the listing shows them, and not who is in front.
            ref = ClaimRef(mine.session, mine.claim, entry.name, mine.number)
            return await self.look(ref, max(0.001, until - self._ask.now()))
        except StoreUnavailable as error:
            # What failed had no effect; the claim stands in its queue all the same.
            raise OutcomeUnknown(*error.args) from error

    async def _busy(self, entry: Entry, until: float) -> Place | None:
        """A client that only tries, and has no session yet, needs none to be told that the name is busy."""
        queue = self._keys.queue(self._bare(entry.name))
        reply = await self._ask.read([m.get_op(m.get(queue, after(queue), order=m.ASCEND))], until)
        found = stand(self._rows(reply.parts[0].kvs), 0, entry.mode)
        return Place(BUSY, limit=found.limit) if found.blockers else None

    def _entering(self, entry: Entry, sure_below: int) -> bytes:
        keys, card = self._keys, entry.session
        lease = keys.lease(card.id)
        name = self._bare(entry.name)
        session, queue = keys.session(card.id), keys.queue(name)
        claim, tombstone = (
            keys.claim(name, card.id, entry.claim),
            keys.tombstone(card.id, entry.claim),
        )
        compares = [
            m.compare(keys.genesis, m.VALUE, self._ask.life.genesis),
            m.compare(tombstone, m.CREATE, 0),
            m.compare(claim, m.CREATE, 0),
        ]
        reads = [m.get_op(m.get(claim)), m.get_op(m.get(session)), self._listing(queue, entry.mode)]
        writes = [m.put_op(claim, value_of(entry, native.utc()), lease)]
        if entry.opening:
            # Only once: its revision counts the steals, and a second claim may open it at the same time.
            record = m.put_op(session, b"%d" % whole_ttl(card.ttl), lease)
            writes.insert(0, m.txn_op(m.txn([m.compare(session, m.CREATE, 0)], [record])))
        else:
            compares.append(m.compare(session, m.LEASE, lease))
        if entry.at_once:
            # Nobody has come since those who are known not to block it; who has gone is no matter (B5).
            compares.append(m.compare(queue, m.CREATE, sure_below, end=after(queue), result=m.LESS))
            reads[2] = m.get_op(m.get(queue, after(queue), order=m.ASCEND))
        failure = [m.get_op(m.get(keys.genesis)), m.get_op(m.get(tombstone)), *reads]
        return m.txn(compares, [*writes, *reads], failure)

    def _listing(self, queue: bytes, mode: Mode) -> bytes:
        """The claims of a name that decide where its last one stands: of an exclusive one, itself and two ahead."""
        if mode.kind is Kind.EXCLUSIVE:
            return m.get_op(m.get(queue, after(queue), order=m.DESCEND, limit=3, keys_only=True))
        return m.get_op(m.get(queue, after(queue), order=m.ASCEND))

    async def look(self, ref: ClaimRef, timeout: Seconds) -> Place:
        until = self._ask.now() + timeout
        name = self._bare(ref.name)
        queue = self._keys.queue(name)
        claim, session = self._keys.claim(name, ref.session, ref.claim), self._keys.session(ref.session)
        below = ref.number - self._ask.life.base
        reads = [m.get_op(m.get(claim)), m.get_op(m.get(session))]
        limit = NEAREST if below > 0 else 0
        for _ in range(AGAIN_MOST):
            listing = m.get_op(m.get(queue, after(queue), order=m.DESCEND, limit=limit, below=max(0, below)))
            reply = await self._ask.read([*reads, listing], until)
            own, alive, others = reply.parts
            mine = self._rows(own.kvs)
            if not mine or not alive.kvs or mine[0].freed:
                self._watches.drop(Waiter(ref.session, ref.claim))
                return Place(GONE)
            if others.more and mine[0].mode.kind is not Kind.EXCLUSIVE:
                limit = 0
                continue
            return await self._place(mine[0], others, reply.header.revision, until)
        raise StoreUnavailable("the store changed all the time")

    async def _place(self, mine: Row, listing: m.Part, revision: int, until: float) -> Place:
        """Where a claim stands."""
        ahead = sorted((r for r in self._rows(listing.kvs) if r.create < mine.create), key=lambda r: r.create)
        found = stand(ahead, mine.number, mine.mode)
        me = Waiter(mine.session, mine.claim)
        if found.blockers:
            due = Instant(self._ask.now() + LOOK_S)
            # The one in front has others in front of it: then it waits too, or they are all shared and it may go.
            waits = mine.mode.kind is Kind.EXCLUSIVE and len(ahead) > 1
            peers = tuple(Peer(r.session, address(me, revision, r.key, waits), due) for r in found.blockers)
            return Place(WAITS, mine.number, 0, peers, None, found.limit)
        self._watches.drop(me)
        if mine.delay and not mine.taken and not await self._take_up(mine, until):
            return Place(GONE)
        return Place(HOLDS, mine.number, found.floor, (), None, found.limit)

    async def _take_up(self, mine: Row, until: float) -> bool:
        """Before a claim with a lock_delay is handed out, bind it to the lease that outlives its session (B10)."""
        session = self._keys.session(mine.session)
        ttl = await self._ask.read([m.get_op(m.get(session))], until)
        if not ttl.parts[0].kvs:
            return False
        lease = self._keys.lease(mine.session, mine.delay)
        # Noted first: the keeper keeps it alive from here on.
        self._delays.setdefault(mine.session, {})[mine.delay] = None
        await self._ask.grant(lease, int(ttl.parts[0].kvs[0].value or b"1") + mine.delay, until)
        compares = [
            m.compare(self._keys.genesis, m.VALUE, self._ask.life.genesis),
            m.compare(session, m.LEASE, self._keys.lease(mine.session)),
            m.compare(mine.key, m.MOD, mine.mod),
        ]
        reply = await self._ask.txn(
            m.txn(compares, [m.put_op(mine.key, marked(mine.value, "taken"), lease)], [m.get_op(m.get(mine.key))]),
            until,
            writes=True,
        )
        # Two who look at one claim take it up at the same time, and one of them finds it done.
        return reply.succeeded or any(r.taken for part in reply.parts for r in self._rows(part.kvs))

    async def close(self, closings: Sequence[Closing], timeout: Seconds) -> list[bool]:
        until = self._ask.now() + timeout
        for closing in closings:
            self._watches.drop(Waiter(closing.ref.session, closing.ref.claim))
        freed = await self._free([c for c in closings if not c.clean], until)
        for session, ttl in {c.ref.session: c.ttl for c in closings if c.tombstone}.items():
            # The opening request itself may still arrive: the tombstone then needs a lease that is there.
            await self._ask.grant(self._keys.lease(session), ttl, until)
        left = [c for c in closings if c.ref not in freed]
        removed: dict[ClaimRef, bool] = {}
        for _ in range(AGAIN_MOST):
            if not left:
                break
            request = m.txn(
                [m.compare(self._keys.genesis, m.VALUE, self._ask.life.genesis)],
                [self._removal(c) for c in left],
                [m.get_op(m.get(self._keys.genesis))],
            )
            reply = await self._ask.txn(request, until, writes=True)
            if reply.succeeded:
                for closing, part in zip(left, reply.parts, strict=True):
                    done = part.inner.parts[0] if part.inner else part
                    removed[closing.ref] = done.deleted > 0
                break
            await self._ask.is_other(reply.parts[0], until)
        else:
            raise StoreUnavailable("the store changed all the time")
        return [freed.get(c.ref, False) or removed.get(c.ref, False) for c in closings]

    def _removal(self, closing: Closing) -> bytes:
        ref = closing.ref
        removal = m.delete_op(self._keys.claim(self._bare(ref.name), ref.session, ref.claim))
        if not closing.tombstone:
            return removal
        # One operation of the transaction, whatever it holds: etcd allows 128.
        grave = m.put_op(self._keys.tombstone(ref.session, ref.claim), b"", self._keys.lease(ref.session))
        return m.txn_op(m.txn([], [removal, grave]))

    async def _free(self, closings: Sequence[Closing], until: float) -> dict[ClaimRef, bool]:
        """Of claims that are closed uncleanly, those that keep the name closed for their lock_delay (B10)."""
        freed: dict[ClaimRef, bool] = {}
        if not closings:
            return freed
        for closing, found in zip(closings, await self._find([c.ref for c in closings], until), strict=True):
            if found is None or not found.delay or not found.taken:
                continue
            if found.freed:
                freed[closing.ref] = False
                continue
            lease = await self._ask.grant(0, found.delay, until)
            put = m.put_op(found.key, marked(found.value, "freed"), lease)
            reply = await self._ask.txn(m.txn([m.compare(found.key, m.MOD, found.mod)], [put]), until, writes=True)
            freed[closing.ref] = reply.succeeded
        return freed

    async def heartbeat(
        self,
        session: str,
        ttl: Seconds,
        waiting: bool,  # noqa: ARG002 - no message is a grant here: whoever is woken looks
        timeout: Seconds,
    ) -> Beat:
        until = self._ask.now() + timeout
        for delay in list(self._delays.get(session, ())):
            # First, for it must outlive the other.
            if not await self._ask.keep_alive(self._keys.lease(session, delay), until):
                return self._over(session, ttl)
        record = m.get_op(m.get(self._keys.session(session)))
        granted, found = await self._ask.renew(self._keys.lease(session), record, until)
        if not granted or not found.kvs:
            return self._over(session, ttl)
        return Beat(SessionFacts(granted, self._ask.life.value, found.kvs[0].mod), ())

    def _over(self, session: str, ttl: Seconds) -> Beat:
        self._delays.pop(session, None)
        return Beat(SessionFacts(ttl, self._ask.life.value, 0), (), over=True)

    async def standing(self, refs: Sequence[ClaimRef], timeout: Seconds) -> list[bool]:
        found = await self._find(refs, self._ask.now() + timeout)
        # One that the store lost and a late repeat entered anew has another number: it is not the one asked for.
        return [r is not None and not r.freed and r.number == ref.number for r, ref in zip(found, refs, strict=True)]

    async def claims(self, session: str, timeout: Seconds) -> list[ClaimRef]:
        until = self._ask.now() + timeout
        refs: list[ClaimRef] = []
        for delay in (0, *self._delays.get(session, ())):
            request = m.message((1, self._keys.lease(session, delay)), (2, True))
            (answer,) = await self._ask.call(m.TIME_TO_LIVE, request, until, writes=False)
            for key in m.every(m.fields(answer), 5):
                parts = self._keys.split(key)
                if parts is not None and parts[1] == session:
                    refs.append(ClaimRef(session, parts[2], self._prefix + parts[0], 0))
        found = await self._find(refs[:100], until)
        return [ref._replace(number=r.number) for ref, r in zip(refs, found, strict=False) if r is not None]

    async def end(self, session: str, timeout: Seconds) -> None:
        until = self._ask.now() + timeout
        # Claims that keep their names closed for a lock_delay stay until their own lease has run out.
        self._delays.pop(session, None)
        try:
            await self._ask.call(m.REVOKE, m.message((1, self._keys.lease(session))), until, writes=True)
        except Refused as error:
            if error.code != NOT_FOUND:
                raise explained(error, writes=True) from error

    async def inspect(self, name: str, timeout: Seconds) -> Queue:
        queue = self._keys.queue(self._bare(name))
        listing = m.get_op(m.get(queue, after(queue), order=m.ASCEND))
        reply = await self._ask.read([listing], self._ask.now() + timeout)
        return shown(name, [contender(r) for r in self._rows(reply.parts[0].kvs)])

    async def names(self, prefix: str, timeout: Seconds) -> list[str]:
        until = self._ask.now() + timeout
        first = self._keys.queues + self._bare(prefix).encode()
        behind = after(first)
        found: dict[str, None] = {}
        while True:
            reply = await self._ask.read([m.get_op(m.get(first, behind, limit=PAGE, keys_only=True))], until)
            part = reply.parts[0]
            for key in part.kvs:
                parts = self._keys.split(key.key)
                if parts is not None:
                    found[self._prefix + parts[0]] = None
            if not part.more:
                return sorted(found)
            first = part.kvs[-1].key + b"\0"

    async def steal(self, name: str, number: int, timeout: Seconds) -> bool:
        until = self._ask.now() + timeout
        queue = self._keys.queue(self._bare(name))
        reply = await self._ask.read([m.get_op(m.get(queue, after(queue)))], until)
        robbed = next((r for r in self._rows(reply.parts[0].kvs) if r.number == number), None)
        if robbed is None:
            return False
        session = self._keys.session(robbed.session)
        # Its session counts it, and a repeat of its enqueue must not bring it back: claim ids are used once (B1).
        count = [
            m.touch_op(session),
            m.put_op(self._keys.tombstone(robbed.session, robbed.claim), b"", self._keys.lease(robbed.session)),
        ]
        told = m.txn_op(m.txn([m.compare(session, m.LEASE, self._keys.lease(robbed.session))], count))
        compares = [
            m.compare(self._keys.genesis, m.VALUE, self._ask.life.genesis),
            m.compare(robbed.key, m.CREATE, robbed.create),
        ]
        # At once, also past a lock_delay: an operator who steals has decided that nobody is at work.
        return (await self._ask.txn(m.txn(compares, [m.delete_op(robbed.key), told]), until, writes=True)).succeeded

    async def authority(self, timeout: Seconds) -> str:
        await self._ask.adopt(self._ask.now() + timeout)
        return f"etcd:{self._ask.life.id}"

    # -- reading ----------------------------------------------------------------------------------------------------

    def _rows(self, kvs: Sequence[m.Kv]) -> list[Row]:
        found = (row(self._keys, kv, self._ask.life.base) for kv in kvs)
        return [r for r in found if r is not None]

    async def _find(self, refs: Sequence[ClaimRef], until: float) -> list[Row | None]:
        """Claims as they stand, each None if it does not."""
        if not refs:
            return []
        reads = [m.get_op(m.get(self._keys.claim(self._bare(ref.name), ref.session, ref.claim))) for ref in refs]
        reply = await self._ask.read(reads, until)
        return [next(iter(self._rows(part.kvs)), None) for part in reply.parts]

    def _bare(self, name: str) -> str:
        """A name without the namespace, which is part of every key."""
        return name[len(self._prefix) :]
