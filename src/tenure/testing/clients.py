"""The simulated client: the shipped ledger and keeper, and callers that use the shipped protocols as `Client` does.

Promises: what a caller believes is read from the ledger after each thing that happens to its process, and ends when its
clock, a loss or a release ends it, whichever comes first; a paused process's beliefs end by its clock.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from tenure.errors import OutcomeUnknown, StoreUnavailable, UsageError
from tenure.model import EXCLUSIVE, SHARED, Instant, Kind, LeaseState, Mode
from tenure.observe.events import Lost
from tenure.ports import SessionCard
from tenure.protocols.claim import Ask, acquire, release
from tenure.protocols.keep import Stop, keep
from tenure.protocols.lease import worth
from tenure.protocols.ledger import Ledger
from tenure.protocols.records import NEVER, Claim, Phase
from tenure.protocols.several import acquire_all, in_order, release_all
from tenure.testing.history import FOREVER, Ending, Group, Held, Outrun
from tenure.testing.network import SimMailbox, SimStore
from tenure.testing.runtime import SimInbox, SimRuntime
from tenure.testing.world import Cancelled, Process, Task

if TYPE_CHECKING:
    from random import Random

    from tenure.observe.events import Event
    from tenure.testing.faults import Plan
    from tenure.testing.history import History
    from tenure.testing.network import Network
    from tenure.testing.world import World


@dataclasses.dataclass(slots=True)
class Watched:
    """A claim of a client, and what its caller believes of it."""

    claim: Claim
    asked: float
    max_hold: float | None
    record: Held | None = None
    deadline: Instant = NEVER
    closed: float = FOREVER
    has_vanished: bool = False


class SimClient:
    """One client process."""

    def __init__(self, world: World, network: Network, history: History, plan: Plan, name: str) -> None:
        self.world, self.network, self.history, self.plan, self.name = world, network, history, plan, name
        self.rng = world.rng
        self.process = Process(world, name, 1.0 + (self.rng.random() - 0.5) * 0.008, self.rng.random() * 1000)
        self.process.after = self.observe
        self.runtime = SimRuntime(self.process)
        self.inbox: SimInbox[object] = SimInbox(self.process)
        self.mailbox = SimMailbox(self.process, network, self.runtime.signal())
        self.ledger = Ledger(self.runtime, self.inbox, self.mailbox, self._card, self._on_event)
        if plan.parts > 1:
            self.ledger.part = lambda name: f".{sum(name.encode()) % plan.parts}"
        self.ledger.watched = True
        network.mailboxes[name] = self.mailbox
        self.store = SimStore(self.process, network, name)
        self.keeper = Task(self.process, f"{name}.keeper", keep(self.ledger, SimStore(self.process, network, name)))
        self.keeper.may_starve = False
        self.watched: list[Watched] = []
        self.claims: list[Watched] = []
        self.is_stopping = False
        self.is_anchored = False
        self.is_calm = False
        self.is_closed = False
        self.callers: list[Task] = []
        self.anchor: Task | None = None
        self.vanished = False

    def start(self, *, anchored: bool) -> None:
        """Start the callers; with an anchor the session lives on, so that nothing hides behind its end."""
        for index in range(self.plan.callers):
            self.callers.append(Task(self.process, f"{self.name}.{index}", self._calls(index)))
        self.is_anchored = anchored
        if anchored:
            self.anchor = Task(self.process, f"{self.name}.anchor", self._anchors())

    # -- faults ------------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """Die as by `kill -9`."""
        self.observe()
        self.process.crash()
        for watched in self.watched:
            self._end(watched, self.world.time, Ending.CRASHED)
            watched.closed = min(watched.closed, self.world.time)
        self.mailbox.crashed_at = self.world.time
        self.network.died(self.name)

    def close(self) -> None:
        """As `Client.close`: the keeper closes everything and ends."""
        self.is_closed = self.is_stopping = True
        self.ledger.closing = True
        self.inbox.put(Stop())

    # -- what a caller does ------------------------------------------------------------------------------------------

    async def _calls(self, index: int) -> None:
        while not self.is_stopping:
            await self.runtime.sleep(self.rng.expovariate(1.0) * self.rng.choice((0.02, 0.3, 1.0)) * self.plan.ttl / 3)
            if not self.is_stopping:
                several = self.plan.together and self.rng.random() < 0.5
                await (self._round_of_several if several else self._round)(self.callers[index])

    async def _round(self, task: Task) -> None:
        ask, wait = self._ask()
        until = None if wait is None else Instant(self.runtime.now() + wait)
        mine: list[Claim] = []
        asked = self.world.time

        def adopt(claim: Claim) -> None:
            mine[:] = [claim]
            watched = Watched(claim, asked, ask.max_hold)
            self.watched.append(watched)
            self.claims.append(watched)

        self._doom(task, wait, mine)
        try:
            claim = await acquire(self.ledger, self.store, ask, until, wait == 0, adopt)
            if claim is None:
                self.history.counts["not granted"] += 1
                return
            self.history.counts["waited"] += self.world.time - asked > 0.5
            await self._hold(claim)
            if self._dices("vanish", 0.03):
                self._drop(claim)
            elif claim.lost is None and claim.phase is not Phase.CLOSED:
                await release(self.ledger, self.store, claim)
                self.history.counts["released"] += 1
        except Cancelled:
            self.history.counts["cancelled"] += 1
            if mine and mine[0].phase is not Phase.CLOSED:
                self.inbox.put(mine[0])
        except (StoreUnavailable, OutcomeUnknown):
            self.history.counts["failed"] += 1
            await self.runtime.sleep(0.2)
        except UsageError:
            if not self.ledger.closing:
                raise
        finally:
            task.is_doomed = False

    async def _round_of_several(self, task: Task) -> None:
        """As `_round`, with two or three names at once."""
        wait = self.rng.choice((0.0, 0.5, 1.5, 3.0, None)) if self.is_calm else self.rng.choice((0.0, 0.5, 1.5, 3.0))
        until = None if wait is None else Instant(self.runtime.now() + wait * self.plan.ttl)
        names = self.rng.sample(("a", "b", "c"), self.rng.randint(2, 3))
        asks = in_order(self.ledger, [Ask(name, EXCLUSIVE) for name in names])
        mine: list[Claim] = []
        asked = self.world.time

        def adopt(_: int, claim: Claim) -> None:
            mine.append(claim)
            watched = Watched(claim, asked, None)
            self.watched.append(watched)
            self.claims.append(watched)

        if self._dices("cancel", 0.15):
            self.world.after(self.rng.random() ** 3 * self.plan.ttl, self.process, task.cancel)
        try:
            claims = await acquire_all(self.ledger, self.store, asks, until, wait == 0, adopt)
            if not isinstance(claims, list):
                self.history.counts["not granted"] += 1
                return
            self.history.counts["several granted"] += 1
            self.history.groups.append(Group(self.world.time, [(c.session.card.id, c.id) for c in claims]))
            await self._hold(claims[0])
            await release_all(self.ledger, self.store, claims)
        except Cancelled:
            self.history.counts["cancelled"] += 1
            # As the ends of the handles do.
            for claim in mine:
                if claim.phase is not Phase.CLOSED:
                    self.inbox.put(claim)
        except (StoreUnavailable, OutcomeUnknown):
            self.history.counts["failed"] += 1
            await self.runtime.sleep(0.2)
        except UsageError:
            if not self.ledger.closing:
                raise

    def _doom(self, task: Task, wait: float | None, mine: list[Claim]) -> None:
        """Decide what befalls this round."""
        if self._dices("cancel", 0.1):
            self.world.after(self.rng.random() ** 3 * (wait or self.plan.ttl), self.process, task.cancel)
        elif self._dices("cancel", 0.06):
            task.is_doomed = True
        elif self._dices("vanish", 0.015):
            self.world.after(self.rng.random() ** 2 * (wait or self.plan.ttl), self.process, self._vanish, task, mine)

    def _vanish(self, task: Task, mine: list[Claim]) -> None:
        # A thread that hangs while it holds keeps the name: that is max_hold's business, not a fault.
        if not task.is_done and mine and mine[0].phase in (Phase.ENTERING, Phase.WAITING, Phase.GRANTED):
            self.history.counts["vanished"] += 1
            self.world.note(self.name, "vanishes", task.name)
            self.vanished = True
            for watched in self.watched:
                watched.has_vanished = watched.has_vanished or watched.claim is mine[0]
            task.vanish()

    def _drop(self, claim: Claim) -> None:
        """Its lease is garbage-collected unreleased, as `Lease.__del__` tells the keeper."""
        for watched in self.watched:
            if watched.claim is claim and watched.record is not None:
                watched.record.dropped = True
        self.inbox.put(claim)

    def _dices(self, kind: str, chance: float) -> bool:
        return not self.is_calm and kind in self.plan.kinds and self.rng.random() < chance

    async def _hold(self, claim: Claim) -> None:
        ttl, rng = self.plan.ttl, self.rng
        length = ttl * rng.choice((0.001, 0.02, 0.1, 0.3, 1.0, 1.3)) * (0.3 + rng.random())
        slices = rng.randint(1, 3)
        for _ in range(slices):
            await self.runtime.sleep(length / slices)
            if worth(self.ledger, claim) in (LeaseState.LOST, LeaseState.RELEASED) or self.is_stopping:
                return

    async def _anchors(self) -> None:
        """Hold a name of one's own to the end, so that the session never goes idle."""
        ask = Ask(f"anchor {self.name}", EXCLUSIVE)
        while not self.is_closed:
            try:
                claim = await acquire(self.ledger, self.store, ask, None, at_once=False, adopt=self._adopt_anchor)
            except (StoreUnavailable, OutcomeUnknown):
                await self.runtime.sleep(0.3)
                continue
            except UsageError:
                return
            while claim is not None and worth(self.ledger, claim) in (LeaseState.HELD, LeaseState.SUSPECT):
                await self.runtime.sleep(self.plan.ttl / 5)

    def _adopt_anchor(self, claim: Claim) -> None:
        watched = Watched(claim, self.world.time, None)
        self.watched.append(watched)
        self.claims.append(watched)

    def _ask(self) -> tuple[Ask, float | None]:
        rng, ttl = self.rng, self.plan.ttl
        modes = rng.choice(("exclusive", "shared", "permits")) if self.plan.modes == "all" else self.plan.modes
        wait = rng.choice((0.0, 0.1, 0.5, 1.5, 3.0, None)) if self.is_calm else rng.choice((0.0, 0.1, 0.5, 1.5, 3.0))
        ask = Ask(
            rng.choice(("a", "a", "b")),
            draw_mode(rng, modes),
            delay=ttl * rng.random() if rng.random() < 0.12 else 0.0,
            max_hold=ttl * (0.1 + rng.random()) if rng.random() < 0.12 else None,
        )
        return ask, None if wait is None else wait * ttl

    # -- what it sees ------------------------------------------------------------------------------------------------

    def _card(self, session: str) -> SessionCard:
        return SessionCard(session, self.plan.ttl, self.name, "", self.name, 0)

    def _on_event(self, event: Event) -> None:
        self.history.counts[type(event).__name__] += 1
        self.world.note(self.name, "event", type(event).__name__, event)
        if isinstance(event, Lost):
            self.history.counts[f"lost: {event.reason.name.lower()}"] += 1

    def observe(self) -> None:
        """Note what the callers believe now."""
        now = self.process.now()
        for watched in tuple(self.watched):
            claim, record = watched.claim, watched.record
            if record is None:
                if claim.phase is Phase.HELD:
                    self._begin(watched)
                elif claim.phase is Phase.CLOSED:
                    self._closed(watched)
                continue
            if record.ending is Ending.OPEN:
                self._follow(watched, now)
            if record.ending is not Ending.OPEN:
                if claim.phase is Phase.HELD and claim.lost is None and now < claim.deadline:
                    record.revived = True
                record.reason = claim.lost
                if claim.phase is Phase.CLOSED:
                    self._closed(watched)

    def _follow(self, watched: Watched, now: Instant) -> None:
        claim = watched.claim
        if now >= watched.deadline:
            # Whatever has moved it since: its holder, asking in between, had heard that it is over.
            self._end(watched, self.process.true(watched.deadline), Ending.DEADLINE)
        elif claim.lost is not None:
            self._end(watched, self.world.time, Ending.LOST)
        elif claim.phase is Phase.CLOSED:
            self._end(watched, self.world.time, Ending.RELEASED)
        elif watched.deadline != claim.deadline:
            watched.deadline = claim.deadline
            self._compare(claim)

    def _closed(self, watched: Watched) -> None:
        watched.closed = self.world.time
        self.watched.remove(watched)

    def _begin(self, watched: Watched) -> None:
        claim, time = watched.claim, self.world.time
        record = watched.record = Held(
            self.name,
            claim.session.card.id,
            claim.id,
            claim.name,
            claim.mode,
            claim.number,
            claim.floor,
            watched.asked,
            self.process.true(claim.granted_at),
            time,
            delay=claim.delay,
            limit=None if watched.max_hold is None else watched.max_hold / self.process.rate,
            left=(claim.session.deadline - claim.granted_at) / claim.session.ttl,
        )
        watched.deadline = claim.deadline
        self._compare(claim)
        self.history.held.append(record)
        self.history.counts["grants"] += 1
        self.world.note(self.name, "holds", f"{claim.name} {claim.number % 10**8} {claim.mode.kind}", claim.deadline)

        def told() -> None:
            if record.told_loss is None:
                record.told_loss = self.world.time

        claim.on_lost.append(told)

    def _compare(self, claim: Claim) -> None:
        """Note a deadline that lies behind what the engine granted; after a disaster nothing can be said."""
        row = self.network.server.tables.session(claim.session.card.id)
        if row is not None and not row.ended and not self.history.disasters:
            by = self.process.true(claim.deadline) - self.network.server.true(row.until_us)
            if by > 0:
                self.history.outruns.append(Outrun(self.world.time, self.name, row.id, by))

    def _end(self, watched: Watched, at: float, ending: Ending) -> None:
        record = watched.record
        if record is not None and record.ending is Ending.OPEN:
            record.ended, record.ending, record.reason = at, ending, watched.claim.lost
            self.world.note(self.name, "held until", f"{record.name} {record.number % 10**8} {ending.value}", at)

    def wanted(self) -> set[tuple[str, int]]:
        """The claims that somebody here holds or waits for: session and claim."""
        if not self.process.is_alive or self.is_closed:
            return set()
        return {
            (watched.claim.session.card.id, watched.claim.id)
            for watched in self.watched
            if not watched.has_vanished and watched.claim.phase is not Phase.CLOSED
        }

    def finish(self) -> None:
        """Write down at the end what is known of each claim."""
        if self.process.is_alive:
            self.observe()
        self.history.pauses[self.name] = self.process.pauses
        index = {(p.session, p.claim): p for p in self.history.places.values() if p.session.startswith(self.name + ".")}
        for watched in self.claims:
            claim = watched.claim
            place = index.get((claim.session.card.id, claim.id))
            if place is not None:
                # A thread that was killed while it read the mailbox leaves the others of its client to their heartbeat.
                place.dropped = 0.0 if self.vanished else min(place.dropped, watched.closed)
                if claim.granted_at != NEVER:
                    place.learnt = self.process.true(claim.granted_at)


def draw_mode(rng: Random, modes: str) -> Mode:
    """A mode for a run in which a name is used exclusively, shared, or by permits."""
    if modes == "permits":
        limit = rng.choice((2, 3, 3, 5))
        return Mode(Kind.PERMITS, rng.randint(1, min(limit, 3)), limit)
    return SHARED if modes == "shared" and rng.random() < 0.6 else EXCLUSIVE
