"""What callers, keeper and mailbox of one client share: its sessions and claims, and the watches on those of others.

Promises: a waiting claim watches the claims that together prove it blocked (B6) and nothing else; when one of them
goes, the thread that hears it reads the queue and posts the grant, so that no caller wakes in vain.
Does not promise that a watch tells of the present: a grant is worth as long as its session's deadline, and no longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tenure.engines.listing import Stand, stand
from tenure.engines.zookeeper import jute
from tenure.engines.zookeeper.layout import Row, ahead, rows
from tenure.engines.zookeeper.link import Link
from tenure.engines.zookeeper.seat import TICKS_LEAST, Berth, Own, Seat
from tenure.engines.zookeeper.wire import Batch
from tenure.model import EXCLUSIVE
from tenure.ports import Message, SessionCard
from tenure.runtimes import native

if TYPE_CHECKING:
    from tenure.engines.zookeeper.dial import Dialer
    from tenure.engines.zookeeper.layout import Genesis, Layout
    from tenure.engines.zookeeper.mailbox import ZooKeeperMailbox
    from tenure.model import Seconds

SPARE_S: Final = 30.0
"""The timeout that a session for questions asks for: the default ttl, so that the first claim can have it."""

SPARE_IDLE_S: Final = 1.0
"""How long it is kept when nothing is asked."""

PARENTS_MOST: Final = 10_000
"""How many containers are remembered as made."""

LOOK: Final = Message("", 0, 0, 0)


class _Watched:
    """A node whose end somebody waits for; the server watches it for us once `is_sent`, also when nobody waits."""

    __slots__ = ("is_sent", "owners")

    def __init__(self) -> None:
        self.owners: dict[Own, None] = {}
        self.is_sent = False


class Hub:
    """One client's sessions and claims."""

    def __init__(self, dialer: Dialer, layout: Layout) -> None:
        self.dialer = dialer
        self.layout = layout
        self.genesis: Genesis | None = None
        self.mailbox: ZooKeeperMailbox | None = None
        self.parents: dict[str, None] = {}
        self.seats: dict[str, Seat] = {}
        self._links: list[Link] = []
        self._spare: Link | None = None
        self._watches: dict[tuple[Link, str], _Watched] = {}
        self._mutex = native.mutex()
        self._is_shut = False

    @property
    def tick(self) -> Seconds:
        """The servers', as the URL says."""
        return self.dialer.url.tick

    @property
    def login(self) -> Any:
        """Whose nodes ours are."""
        return self.dialer.url.login

    # -- sessions ---------------------------------------------------------------------------------------------------

    def spare(self) -> Link:
        """A session for questions: one that is there, or a new one."""
        with self._mutex:
            for seat in reversed(list(self.seats.values())):
                if not seat.main.link.over and seat.main.is_known:
                    return seat.main.link
            if self._spare is None or self._spare.is_leaving:
                self._spare = self._link(SPARE_S)
                self._spare.linger = SPARE_IDLE_S
            return self._spare

    def seat(self, card: SessionCard, *, opening: bool) -> Seat | None:
        """The session of a card; opened if need be and allowed."""
        with self._mutex:
            found = self.seats.get(card.id)
            if found is not None and found.main.link.over and found.main.link.first is None:
                # It was never there: no server could be reached then.
                found = None
            if found is None and opening and not self._is_shut:
                asked = max(card.ttl, TICKS_LEAST * self.tick)
                link, self._spare = self._spare, None
                # It may be a second old, and its deadline counts from its own beginning.
                if link is None or asked != SPARE_S or not link.keep():
                    link = self._link(asked)
                found = self.seats[card.id] = Seat(card, Berth(link, 0, 0.0))
                self.seats = {k: s for k, s in self.seats.items() if s is found or s.claims or not s.main.link.over}
            return found

    def berth(self, seat: Seat, delay: Seconds) -> Berth:
        """The session for claims with a lock_delay: longer than the client's own by it (B10)."""
        if not delay:
            return seat.main
        with self._mutex:
            found = seat.delayed.get(delay)
            if found is None or not found.link.keep():
                seat.serial += 1
                link = self._link(max(seat.card.ttl, TICKS_LEAST * self.tick) + delay)
                found = seat.delayed[delay] = Berth(link, seat.serial, delay)
            return found

    def _link(self, timeout: Seconds) -> Link:
        link = Link(self.dialer, timeout)
        link.on_event = lambda event: self._heard(link, event)
        link.on_return = lambda: self._returned(link)
        self._links = [known for known in self._links if not known.over]
        self._links.append(link)
        self._watches = {key: node for key, node in self._watches.items() if not key[0].over}
        return link

    def end(self, session: str) -> None:
        """End a session. What must keep its name closed longer is left to end by itself (B10)."""
        with self._mutex:
            seat = self.seats.pop(session, None)
        for berth in seat.berths if seat else ():
            told = any(own.berth is berth and own.told for own in list(seat.claims.values())) if seat else False
            if not (berth.delay and (told or berth.link.has_chores)):
                berth.link.close()

    def shut(self) -> None:
        """End everything that was not ended before."""
        self._is_shut = True
        for session in list(self.seats):
            self.end(session)
        if self._spare is not None:
            self._spare.close()

    def disown(self) -> None:
        """In a forked child: let go of the parent's connections without a word."""
        for link in self._links:
            link.disown()

    # -- claims -----------------------------------------------------------------------------------------------------

    def drop(self, seat: Seat, own: Own) -> None:
        """A claim is no more; its watches, which cost nobody anything, wait for somebody else."""
        with self._mutex:
            own.waits = False
            if seat.claims.get(own.claim) is own:
                del seat.claims[own.claim]
            for path in own.watched:
                self._forget(own, path)

    def stand(self, own: Own, nodes: list[str]) -> tuple[Stand[Row], Row | None] | None:
        """Where a claim stands in a listing, and the first of its co-holders if it is another; None if it is gone.

        Sets the watches of one that waits.
        """
        front = ahead(nodes, own.node, own.mode)
        if front is None:
            own.waits = False
            return None
        found = stand(front, 0, own.mode)
        if found.blockers:
            own.waits = True
            self._arm(own, {f"{own.queue}/{row.node}" for row in found.blockers})
            return found, None
        own.waits = False
        own.told = True
        return found, front[0] if front else None

    def stand_behind(self, own: Own, nodes: list[str]) -> Stand[Row]:
        """Where a claim would stand that came now."""
        return stand(rows(nodes), 0, own.mode)

    def remember(self, queue: str) -> None:
        """A container was there."""
        if queue not in self.parents:
            if len(self.parents) >= PARENTS_MOST:
                self.parents.clear()
            self.parents[queue] = None

    # -- watches ----------------------------------------------------------------------------------------------------

    def _arm(self, own: Own, paths: set[str]) -> None:
        link = own.berth.link
        new = []
        with self._mutex:
            for path in own.watched - paths:
                self._forget(own, path)
            for path in paths:
                node = self._watches.setdefault((link, path), _Watched())
                node.owners[own] = None
                if not node.is_sent:
                    new.append((path, node))
            own.watched = set(paths)
        for path, node in new:
            # A look at the data, as a watch on a node's existence would stay behind where there is none.
            self._then(link, jute.get(path, watch=True), lambda answer, path=path: self._armed(link, path, answer))
            # Only now: if Ctrl-C came before, the next who waits sends it again.
            node.is_sent = True

    def _forget(self, own: Own, path: str) -> None:
        node = self._watches.get((own.berth.link, path))
        if node is not None:
            node.owners.pop(own, None)

    def _armed(self, link: Link, path: str, answer: object) -> None:
        if isinstance(answer, jute.Refusal):
            self._gone(link, path)

    def _heard(self, link: Link, event: jute.Event) -> None:
        """A watch fired; in the link's thread."""
        if event.path.startswith(self.layout.sessions):
            # Something of ours was stolen. Who waits looks; what is held, the keeper finds out (A2).
            self._then(link, jute.exists(event.path, watch=True), lambda _: None)
            self.post(LOOK)
        elif event.path:
            self._gone(link, event.path, released=event.type == jute.CHANGED)

    def _gone(self, link: Link, path: str, *, released: bool = False) -> None:
        """A claim has gone; `released` by one that held its name alone, so that who is next holds it (B4)."""
        with self._mutex:
            node = self._watches.pop((link, path), _Watched())
            for own in node.owners:
                own.watched.discard(path)
        for own in node.owners:
            if own.waits and released and own.mode == EXCLUSIVE:
                own.waits = False
                own.told = True
                self.post(Message(own.session, own.claim, own.number, own.number))
            elif own.waits:
                self._look(own)

    def _returned(self, link: Link) -> None:
        """Connected anew: the server watches nothing for us any more."""
        with self._mutex:
            self._watches = {key: node for key, node in self._watches.items() if key[0] is not link}
            seats = [seat for seat in self.seats.values() if any(b.link is link for b in seat.berths)]
            waiting = [own for seat in seats for own in seat.claims.values() if own.waits and own.berth.link is link]
            for own in waiting:
                own.watched = set()
        for seat in seats:
            if seat.main.link is link:
                self._then(link, jute.exists(self.layout.steals(seat.card.id), watch=True), lambda _: None)
        for own in waiting:
            self._look(own)

    def _look(self, own: Own) -> None:
        self._then(own.berth.link, jute.children(own.queue), lambda answer: self._looked(own, answer))

    def _looked(self, own: Own, answer: object) -> None:
        found = None if isinstance(answer, jute.Refusal) else self.stand(own, answer)  # type: ignore[arg-type]
        if found is None:
            self.post(Message(own.session, own.claim, 0, 0))
            return
        where, first = found
        if where.blockers:
            return
        if first is None:
            self.post(Message(own.session, own.claim, own.number, own.number))
            return
        base = self.genesis.base if self.genesis else 0

        def know(answer: object) -> None:
            if isinstance(answer, jute.Stat):
                self.post(Message(own.session, own.claim, own.number, answer.czxid + base))
            else:
                self._look(own)

        self._then(own.berth.link, jute.exists(f"{own.queue}/{first.node}"), know)

    def post(self, message: Message) -> None:
        """Put a message into this client's mailbox."""
        if self.mailbox is not None:
            self.mailbox.post(message)

    def _then(self, link: Link, request: jute.Request, do: Any) -> None:
        """Ask without waiting. What is not answered is made good when there is a new connection."""

        def done() -> None:
            if batch.error is None:
                do(batch.answers[0])

        batch = Batch([request], done)
        link.submit(batch)
