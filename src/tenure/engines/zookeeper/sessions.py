"""A session's steps: made, kept by writes, asked what it has, ended.

Promises: what a heartbeat answers counts from what its write proves (C3), and no longer than the shortest of the
sessions that the client's claims are spread over (B10).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenure.engines.zookeeper import jute
from tenure.engines.zookeeper.asking import TURNS_MOST, Asking, refusal
from tenure.engines.zookeeper.dial import Expired
from tenure.engines.zookeeper.jute import Refusal
from tenure.engines.zookeeper.layout import rows
from tenure.engines.zookeeper.seat import BEATS_PER_TTL, TICKS_LEAST, Berth, Seat
from tenure.errors import OutcomeUnknown, StoreUnavailable, UnsafeSetup
from tenure.model import Instant
from tenure.ports import Beat, ClaimRef, SessionFacts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenure.engines.zookeeper.link import Link
    from tenure.model import Seconds


class SessionSteps(Asking):
    """The part of the store that is about sessions."""

    async def heartbeat(self, session: str, ttl: Seconds, waiting: bool, timeout: Seconds) -> Beat:  # noqa: ARG002
        until = self.until(timeout)
        seat = self.hub.seats.get(session)
        over = Beat(SessionFacts(ttl, self.life, 0), (), over=True)
        if seat is None:
            return over
        try:
            # Sent to all before any is waited for: a deadline rests on the latest of them.
            facts = [await self._beat(seat, berth, until) for berth in seat.in_use()]
        except Expired:
            for berth in seat.berths:
                berth.link.close()
            return over
        since = min((since for since in facts), default=Instant(0.0))
        return Beat(self._facts(seat, since), ())

    async def _beat(self, seat: Seat, berth: Berth, until: Instant) -> Instant:
        """Write a session's own node; from when its deadline counts."""
        if not berth.is_known:
            return (await self.introduce(seat, berth, until)).since or Instant(0.0)
        for _ in range(TURNS_MOST):
            parts = [jute.write(berth.node)]
            if berth is seat.main:
                # A steal since the last look makes this fail, so that one message tells both.
                parts.append(jute.check(self.layout.steals(seat.card.id), seat.steals))
            batch = await self.asked(berth.link, [jute.multi(*parts)], until)
            _, code = self.fault(batch.answers[0])
            if code == jute.OK and batch.sent is not None:
                return berth.proof.answered(batch.sent, batch.since, self.hub.tick / 2)
            if code == jute.BAD_VERSION:
                [stat] = await self.ask(berth.link, [jute.exists(self.layout.steals(seat.card.id))], until)
                seat.steals = stat.version if isinstance(stat, jute.Stat) else seat.steals
            elif code == jute.NO_NODE:
                # Somebody has removed the nodes of a session that lives: nobody can say what else is gone.
                raise Expired
            else:
                raise refusal(code)
        raise OutcomeUnknown("the nodes of this session changed several times during one heartbeat")

    async def introduce(self, seat: Seat, berth: Berth, until: Instant) -> SessionFacts:
        """Make a session's own nodes; repeating it is harmless."""
        hub, layout, is_main = self.hub, self.layout, berth is seat.main
        for _ in range(TURNS_MOST):
            await self.genesis(until, berth.link)
            berth.node = layout.session(seat.card.id, berth.serial)
            steals = layout.steals(seat.card.id)
            parts = [jute.create(berth.node, b"", hub.login, jute.EPHEMERAL)]
            more = []
            if is_main:
                parts.append(jute.create(steals, b"", hub.login, jute.EPHEMERAL))
                more.append(jute.exists(steals, watch=True))
            batch = await self.asked(berth.link, [jute.multi(*parts), *more], until)
            _, code = self.fault(batch.answers[0])
            if code in (jute.OK, jute.NODE_EXISTS) and batch.sent is not None:
                break
            if code != jute.NO_NODE:
                raise refusal(code)
            # The store is new, or was made anew.
            await self.adopt(berth.link, until)
        else:
            raise StoreUnavailable("the nodes of this namespace vanished several times during one request")
        self._check_timeout(seat, berth)
        if is_main and isinstance(batch.answers[1], jute.Stat):
            seat.steals = batch.answers[1].version
        berth.is_known = True
        return self._facts(seat, berth.proof.answered(batch.sent, batch.since, hub.tick / 2))

    def _check_timeout(self, seat: Seat, berth: Berth) -> None:
        granted, tick = berth.link.timeout, self.hub.tick
        if granted < TICKS_LEAST * tick - 0.001:
            berth.link.close()
            raise UnsafeSetup(
                f"the server grants sessions of {granted:g} s, and {TICKS_LEAST} ticks of {tick:g} s are needed: raise "
                "its maxSessionTimeout, or say its tickTime (option tick)"
            )
        if berth.delay and granted < seat.main.link.timeout + berth.delay - 0.001:
            berth.link.close()
            raise UnsafeSetup(
                f"lock_delay: the server grants sessions of {granted:g} s at most, and ttl and lock_delay are "
                f"{seat.main.link.timeout + berth.delay:g} s together: raise its maxSessionTimeout"
            )

    def _facts(self, seat: Seat, since: Instant) -> SessionFacts:
        ttl = seat.main.link.timeout
        period = max(ttl / BEATS_PER_TTL, self.hub.tick / 2)
        return SessionFacts(ttl, self.life, seat.steals, since, period)

    async def standing(self, refs: Sequence[ClaimRef], timeout: Seconds) -> list[bool]:
        until = self.until(timeout)
        found: list[bool] = []
        for ref in refs:
            seat = self.hub.seats.get(ref.session)
            own = seat.claims.get(ref.claim) if seat else None
            stands = False
            if own is not None and own.node and own.number == ref.number:
                try:
                    [stat] = await self.ask(own.berth.link, [jute.exists(own.path)], until)
                    stands = isinstance(stat, jute.Stat) and stat.czxid + (await self.genesis(until)).base == ref.number
                except Expired:
                    stands = False
            found.append(stands)
        return found

    async def claims(self, session: str, timeout: Seconds) -> list[ClaimRef]:
        until = self.until(timeout)
        seat = self.hub.seats.get(session)
        found: list[ClaimRef] = []
        for berth in seat.berths if seat else ():
            try:
                found += await self._claims(berth.link, session, until)
            except Expired:
                continue
        return found[:100]

    async def _claims(self, link: Link, session: str, until: Instant) -> list[ClaimRef]:
        [paths] = await self.ask(link, [jute.ephemerals(self.layout.queues)], until)
        if isinstance(paths, Refusal):
            return []  # before ZooKeeper 3.6 nobody could tell
        base = (await self.genesis(until)).base
        paths = paths[:100]
        stats = await self.ask(link, [jute.exists(path) for path in paths], until) if paths else []
        found = []
        for path, stat in zip(paths, stats, strict=True):
            queue, _, node = path.rpartition("/")
            for row in rows([node]):
                if row.session == session and isinstance(stat, jute.Stat):
                    name = self.layout.name(queue.rpartition("/")[2])
                    found.append(ClaimRef(session, row.claim, name, stat.czxid + base))
        return found

    async def end(self, session: str, timeout: Seconds) -> None:  # noqa: ARG002 - nobody waits for it
        self.hub.end(session)
