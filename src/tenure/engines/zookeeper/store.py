"""The engine's operations as requests to ZooKeeper: written once, for threads and tasks.

Promises: what changes a queue is one transaction, under the genesis record in force (B12); a claim's enqueue is sent
once, and a repeat only looks whether it arrived; whatever is sent on behalf of a session goes over its own connection,
in order, so that a claim which is closed stays closed (B1).
Does not promise that another client's release is seen at once: a follower may be a moment behind. What blocks is seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenure.engines.listing import shown
from tenure.engines.zookeeper import jute
from tenure.engines.zookeeper.asking import TURNS_MOST, nodes_of, refusal
from tenure.engines.zookeeper.dial import Expired
from tenure.engines.zookeeper.jute import Refusal
from tenure.engines.zookeeper.layout import claim_node, contender, rows, who
from tenure.engines.zookeeper.seat import Own, Seat
from tenure.engines.zookeeper.sessions import SessionSteps
from tenure.errors import OutcomeUnknown, StoreUnavailable
from tenure.model import EXCLUSIVE, Instant
from tenure.ports import BUSY, GONE, HOLDS, WAITS, ClaimRef, Peer, Place
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenure.engines.zookeeper.asking import Question
    from tenure.model import Contender, Queue, Seconds
    from tenure.ports import Closing, Entry, SessionFacts

BATCH: Final = 500
"""How many questions go out in one write."""


class ZooKeeperStore(SessionSteps):
    """As `ports.QueueStore`."""

    # -- claims -----------------------------------------------------------------------------------------------------

    async def enter(self, entry: Entry, timeout: Seconds) -> Place:
        seat = self.hub.seat(entry.session, opening=entry.opening)
        if seat is None:
            return Place(GONE)
        until = self.until(timeout)
        try:
            return await self._enter(seat, entry, until)
        except Expired:
            return Place(GONE)

    async def _enter(self, seat: Seat, entry: Entry, until: Instant) -> Place:
        berth = self.hub.berth(seat, entry.delay)
        facts: SessionFacts | None = None
        known = seat.claims.get(entry.claim)
        own = known or Own(berth, seat.card.id, entry.claim, entry.name, self.layout.queue(entry.name), entry.mode)
        seat.claims[entry.claim] = own
        for _ in range(TURNS_MOST):
            if entry.opening or not seat.main.is_known:
                facts = await self.introduce(seat, seat.main, until)
            if own.berth is not seat.main and not own.berth.is_known:
                await self.introduce(seat, own.berth, until)
            if entry.again:
                if not await self._find(own, until):
                    self.hub.drop(seat, own)
                    return Place(GONE, facts=facts)
                place = await self._place(seat, own, None, until)
            else:
                if entry.at_once:
                    busy = await self._is_busy(own, until)
                    if busy is not None:
                        self.hub.drop(seat, own)
                        return busy._replace(facts=facts)
                nodes = await self._create(seat, own, entry.info, until)
                if nodes is None:
                    continue
                place = await self._place(seat, own, nodes, until)
            if place.standing is WAITS and entry.at_once:
                await self.ask(own.berth.link, [jute.delete(own.path)], until)
                self.hub.drop(seat, own)
                place = Place(BUSY, limit=place.limit)
            return place._replace(facts=facts)
        raise StoreUnavailable("the nodes of this namespace vanished several times during one request")

    async def _create(self, seat: Seat, own: Own, info: str, until: Instant) -> list[str] | None:
        """Send the enqueue and list the queue, in one write; None if something must be made first."""
        hub, genesis = self.hub, await self.genesis(until)
        own.queue = self.layout.queue(own.name)
        path = f"{own.queue}/{claim_node(own.mode, own.session, own.claim)}"
        claim = jute.create(path, who(seat.card, info), hub.login, jute.EPHEMERAL_SEQUENTIAL)
        container = [] if own.queue in hub.parents else [jute.create(own.queue, b"", hub.login, jute.CONTAINER)]
        answers = await self.ask(own.berth.link, [*container, claim, jute.children(own.queue)], until)
        made, nodes = answers[-2:]
        if isinstance(made, Refusal):
            if made.code != jute.NO_NODE:
                raise refusal(made.code)
            if container and isinstance(answers[0], Refusal):
                if answers[0].code not in (jute.NO_NODE, jute.NODE_EXISTS):
                    raise refusal(answers[0].code)
                await self.adopt(own.berth.link, until)
            # The server has removed the container, which was empty.
            hub.parents.pop(own.queue, None)
            return None
        hub.remember(own.queue)
        path, stat = made
        own.node = path.rpartition("/")[2]
        own.number = stat.czxid + genesis.base
        return [] if isinstance(nodes, Refusal) else nodes

    async def _find(self, own: Own, until: Instant) -> bool:
        """Whether the enqueue that was not answered has arrived. It cannot arrive after this (B1)."""
        if own.node:
            return True
        link = own.berth.link
        _, nodes = await self.ask(link, [jute.sync(own.queue), jute.children(own.queue)], until)
        mine = next((r for r in rows(nodes_of(nodes)) if (r.session, r.claim) == (own.session, own.claim)), None)
        if mine is None:
            return False
        genesis = await self.genesis(until)
        [stat] = await self.ask(link, [jute.exists(f"{own.queue}/{mine.node}")], until)
        # A ghost of an old session is never taken for own.
        if isinstance(stat, Refusal) or stat.owner != link.session:
            return False
        own.node, own.number = mine.node, stat.czxid + genesis.base
        return True

    async def _is_busy(self, own: Own, until: Instant) -> Place | None:
        """Whether others are in front, without entering: a try that fails writes nothing."""
        _, nodes = await self.ask(own.berth.link, [jute.sync(own.queue), jute.children(own.queue)], until)
        found = self.hub.stand_behind(own, nodes_of(nodes))
        return Place(BUSY, limit=found.limit) if found.blockers else None

    async def _place(self, seat: Seat, own: Own, nodes: list[str] | None, until: Instant) -> Place:
        """Where a claim of ours stands, and its watches are set."""
        sent = self.runtime.now()
        for _ in range(TURNS_MOST):
            if nodes is None:
                nodes = nodes_of((await self.ask(own.berth.link, [jute.children(own.queue)], until))[0])
            found = self.hub.stand(own, nodes)
            if found is None:
                return Place(GONE)
            where, first = found
            if where.blockers:
                # Watched: nobody's end goes unheard as long as the connection lives, and a new one looks again.
                due = Instant(sent + seat.card.ttl)
                peers = tuple(Peer(row.session, row.node, due) for row in where.blockers)
                return Place(WAITS, own.number, 0, peers, limit=where.limit)
            if first is None:
                return Place(HOLDS, own.number, own.number, limit=where.limit)
            [stat] = await self.ask(own.berth.link, [jute.exists(f"{own.queue}/{first.node}")], until)
            if not isinstance(stat, Refusal):
                base = (await self.genesis(until)).base
                return Place(HOLDS, own.number, stat.czxid + base, limit=where.limit)
            nodes = None
        raise OutcomeUnknown("the first of the holders changed several times during one request")

    async def look(self, ref: ClaimRef, timeout: Seconds) -> Place:
        seat = self.hub.seats.get(ref.session)
        own = seat.claims.get(ref.claim) if seat else None
        if seat is None or own is None or not own.node:
            return Place(GONE)
        try:
            return await self._place(seat, own, None, self.until(timeout))
        except Expired:
            return Place(GONE)

    async def close(self, closings: Sequence[Closing], timeout: Seconds) -> list[bool]:
        until = self.until(timeout)
        # All are sent before any is waited for: a hundred of them cost one round trip.
        begun = [(closing, self._begin_close(closing)) for closing in closings]
        return [await self._end_close(closing, question, until) for closing, question in begun]

    def _begin_close(self, closing: Closing) -> Question | None:
        """Send the deletion of a claim whose node is known."""
        seat = self.hub.seats.get(closing.ref.session)
        own = seat.claims.get(closing.ref.claim) if seat else None
        if own is None or not own.node or self._is_delayed(own, closing):
            return None
        if closing.held and own.mode == EXCLUSIVE:
            # Whoever is next hears that it was written before it went, and needs no look to know that it holds: only
            # the holder says so, of whom nobody was in front. A claim that dies or gives up just goes.
            return self.begin(own.berth.link, [jute.multi(jute.write(own.path), jute.delete(own.path))])
        return self.begin(own.berth.link, [jute.delete(own.path)])

    async def _end_close(self, closing: Closing, question: Question | None, until: Instant) -> bool:
        ref = closing.ref
        seat = self.hub.seats.get(ref.session)
        if seat is None:
            return False
        own = seat.claims.get(ref.claim)
        try:
            if question is not None:
                [answer] = (await self.ended(question, until)).answers
                if isinstance(answer, list):
                    _, code = self.fault(answer)
                    answer = Refusal(code) if code != jute.OK else None
            elif own is not None and own.node:
                own.berth.link.remove_later(own.path, Instant(native.now() + own.berth.delay))
                answer = None
            else:
                answer = await self._remove(seat, own, ref, until)
        except Expired:
            # Its node has gone with the session.
            answer = Refusal(jute.NO_NODE)
        if isinstance(answer, Refusal) and answer.code != jute.NO_NODE:
            raise refusal(answer.code)
        if own is not None:
            self.hub.drop(seat, own)
        return answer is None

    def _is_delayed(self, own: Own, closing: Closing) -> bool:
        """Whether its name stays closed a while (B10): it was held, and nobody says that the work is done."""
        return not closing.clean and own.told and bool(own.berth.delay)

    async def _remove(self, seat: Seat, own: Own | None, ref: ClaimRef, until: Instant) -> Refusal | None:
        """Close a claim that may have arrived or not; after the `sync` it does not arrive any more (B1)."""
        link, queue = (own.berth.link if own else seat.main.link), self.layout.queue(ref.name)
        _, nodes = await self.ask(link, [jute.sync(queue), jute.children(queue)], until)
        found = [r for r in rows(nodes_of(nodes)) if (r.session, r.claim) == (ref.session, ref.claim)]
        if not found:
            return Refusal(jute.NO_NODE)
        [answer] = await self.ask(link, [jute.delete(f"{queue}/{found[0].node}")], until)
        return answer if isinstance(answer, Refusal) else None

    # -- operators --------------------------------------------------------------------------------------------------

    async def inspect(self, name: str, timeout: Seconds) -> Queue:
        until = self.until(timeout)
        link = self.hub.spare()
        base = (await self.genesis(until, link)).base
        queue = self.layout.queue(name)
        _, nodes = await self.ask_spare(link, [jute.sync(queue), jute.children(queue)], until)
        found: list[Contender] = []
        listed = rows(nodes_of(nodes))
        for start in range(0, len(listed), BATCH):
            some = listed[start : start + BATCH]
            answers = await self.ask_spare(link, [jute.get(f"{queue}/{row.node}") for row in some], until)
            found += [
                contender(row, answer[0], answer[1], base, holds=False)
                for row, answer in zip(some, answers, strict=True)
                if not isinstance(answer, Refusal)
            ]
        return shown(name, found)

    async def names(self, prefix: str, timeout: Seconds) -> list[str]:
        until = self.until(timeout)
        link = self.hub.spare()
        await self.genesis(until, link)
        queues = self.layout.queues
        _, nodes = await self.ask_spare(link, [jute.sync(queues), jute.children(queues)], until)
        named = [(name, node) for node in nodes_of(nodes) if (name := self.layout.name(node)).startswith(prefix)]
        found: list[str] = []
        for start in range(0, len(named), BATCH):
            some = named[start : start + BATCH]
            stats = await self.ask_spare(link, [jute.exists(f"{queues}/{node}") for _, node in some], until)
            found += [
                name
                for (name, _), stat in zip(some, stats, strict=True)
                if isinstance(stat, jute.Stat) and stat.children
            ]
        return sorted(found)

    async def steal(self, name: str, number: int, timeout: Seconds) -> bool:
        until = self.until(timeout)
        link = self.hub.spare()
        genesis = await self.genesis(until, link)
        queue = self.layout.queue(name)
        _, nodes = await self.ask_spare(link, [jute.sync(queue), jute.children(queue)], until)
        listed = rows(nodes_of(nodes))
        if not listed:
            return False
        stats = await self.ask_spare(link, [jute.exists(f"{queue}/{row.node}") for row in listed], until)
        for row, stat in zip(listed, stats, strict=True):
            if isinstance(stat, jute.Stat) and stat.czxid + genesis.base == number:
                # A node's name is used once, so that to delete it is to compare (B9).
                robbed = [jute.delete(f"{queue}/{row.node}"), jute.write(self.layout.steals(row.session))]
                [answer] = await self.ask_spare(link, [jute.multi(*robbed)], until)
                part, code = self.fault(answer)
                if (part, code) == (1, jute.NO_NODE):
                    # Its session is over already, and it only stayed for its lock_delay: nobody is to be told.
                    [answer] = await self.ask_spare(link, [robbed[0]], until)
                    code = answer.code if isinstance(answer, Refusal) else jute.OK
                if code not in (jute.OK, jute.NO_NODE):
                    raise refusal(code)
                return code == jute.OK
        return False

    async def authority(self, timeout: Seconds) -> str:
        until = self.until(timeout)
        link = self.hub.spare()
        try:
            await self.adopt(link, until)
        except Expired as error:
            raise StoreUnavailable("the session for this question has ended") from error
        return f"zookeeper:{self.life}"
