"""The engine's operations as requests to ZooKeeper: written once, for threads and tasks.

Promises: what changes a queue is one transaction, under the genesis record in force (B12); a claim's enqueue is sent
once, and a repeat only looks whether it arrived; whatever is sent on behalf of a session goes over its own connection,
in order, so that a claim which is closed stays closed (B1). Waiting is the runtime's: no loop is ever blocked.
Does not promise that another client's release is seen at once: a follower may be a moment behind. What blocks is seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenure.engines.listing import shown
from tenure.engines.zookeeper import jute
from tenure.engines.zookeeper.dial import Expired
from tenure.engines.zookeeper.jute import Refusal
from tenure.engines.zookeeper.layout import FORMAT, SPOKEN, Genesis, claim_node, contender, read_genesis, rows, who
from tenure.engines.zookeeper.link import Batch
from tenure.engines.zookeeper.seat import BEATS_PER_TTL, TICKS_LEAST, Berth, Own, Seat
from tenure.errors import IncompatibleStore, OutcomeUnknown, StoreUnavailable, UnsafeSetup
from tenure.model import Instant
from tenure.ports import BUSY, GONE, HOLDS, WAITS, Beat, ClaimRef, Peer, Place, SessionFacts
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenure.engines.zookeeper.hub import Hub
    from tenure.engines.zookeeper.link import Link
    from tenure.model import Contender, Queue, Seconds
    from tenure.ports import Closing, Entry, Runtime, Signal

TURNS_MOST: Final = 4
"""How often one operation begins anew because something vanished under it."""

BATCH: Final = 500
"""How many questions go out in one write."""


class _Question(NamedTuple):
    """Requests that were sent, and how one waits for their answers."""

    link: Link
    batch: Batch
    signal: Signal
    begun: Instant


class ZooKeeperStore:
    """As `ports.QueueStore`."""

    def __init__(self, hub: Hub, runtime: Runtime) -> None:
        self._hub = hub
        self._layout = hub.layout
        self._runtime = runtime

    # -- claims -----------------------------------------------------------------------------------------------------

    async def enter(self, entry: Entry, timeout: Seconds) -> Place:
        seat = self._hub.seat(entry.session, opening=entry.opening)
        if seat is None:
            return Place(GONE)
        until = self._until(timeout)
        try:
            return await self._enter(seat, entry, until)
        except Expired:
            return Place(GONE)

    async def _enter(self, seat: Seat, entry: Entry, until: Instant) -> Place:
        berth = self._hub.berth(seat, entry.delay)
        facts: SessionFacts | None = None
        known = seat.claims.get(entry.claim)
        own = known or Own(berth, seat.card.id, entry.claim, entry.name, self._layout.queue(entry.name), entry.mode)
        seat.claims[entry.claim] = own
        for _ in range(TURNS_MOST):
            if entry.opening or not seat.main.is_known:
                facts = await self._introduce(seat, seat.main, until)
            if own.berth is not seat.main and not own.berth.is_known:
                await self._introduce(seat, own.berth, until)
            if entry.again:
                if not await self._find(own, until):
                    self._hub.drop(seat, own)
                    return Place(GONE, facts=facts)
                place = await self._place(seat, own, None, until)
            else:
                if entry.at_once:
                    busy = await self._is_busy(own, until)
                    if busy is not None:
                        self._hub.drop(seat, own)
                        return busy._replace(facts=facts)
                nodes = await self._create(seat, own, entry.info, until)
                if nodes is None:
                    continue
                place = await self._place(seat, own, nodes, until)
            if place.standing is WAITS and entry.at_once:
                await self._ask(own.berth.link, [jute.delete(own.path)], until)
                self._hub.drop(seat, own)
                place = Place(BUSY, limit=place.limit)
            return place._replace(facts=facts)
        raise StoreUnavailable("the nodes of this namespace vanished several times during one request")

    async def _create(self, seat: Seat, own: Own, info: str, until: Instant) -> list[str] | None:
        """Send the enqueue and list the queue, in one write; None if something must be made first."""
        hub, genesis = self._hub, await self._genesis(until)
        own.queue = self._layout.queue(own.name)
        path = f"{own.queue}/{claim_node(own.mode, own.session, own.claim)}"
        claim = jute.create(path, who(seat.card, info), hub.login, jute.EPHEMERAL_SEQUENTIAL)
        container = [] if own.queue in hub.parents else [jute.create(own.queue, b"", hub.login, jute.CONTAINER)]
        answers = await self._ask(own.berth.link, [*container, claim, jute.children(own.queue)], until)
        made, nodes = answers[-2:]
        if isinstance(made, Refusal):
            if made.code != jute.NO_NODE:
                raise _refused(made.code)
            if container and isinstance(answers[0], Refusal):
                if answers[0].code not in (jute.NO_NODE, jute.NODE_EXISTS):
                    raise _refused(answers[0].code)
                await self._adopt(own.berth.link, until)
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
        _, nodes = await self._ask(link, [jute.sync(own.queue), jute.children(own.queue)], until)
        mine = next((r for r in rows(_nodes(nodes)) if (r.session, r.claim) == (own.session, own.claim)), None)
        if mine is None:
            return False
        genesis = await self._genesis(until)
        [stat] = await self._ask(link, [jute.exists(f"{own.queue}/{mine.node}")], until)
        # A ghost of an old session is never taken for own.
        if isinstance(stat, Refusal) or stat.owner != link.session:
            return False
        own.node, own.number = mine.node, stat.czxid + genesis.base
        return True

    async def _is_busy(self, own: Own, until: Instant) -> Place | None:
        """Whether others are in front, without entering: a try that fails writes nothing."""
        _, nodes = await self._ask(own.berth.link, [jute.sync(own.queue), jute.children(own.queue)], until)
        found = self._hub.stand_behind(own, _nodes(nodes))
        return Place(BUSY, limit=found.limit) if found.blockers else None

    async def _place(self, seat: Seat, own: Own, nodes: list[str] | None, until: Instant) -> Place:
        """Where a claim of ours stands, and its watches are set."""
        sent = self._runtime.now()
        for _ in range(TURNS_MOST):
            if nodes is None:
                nodes = _nodes((await self._ask(own.berth.link, [jute.children(own.queue)], until))[0])
            found = self._hub.stand(own, nodes)
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
            [stat] = await self._ask(own.berth.link, [jute.exists(f"{own.queue}/{first.node}")], until)
            if not isinstance(stat, Refusal):
                base = (await self._genesis(until)).base
                return Place(HOLDS, own.number, stat.czxid + base, limit=where.limit)
            nodes = None
        raise OutcomeUnknown("the first of the holders changed several times during one request")

    async def look(self, ref: ClaimRef, timeout: Seconds) -> Place:
        seat = self._hub.seats.get(ref.session)
        own = seat.claims.get(ref.claim) if seat else None
        if seat is None or own is None or not own.node:
            return Place(GONE)
        try:
            return await self._place(seat, own, None, self._until(timeout))
        except Expired:
            return Place(GONE)

    async def close(self, closings: Sequence[Closing], timeout: Seconds) -> list[bool]:
        until = self._until(timeout)
        # All are sent before any is waited for: a hundred of them cost one round trip.
        begun = [(closing, self._begin_close(closing)) for closing in closings]
        return [await self._end_close(closing, question, until) for closing, question in begun]

    def _begin_close(self, closing: Closing) -> _Question | None:
        """Send the deletion of a claim whose node is known."""
        seat = self._hub.seats.get(closing.ref.session)
        own = seat.claims.get(closing.ref.claim) if seat else None
        if own is None or not own.node or self._is_delayed(own, closing):
            return None
        return self._begin(own.berth.link, [jute.delete(own.path)])

    async def _end_close(self, closing: Closing, question: _Question | None, until: Instant) -> bool:
        ref = closing.ref
        seat = self._hub.seats.get(ref.session)
        if seat is None:
            return False
        own = seat.claims.get(ref.claim)
        try:
            if question is not None:
                [answer] = (await self._end(question, until)).answers
            elif own is not None and own.node:
                own.berth.link.remove_later(own.path, Instant(native.now() + own.berth.delay))
                answer = None
            else:
                answer = await self._remove(seat, own, ref, until)
        except Expired:
            # Its node has gone with the session.
            answer = Refusal(jute.NO_NODE)
        if isinstance(answer, Refusal) and answer.code != jute.NO_NODE:
            raise _refused(answer.code)
        if own is not None:
            self._hub.drop(seat, own)
        return answer is None

    def _is_delayed(self, own: Own, closing: Closing) -> bool:
        """Whether its name stays closed a while (B10): it was held, and nobody says that the work is done."""
        return not closing.clean and own.told and bool(own.berth.delay)

    async def _remove(self, seat: Seat, own: Own | None, ref: ClaimRef, until: Instant) -> Refusal | None:
        """Close a claim that may have arrived or not; after the `sync` it does not arrive any more (B1)."""
        link, queue = (own.berth.link if own else seat.main.link), self._layout.queue(ref.name)
        _, nodes = await self._ask(link, [jute.sync(queue), jute.children(queue)], until)
        found = [r for r in rows(_nodes(nodes)) if (r.session, r.claim) == (ref.session, ref.claim)]
        if not found:
            return Refusal(jute.NO_NODE)
        [answer] = await self._ask(link, [jute.delete(f"{queue}/{found[0].node}")], until)
        return answer if isinstance(answer, Refusal) else None

    # -- sessions ---------------------------------------------------------------------------------------------------

    async def heartbeat(self, session: str, ttl: Seconds, waiting: bool, timeout: Seconds) -> Beat:  # noqa: ARG002
        until = self._until(timeout)
        seat = self._hub.seats.get(session)
        over = Beat(SessionFacts(ttl, self._life, 0), (), over=True)
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
            return (await self._introduce(seat, berth, until)).since or Instant(0.0)
        for _ in range(TURNS_MOST):
            parts = [jute.write(berth.node)]
            if berth is seat.main:
                # A steal since the last look makes this fail, so that one message tells both.
                parts.append(jute.check(self._layout.steals(seat.card.id), seat.steals))
            batch = await self._asked(berth.link, [jute.multi(*parts)], until)
            _, code = self._fault(batch.answers[0])
            if code == jute.OK and batch.sent is not None:
                return berth.proof.answered(batch.sent, batch.since, self._hub.tick / 2)
            if code == jute.BAD_VERSION:
                [stat] = await self._ask(berth.link, [jute.exists(self._layout.steals(seat.card.id))], until)
                seat.steals = stat.version if isinstance(stat, jute.Stat) else seat.steals
            elif code == jute.NO_NODE:
                # Somebody has removed the nodes of a session that lives: nobody can say what else is gone.
                raise Expired
            else:
                raise _refused(code)
        raise OutcomeUnknown("the nodes of this session changed several times during one heartbeat")

    async def _introduce(self, seat: Seat, berth: Berth, until: Instant) -> SessionFacts:
        """Make a session's own nodes; repeating it is harmless."""
        hub, layout, is_main = self._hub, self._layout, berth is seat.main
        for _ in range(TURNS_MOST):
            await self._genesis(until, berth.link)
            berth.node = layout.session(seat.card.id, berth.serial)
            steals = layout.steals(seat.card.id)
            parts = [jute.create(berth.node, b"", hub.login, jute.EPHEMERAL)]
            more = []
            if is_main:
                parts.append(jute.create(steals, b"", hub.login, jute.EPHEMERAL))
                more.append(jute.exists(steals, watch=True))
            batch = await self._asked(berth.link, [jute.multi(*parts), *more], until)
            _, code = self._fault(batch.answers[0])
            if code in (jute.OK, jute.NODE_EXISTS) and batch.sent is not None:
                break
            if code != jute.NO_NODE:
                raise _refused(code)
            # The store is new, or was made anew.
            await self._adopt(berth.link, until)
        else:
            raise StoreUnavailable("the nodes of this namespace vanished several times during one request")
        self._check_timeout(seat, berth)
        if is_main and isinstance(batch.answers[1], jute.Stat):
            seat.steals = batch.answers[1].version
        berth.is_known = True
        return self._facts(seat, berth.proof.answered(batch.sent, batch.since, hub.tick / 2))

    def _check_timeout(self, seat: Seat, berth: Berth) -> None:
        granted, tick = berth.link.timeout, self._hub.tick
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
        period = max(ttl / BEATS_PER_TTL, self._hub.tick / 2)
        return SessionFacts(ttl, self._life, seat.steals, since, period)

    @property
    def _life(self) -> str:
        return self._hub.genesis.id if self._hub.genesis else ""

    async def standing(self, refs: Sequence[ClaimRef], timeout: Seconds) -> list[bool]:
        until = self._until(timeout)
        found: list[bool] = []
        for ref in refs:
            seat = self._hub.seats.get(ref.session)
            own = seat.claims.get(ref.claim) if seat else None
            stands = False
            if own is not None and own.node and own.number == ref.number:
                try:
                    [stat] = await self._ask(own.berth.link, [jute.exists(own.path)], until)
                    stands = (
                        isinstance(stat, jute.Stat) and stat.czxid + (await self._genesis(until)).base == ref.number
                    )
                except Expired:
                    stands = False
            found.append(stands)
        return found

    async def claims(self, session: str, timeout: Seconds) -> list[ClaimRef]:
        until = self._until(timeout)
        seat = self._hub.seats.get(session)
        found: list[ClaimRef] = []
        for berth in seat.berths if seat else ():
            try:
                found += await self._claims(berth.link, session, until)
            except Expired:
                continue
        return found[:100]

    async def _claims(self, link: Link, session: str, until: Instant) -> list[ClaimRef]:
        [paths] = await self._ask(link, [jute.ephemerals(self._layout.queues)], until)
        if isinstance(paths, Refusal):
            return []  # before ZooKeeper 3.6 nobody could tell
        base = (await self._genesis(until)).base
        paths = paths[:100]
        stats = await self._ask(link, [jute.exists(path) for path in paths], until) if paths else []
        found = []
        for path, stat in zip(paths, stats, strict=True):
            queue, _, node = path.rpartition("/")
            for row in rows([node]):
                if row.session == session and isinstance(stat, jute.Stat):
                    name = self._layout.name(queue.rpartition("/")[2])
                    found.append(ClaimRef(session, row.claim, name, stat.czxid + base))
        return found

    async def end(self, session: str, timeout: Seconds) -> None:  # noqa: ARG002 - nobody waits for it
        self._hub.end(session)

    # -- operators --------------------------------------------------------------------------------------------------

    async def inspect(self, name: str, timeout: Seconds) -> Queue:
        until = self._until(timeout)
        link = self._hub.spare()
        base = (await self._genesis(until, link)).base
        queue = self._layout.queue(name)
        _, nodes = await self._spare_ask(link, [jute.sync(queue), jute.children(queue)], until)
        found: list[Contender] = []
        listed = rows(_nodes(nodes))
        for start in range(0, len(listed), BATCH):
            some = listed[start : start + BATCH]
            answers = await self._spare_ask(link, [jute.get(f"{queue}/{row.node}") for row in some], until)
            found += [
                contender(row, answer[0], answer[1], base, holds=False)
                for row, answer in zip(some, answers, strict=True)
                if not isinstance(answer, Refusal)
            ]
        return shown(name, found)

    async def names(self, prefix: str, timeout: Seconds) -> list[str]:
        until = self._until(timeout)
        link = self._hub.spare()
        await self._genesis(until, link)
        queues = self._layout.queues
        _, nodes = await self._spare_ask(link, [jute.sync(queues), jute.children(queues)], until)
        named = [(name, node) for node in _nodes(nodes) if (name := self._layout.name(node)).startswith(prefix)]
        found: list[str] = []
        for start in range(0, len(named), BATCH):
            some = named[start : start + BATCH]
            stats = await self._spare_ask(link, [jute.exists(f"{queues}/{node}") for _, node in some], until)
            found += [
                name
                for (name, _), stat in zip(some, stats, strict=True)
                if isinstance(stat, jute.Stat) and stat.children
            ]
        return sorted(found)

    async def steal(self, name: str, number: int, timeout: Seconds) -> bool:
        until = self._until(timeout)
        link = self._hub.spare()
        genesis = await self._genesis(until, link)
        queue = self._layout.queue(name)
        _, nodes = await self._spare_ask(link, [jute.sync(queue), jute.children(queue)], until)
        listed = rows(_nodes(nodes))
        if not listed:
            return False
        stats = await self._spare_ask(link, [jute.exists(f"{queue}/{row.node}") for row in listed], until)
        for row, stat in zip(listed, stats, strict=True):
            if isinstance(stat, jute.Stat) and stat.czxid + genesis.base == number:
                # A node's name is used once, so that to delete it is to compare (B9).
                robbed = [jute.delete(f"{queue}/{row.node}"), jute.write(self._layout.steals(row.session))]
                [answer] = await self._spare_ask(link, [jute.multi(*robbed)], until)
                part, code = self._fault(answer)
                if (part, code) == (1, jute.NO_NODE):
                    # Its session is over already, and it only stayed for its lock_delay: nobody is to be told.
                    [answer] = await self._spare_ask(link, [robbed[0]], until)
                    code = answer.code if isinstance(answer, Refusal) else jute.OK
                if code not in (jute.OK, jute.NO_NODE):
                    raise _refused(code)
                return code == jute.OK
        return False

    async def authority(self, timeout: Seconds) -> str:
        until = self._until(timeout)
        link = self._hub.spare()
        try:
            await self._adopt(link, until)
        except Expired as error:
            raise StoreUnavailable("the session for this question has ended") from error
        return f"zookeeper:{self._life}"

    # -- genesis ----------------------------------------------------------------------------------------------------

    async def _genesis(self, until: Instant, link: Link | None = None) -> Genesis:
        while self._hub.genesis is None:
            await self._adopt(link or self._hub.spare(), until)
        return self._hub.genesis

    async def _adopt(self, link: Link, until: Instant) -> None:
        """Read the genesis record, making it if there is none, and go by it from now on."""
        layout, login = self._layout, self._hub.login
        for _ in range(TURNS_MOST):
            _, answer = await self._ask(link, [jute.sync(layout.root), jute.get(layout.root)], until)
            if isinstance(answer, Refusal) and answer.code != jute.NO_NODE:
                raise _refused(answer.code)
            if not isinstance(answer, Refusal) and answer[0]:
                found = self._checked(answer[0])
                layout.adopt(found)
                self._hub.genesis = found
                self._hub.parents.clear()
                return
            # None yet, or a node that an administrator has made for us. All of it at once, or none: another client
            # may be at it.
            new = Genesis(FORMAT, native.new_id(), 0)
            layout.adopt(new)
            if isinstance(answer, Refusal):
                record = jute.create(layout.root, new.data, login)
            else:
                record = jute.write(layout.root, new.data, answer[1].version)
            folders = [jute.create(path, b"", login) for path in (layout.tree, layout.sessions, layout.queues)]
            above = [jute.create(path, b"", login) for path in layout.above()]
            *made, done = await self._ask(link, [*above, jute.multi(record, *folders)], until)
            _, code = self._fault(done)
            if code == jute.NO_NODE:
                code = next((a.code for a in made if isinstance(a, Refusal) and a.code != jute.NODE_EXISTS), code)
            if code not in (jute.OK, jute.NODE_EXISTS, jute.BAD_VERSION):
                raise _refused(code)
        raise StoreUnavailable("the genesis record vanished several times during one request; nothing was changed")

    def _checked(self, data: bytes) -> Genesis:
        found = read_genesis(data)
        if found is None or found.format not in SPOKEN:
            what = "is none of tenure's" if found is None else f"has format {found.format}"
            raise IncompatibleStore(
                f"the record {self._layout.root} {what}, and this release speaks {SPOKEN}; "
                "use another namespace, or a newer release of tenure",
                in_force=found.format if found else None,
                spoken=SPOKEN,
            )
        return found

    # -- asking -----------------------------------------------------------------------------------------------------

    def _until(self, timeout: Seconds) -> Instant:
        return Instant(self._runtime.now() + timeout)

    async def _ask(self, link: Link, requests: Sequence[jute.Request], until: Instant) -> list[Any]:
        return (await self._asked(link, requests, until)).answers

    async def _spare_ask(self, link: Link, requests: Sequence[jute.Request], until: Instant) -> list[Any]:
        try:
            return await self._ask(link, requests, until)
        except Expired as error:
            raise StoreUnavailable("the session for this question has ended") from error

    async def _asked(self, link: Link, requests: Sequence[jute.Request], until: Instant) -> Batch:
        """Send requests in one write and wait for all answers.

        Raises:
            StoreUnavailable: nothing was sent.
            OutcomeUnknown: something was, and not every answer came.
            Expired: the session is over.
        """
        return await self._end(self._begin(link, requests), until)

    def _begin(self, link: Link, requests: Sequence[jute.Request]) -> _Question:
        signal = self._runtime.signal()
        batch = Batch(requests, signal.set)
        link.submit(batch)
        return _Question(link, batch, signal, self._runtime.now())

    async def _end(self, question: _Question, until: Instant) -> Batch:
        link, batch, signal, begun = question
        while not batch.is_done:
            await signal.wait(until)
            if not batch.is_done and self._runtime.now() >= until:
                link.give_up(batch, until - begun)
        if batch.error is not None:
            raise batch.error
        return batch

    @staticmethod
    def _fault(answer: Any) -> tuple[int, int]:
        """Of a multi: which part was at fault, and its code."""
        return (-1, answer.code) if isinstance(answer, Refusal) else jute.refused(answer)


def _nodes(answer: Any) -> list[str]:
    """A listing; that of a node which is not there is empty."""
    if isinstance(answer, Refusal):
        if answer.code == jute.NO_NODE:
            return []
        raise _refused(answer.code)
    found: list[str] = answer
    return found


def _refused(code: int) -> Exception:
    """What a refusal means for whoever asked."""
    if code in (jute.NO_AUTH, jute.AUTH_FAILED):
        return UnsafeSetup("ZooKeeper: this user has no right to the nodes of this namespace; nothing was changed")
    if code == jute.UNIMPLEMENTED:
        return UnsafeSetup("ZooKeeper: this server is older than 3.5.3, which has no containers; nothing was changed")
    if code in (jute.THROTTLED, jute.QUOTA_EXCEEDED):
        return StoreUnavailable(f"ZooKeeper refused the request ({code}): too much is asked of it, or a quota is full")
    return OutcomeUnknown(f"ZooKeeper answered with error {code}")
