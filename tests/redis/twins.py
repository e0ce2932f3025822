"""Twins: the same random steps on a real server's Lua and on `tenure.engines.queue.Steps`, compared one by one.

The server's clock is moved meanwhile, so that sessions end in the middle.
"""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any, Final

from tenure.engines.mail import decode
from tenure.engines.memory import MemoryTables
from tenure.engines.queue import At, Steps
from tenure.engines.redis.life import Life
from tenure.engines.redis.store import RedisStore
from tenure.model import EXCLUSIVE, SHARED, Kind, Mode
from tenure.ports import Beat, ClaimRef, Closing, Entry, Message, Place, SessionCard
from tenure.runtimes import native
from tenure.runtimes.blocking import run

if TYPE_CHECKING:
    from tenure.ports import QueueStore
    from tests.redis.rig import SocketWire
    from tests.servers.clock import Clock
    from tests.servers.redis import RedisServer

SESSIONS: Final = ("anne", "bob", "carol", "dora")
NAMES: Final = ("n", "a name with spaces: {braces}")
TTL: Final = 60.0
DELAY: Final = 25.0
JUMP: Final = 20.0
SWEEPER: Final = "sweeper"
AGES: Final = 1e6

STEPS: Final = 60

_serial = itertools.count(1)


class Twins:
    """One step after the other on both, compared."""

    def __init__(self, server: RedisServer, wire: SocketWire, seed: int, *, plain: bool = False) -> None:
        """Set both up; `plain`: with plain keys beside the queues, which nobody else touches."""
        namespace = f"twins-{next(_serial)}"
        store = RedisStore(wire, namespace, Life(f"{namespace} {{name}}" if plain else ""), native.now)
        run(store.authority(5.0))
        self.wire = wire
        self.begin(store, server.clock, f"{namespace}:", seed)

    def begin(self, store: QueueStore, clock: Clock, prefix: str, seed: int) -> None:
        """Set both up; a store that is no Redis begins here."""
        self.random = random.Random(seed)  # noqa: S311 - which steps to take
        self.usual = self.random.random() < 0.5
        """Whether most requests are of the kind that the scripts have a way of its own for."""
        self.store = store
        self.clock = clock
        self.prefix = prefix
        self.steps = Steps(MemoryTables())
        self.ahead = 0.0
        self.ours: dict[int, tuple[str, int]] = {0: ("", 0)}
        """Whose a number of Redis is."""
        self.model: dict[int, tuple[str, int]] = {0: ("", 0)}
        self.refs: dict[tuple[str, int], tuple[ClaimRef, ClaimRef]] = {}
        self.entries: dict[tuple[str, int], Entry] = {}
        self.last = dict.fromkeys(SESSIONS, 0)
        self.ids = {name: name for name in SESSIONS}
        self.opened: set[str] = set()
        self.stolen: dict[tuple[str, bool], int] = {}
        self.trace: list[str] = []
        entry = Entry(
            SessionCard(SWEEPER, AGES, "", "", "", 1), True, False, 1, self.prefix, SHARED, 0.0, "", False, False
        )
        run(self.store.enter(entry, 5.0))
        self.steps.enter(self.at(), entry)
        closing = Closing(ClaimRef(SWEEPER, 1, self.prefix, 0), False, True, False, AGES)
        run(self.store.close([closing], 5.0))
        self.steps.close(self.at(), [closing])

    def at(self) -> At:
        wall = int((native.utc() + self.ahead) * 1e6)
        return At(wall, wall, native.now())

    def same(self, what: str, ours: object, theirs: object) -> None:
        assert ours == theirs, "\n".join([*self.trace[-12:], what, f"server: {ours}", f"model: {theirs}"])

    def live(self) -> None:
        """Take so many steps that each kind comes up often."""
        for _ in range(STEPS):
            self.step()

    def step(self) -> None:
        kinds = (
            self.enter,
            self.look,
            self.close,
            self.heartbeat,
            self.end,
            self.steal,
            self.read,
            self.jump,
            self.late,
        )
        self.random.choices(kinds, (30, 10, 20, 8, 2, 3, 4, 3, 1))[0]()
        self.same("mail", self.our_mail(), self.model_mail())

    def ref(self) -> tuple[ClaimRef, ClaimRef] | None:
        return self.random.choice(list(self.refs.values())) if self.refs else None

    def session(self) -> str:
        """One of the sessions. Its id is used once: one that is over is followed by another."""
        name = self.random.choice(SESSIONS)
        row = self.steps.tables.session(self.ids[name])
        over = row is None or row.ended or row.until_us <= self.at().now_us
        # How long a record outlives its session is each one's own affair.
        both = row is not None and self.is_kept(self.ids[name])
        if over and self.ids[name] in self.opened and (not both or self.random.random() < 0.5):
            self.ids[name] += "+"
            self.last[self.ids[name]] = 0
        return self.ids[name]

    def is_kept(self, session: str) -> bool:
        """Whether the server still has the record of a session."""
        return self.wire.ask(("EXISTS", f"{{{self.prefix[:-1]}:0}}:s:{session}")) == [1]

    def address(self, name: str) -> str:
        """Where a session's mail goes."""
        return f"at-{name}"

    # -- steps ------------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        pick = self.random
        session, name = self.session(), self.prefix + pick.choice(NAMES)
        again = pick.random() < 0.15 and self.last[session] > 0
        if not again:
            self.last[session] += 1
        claim = self.last[session]
        limit = pick.choice((2, 3, 4))
        mode = pick.choice((EXCLUSIVE, SHARED, Mode(Kind.PERMITS, pick.randint(1, limit), limit)))
        usual = self.usual and pick.random() < 0.8
        if usual:
            mode = EXCLUSIVE
        entry = Entry(
            SessionCard(session, TTL, self.address(session.rstrip("+")), "client", "host", 7),
            pick.random() < (0.0 if usual and session in self.opened else 0.7),
            not usual and pick.random() < 0.3,
            claim,
            name,
            mode,
            pick.choice((0.0, 0.0, 0.0, DELAY)),
            pick.choice(("", "an info text")),
            pick.random() < 0.2,
            again,
        )
        # A repeat is the same request, but for what it knows of its session.
        first = self.entries.setdefault((session, claim), entry)
        # Or somebody on the way has sent it twice, and nobody knows.
        entry = first._replace(opening=entry.opening, extend=entry.extend, again=again and pick.random() < 0.7)
        name = entry.name
        self.trace.append(f"enter {entry}")
        ours, theirs = run(self.store.enter(entry, 5.0)), self.steps.enter(self.at(), entry)
        self.opened.add(session)
        if ours.number or theirs.number:
            self.ours[ours.number] = self.model[theirs.number] = (session, claim)
            self.refs[session, claim] = (
                ClaimRef(session, claim, name, ours.number),
                ClaimRef(session, claim, name, theirs.number),
            )
        self.places(ours, theirs)

    def look(self) -> None:
        if (refs := self.ref()) is not None:
            if self.random.random() < 0.2:
                refs = (refs[0]._replace(number=0), refs[1]._replace(number=0))
            self.trace.append(f"look {refs[0]}")
            self.places(run(self.store.look(refs[0], 5.0)), self.steps.look(self.at(), refs[1]))

    def close(self) -> None:
        pick, closings = self.random, []
        some = list(self.refs.values())
        for refs in pick.sample(some, min(len(some), pick.choice((1, 1, 1, 3)))):
            if refs:
                clean = pick.random() < 0.6
                # Only a holder is closed as held.
                row = self.steps.tables.find(refs[1])
                held = clean and row is not None and row.floor > 0 and not row.freed_us
                flags = (pick.random() < 0.3, clean, held, TTL)
                if pick.random() < 0.15:
                    closings.append(tuple(Closing(ref._replace(number=0), *flags) for ref in refs))
                else:
                    closings.append(tuple(Closing(ref, *flags) for ref in refs))
        if closings:
            self.trace.append(f"close {[ours for ours, _ in closings]}")
            ours = run(self.store.close([ours for ours, _ in closings], 5.0))
            self.same("closed", ours, self.steps.close(self.at(), [theirs for _, theirs in closings]))

    def late(self) -> None:
        """The enqueue that would open a session arrives after its claim was closed."""
        name = self.random.choice(SESSIONS)
        self.ids[name] += "+"
        session = self.ids[name]
        self.last[session] = 1
        self.opened.add(session)
        self.trace.append(f"late {session}")
        closing = Closing(ClaimRef(session, 1, self.prefix + NAMES[0], 0), True, True, False, TTL)
        self.same("closed", run(self.store.close([closing], 5.0)), self.steps.close(self.at(), [closing]))
        card = SessionCard(session, TTL, self.address(name), "client", "host", 7)
        entry = Entry(card, True, False, 1, self.prefix + NAMES[0], EXCLUSIVE, 0.0, "", False, False)
        self.places(run(self.store.enter(entry, 5.0)), self.steps.enter(self.at(), entry))

    def heartbeat(self) -> None:
        session = self.ids[self.random.choice(SESSIONS)]
        self.trace.append(f"heartbeat {session}")
        ours = run(self.store.heartbeat(session, TTL, True, 5.0))
        theirs = self.steps.heartbeat(self.at(), session, TTL, waiting=True)
        self.same("beat", self.beat(session, ours, self.ours), self.beat(session, theirs, self.model))

    def end(self) -> None:
        session = self.ids[self.random.choice(SESSIONS)]
        self.trace.append(f"end {session}")
        run(self.store.end(session, 5.0))
        self.steps.end(self.at(), session)
        self.sweep()

    def steal(self) -> None:
        if (refs := self.ref()) is not None:
            self.trace.append(f"steal {refs[0]}")
            ours = run(self.store.steal(refs[0].name, refs[0].number, 5.0))
            self.same("stolen", ours, self.steps.steal(self.at(), refs[1].name, refs[1].number))

    def read(self) -> None:
        session = self.ids[self.random.choice(SESSIONS)]
        ours = {ref.claim for ref in run(self.store.claims(session, 5.0))}
        self.same("claims", ours, {ref.claim for ref in self.steps.claims(session)})
        refs = self.random.choices(list(self.refs.values()), k=5) if self.refs else []
        standing = run(self.store.standing([ours for ours, _ in refs], 5.0))
        self.same("standing", standing, self.steps.standing([theirs for _, theirs in refs]))
        self.same("names", run(self.store.names(self.prefix, 5.0)), sorted(self.steps.tables.names(self.prefix)))
        for name in NAMES:
            queues = run(self.store.inspect(self.prefix + name, 5.0)), self.steps.inspect(self.prefix + name)
            shown = [
                [
                    (whose[c.token], c.mode, c.holds, c.client, c.host, c.pid, c.info)
                    for c in queue.holders + queue.waiters
                ]
                for queue, whose in zip(queues, (self.ours, self.model), strict=True)
            ]
            self.same("queue", *shown)

    def jump(self) -> None:
        self.trace.append("jump")
        self.ahead += JUMP
        self.clock.jump(JUMP)
        for _ in range(self.random.choice((0, 0, 2, 4))):
            # These meet the dead before a sweep has removed them.
            self.random.choice((self.look, self.look, self.enter, self.close))()
            self.same("mail", self.our_mail(), self.model_mail())
        self.sweep()

    def sweep(self) -> None:
        """Clean up on both to the end: how much each step sweeps, and in which order, is its own affair."""
        run(self.store.heartbeat(SWEEPER, AGES, False, 5.0))
        self.steps.heartbeat(self.at(), SWEEPER, AGES, waiting=False)
        self.same("grants", *self.grants())

    # -- what is compared -------------------------------------------------------------------------------------------

    def places(self, ours: Place, theirs: Place) -> None:
        self.same("place", self.place(ours, self.ours), self.place(theirs, self.model))

    def place(self, place: Place, whose: dict[int, tuple[str, int]]) -> tuple[Any, ...]:
        peers = [(p.session, p.address, round((p.due - native.now()) / 5)) for p in place.peers]
        return (
            place.standing, whose[place.number], whose[place.floor], peers, place.facts is None, place.limit
        )  # fmt: skip

    def beat(self, session: str, beat: Beat, whose: dict[int, tuple[str, int]]) -> tuple[Any, ...]:
        if beat.over:
            return ("over",)
        granted = sorted((m.session, m.claim, whose[m.number], whose[m.floor]) for m in beat.granted)
        # The count of steals begins at the clock, which differs; that it rises by one for each does not.
        first = self.stolen.setdefault((session, whose is self.ours), beat.facts.stolen)
        return "lives", granted, beat.facts.stolen - first

    def grants(self) -> tuple[set[tuple[Any, ...]], set[tuple[Any, ...]]]:
        """The mail but for the hints, of both."""
        ours, theirs = ({m for m in mail if m[3] != ("", 0)} for mail in (self.our_mail(), self.model_mail()))
        return ours, theirs

    def our_mail(self) -> set[tuple[Any, ...]]:
        # A set: one step may hint a waiter twice, and in which order it removes a session's claims is its own affair.
        found: set[tuple[Any, ...]] = set()
        boxes = [f"{{{self.prefix[:-1]}:0}}:m:at-{session}" for session in SESSIONS]
        *mail, _ = self.wire.ask(*(("LRANGE", box, 0, -1) for box in boxes), ("DEL", *boxes))
        for session, payloads in zip(SESSIONS, mail, strict=True):
            for payload in payloads:
                message = decode(payload)
                assert message is not None
                found.add((f"at-{session}", *self.message(message, self.ours)))
        return found

    def model_mail(self) -> set[tuple[Any, ...]]:
        now = self.at().now_us
        rows = {session: self.steps.tables.session(session) for session in self.last}
        alive = {s for s, row in rows.items() if row is not None and not row.ended and row.until_us > now}
        # Redis keeps mail for the living alone (B4); datagrams to the dead meet nobody.
        return {
            (address, *self.message(message, self.model))
            for address, message in self.steps.take_mail()
            if message.session in alive
        }

    def message(self, message: Message, whose: dict[int, tuple[str, int]]) -> tuple[Any, ...]:
        return message.session, message.claim, whose[message.number], whose[message.floor]
