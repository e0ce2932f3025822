"""Random steps of clients on a store with plain keys, of holders of plain keys, and of a vandal who deletes them.

Nobody restates the Lua here: what is checked after each step is who believes to hold, as each side is entitled to, and
what the server has. The server's clock is moved meanwhile, so that sessions and keys end in the middle; and the plain
keys may be turned off.
"""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Final

from tenure.engines.mail import decode
from tenure.engines.redis.life import Life
from tenure.engines.redis.store import RedisStore
from tenure.model import EXCLUSIVE, SHARED, Kind, Mode
from tenure.ports import ClaimRef, Closing, Entry, Message, Place, SessionCard, Standing
from tenure.runtimes import native
from tenure.runtimes.blocking import run
from tests.redis.rig import TURN_OFF

if TYPE_CHECKING:
    from tests.redis.rig import SocketWire
    from tests.servers.redis import RedisServer
    from tests.servers.resp import Connection, Word

TEMPLATE: Final = "lock:{name}"
NAMES: Final = ("n", "a name with spaces: {braces}")
CLIENTS: Final = ("anne", "bob", "carol")

TTL: Final = 60.0
DELAY: Final = 25.0
JUMP: Final = 20.0
POLL: Final = 0.1
SLACK: Final = 5.0
"""Seconds that a run takes on a slow host; the clock is moved by more."""

STEPS: Final = 60

_serial = itertools.count(1)


class Belief:
    """A claim that was told it holds, for as long as its client is entitled to go by that."""

    def __init__(self, ref: ClaimRef, mode: Mode, delay: float) -> None:
        self.ref = ref
        self.mode = mode
        self.delay = delay
        self.freed = 0.0
        """Until when it keeps the name although nobody works under it any more; 0 while somebody does."""
        self.is_closed = False
        """Its client has said so."""
        self.is_disturbed = False
        """Somebody has deleted or overwritten the key of its name, and its client has not been told yet."""
        self.is_noticed = False
        """A step of ours has seen that since: from then on the key is not free before the client can know."""


class Caller:
    """A client: its session, and what it knows."""

    def __init__(self, store: RedisStore, name: str) -> None:
        self.store = store
        self.address = f"at-{name}"
        self.name = name
        self.session = f"{name}1"
        self.until = 0.0
        """By the server's clock; 0 before it was opened."""
        self.claims = 0
        self.life = ""

    def renew(self) -> None:
        """Another session: ids are used once."""
        self.session = f"{self.name}{int(self.session.removeprefix(self.name)) + 1}"
        self.until, self.claims = 0.0, 0


class Waiting:
    """A claim that waits, and what its client counts on."""

    def __init__(self, entry: Entry, number: int, due: float) -> None:
        self.ref = ClaimRef(entry.session.id, entry.claim, entry.name, number)
        self.entry = entry
        self.due = due
        self.is_hinted = False


class Mixed:
    """One step after the other; what must hold is checked after each.

    Attributes:
        is_off: the plain keys are turned off.
    """

    is_off = False

    def __init__(self, server: RedisServer, wire: SocketWire, raw: Connection, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - which steps to take
        self.together = self.random.random() < 0.5
        """Whether most claims may hold together."""
        self.server, self._raw = server, raw
        namespace = f"mixed-{next(_serial)}"
        self.prefix = f"{namespace}:"
        self.tag = f"{{{namespace}:0}}:"
        self.names = [self.prefix + name for name in NAMES[: self.random.choice((1, 1, 2))]]
        self.ahead = 0.0
        self.callers = {name: Caller(RedisStore(wire, namespace, Life(TEMPLATE), native.now), name) for name in CLIENTS}
        for caller in self.callers.values():
            run(caller.store.authority(5.0))
            caller.life = caller.store._life.value
        self.waiting: dict[tuple[str, int], Waiting] = {}
        self.beliefs: dict[tuple[str, int], Belief] = {}
        self.entries: dict[tuple[str, int], Entry] = {}
        self.closed: set[tuple[str, int]] = set()
        """Claims that are no more, and whose enqueue may arrive once more."""
        self.trace: list[str] = []
        for name in self.names:
            self.ask("DEL", self.key(name))

    # -- the server, from outside -----------------------------------------------------------------------------------

    def ask(self, *words: Word) -> object:
        return self._raw.call(*words)

    def key(self, name: str) -> str:
        return TEMPLATE.replace("{name}", name.removeprefix(self.prefix))

    def value(self, name: str) -> str:
        """Of the plain key; empty if there is none."""
        return str(self.ask("GET", self.key(name)) or "")

    def is_ours(self, name: str) -> bool:
        return self.value(name).startswith(f"tenure {self.tag[:-1]} ")

    def now(self) -> float:
        return native.utc() + self.ahead

    # -- one step ---------------------------------------------------------------------------------------------------

    def live(self, steps: int = STEPS, off_after: int = STEPS) -> None:
        """Take so many steps.

        Args:
            steps: how many.
            off_after: how many of them with plain keys.
        """
        for step in range(steps):
            if step == off_after:
                self.turn_off()
            kinds = (self.enter, self.look, self.close, self.heartbeat, self.take, self.let_go, self.vandal)
            rare = (self.end, self.steal, self.jump, self.repeat)
            weights = (25, 15, 15, 10, *((0, 0, 0) if self.is_off else (10, 6, 2)), 2, 2, 5, 3)
            self.random.choices(kinds + rare, weights)[0]()
            self.read_mail()
            self.check()
        self.leave()

    def say(self, what: str) -> None:
        self.trace.append(f"{self.now():.3f} {what}")

    def holds(self, what: bool, rule: str) -> None:
        assert what, "\n".join([*self.trace[-16:], rule])

    def caller(self) -> Caller:
        caller = self.callers[self.random.choice(CLIENTS)]
        if caller.until and caller.until <= self.now():
            self.renew(caller, caller.until)
        return caller

    def renew(self, caller: Caller, ended: float) -> None:
        """A session is over: its client believes nothing any more, and waits for nothing."""
        self.waiting = {key: waits for key, waits in self.waiting.items() if key[0] != caller.session}
        for key, belief in list(self.beliefs.items()):
            if key[0] == caller.session and not belief.freed:
                if belief.delay and not belief.is_disturbed:
                    belief.freed = ended + belief.delay
                else:
                    del self.beliefs[key]
        caller.renew()

    def of(self, session: str) -> Caller | None:
        """Whose session it is; None if it is over for its client."""
        caller = self.callers[session.rstrip("0123456789")]
        return caller if caller.session == session and caller.until > self.now() else None

    def enter(self) -> None:
        pick, caller = self.random, self.caller()
        limit = pick.choice((2, 3))
        mode = pick.choice((EXCLUSIVE, EXCLUSIVE, SHARED, Mode(Kind.PERMITS, pick.randint(1, limit), limit)))
        if self.together and pick.random() < 0.8:
            mode = SHARED
        caller.claims += 1
        card = SessionCard(caller.session, TTL, caller.address, "", "", 1)
        opening = not caller.until
        entry = Entry(
            card,
            opening,
            not opening and pick.random() < 0.3,
            caller.claims,
            pick.choice(self.names),
            mode,
            pick.choice((0.0, 0.0, DELAY)),
            "",
            pick.random() < 0.2,
            False,
        )
        self.entries[entry.session.id, entry.claim] = entry
        self.send(caller, entry)

    def repeat(self) -> None:
        """An enqueue arrives once more."""
        mine = [entry for entry in self.entries.values() if self.of(entry.session.id)]
        if mine:
            entry = self.random.choice(mine)
            caller = self.of(entry.session.id)
            assert caller is not None
            key = (entry.session.id, entry.claim)
            belief = self.beliefs.get(key)
            if key in self.waiting or (belief is not None and not belief.freed):
                self.send(caller, entry._replace(opening=False, again=True))
            elif key in self.closed:
                place = run(caller.store.enter(entry._replace(opening=False, at_once=False, again=True), 5.0))
                self.holds(place.standing is Standing.GONE, "a lost claim came back")

    def send(self, caller: Caller, entry: Entry) -> None:
        self.say(f"enter {entry.session.id} {entry.claim} {entry.name} {entry.mode} {entry.delay:g} {entry[7:]}")
        now = self.now()
        place = run(caller.store.enter(entry, 5.0))
        if place.facts is not None:
            caller.until = now + TTL
        self.stand(entry, place)
        if place.standing is not Standing.GONE:
            self.notice(entry.name)
        self.reconcile(caller)

    def notice(self, name: str, what: bool = True) -> None:
        """A step of ours has looked at a name; or what it saw is so no more."""
        for belief in self.of_name(name):
            belief.is_noticed = belief.is_disturbed and what

    def stand(self, entry: Entry, place: Place) -> None:
        key = (entry.session.id, entry.claim)
        waits = self.waiting.pop(key, None)
        if place.standing is Standing.HOLDS:
            self.believe(entry, place.number)
        elif place.standing is Standing.WAITS:
            assert key not in self.beliefs
            due = min((peer.due for peer in place.peers), default=native.now()) - native.now()
            self.waiting[key] = Waiting(entry, place.number, self.now() + due)
            strangers = [peer for peer in place.peers if not peer.session]
            self.holds(due <= POLL or not strangers, "a stranger is looked at often")
        elif waits is not None:
            self.closed.add(key)

    def believe(self, entry: Entry, number: int) -> None:
        key = (entry.session.id, entry.claim)
        if key not in self.beliefs:
            ref = ClaimRef(entry.session.id, entry.claim, entry.name, number)
            self.beliefs[key] = Belief(ref, entry.mode, entry.delay)

    def look(self) -> None:
        waits = self.random.choice(list(self.waiting.values())) if self.waiting else None
        caller = self.of(waits.ref.session) if waits else None
        if waits and caller:
            self.look_at(caller, waits)

    def look_at(self, caller: Caller, waits: Waiting) -> Place:
        self.say(f"look {waits.ref}")
        place = run(caller.store.look(waits.ref, 5.0))
        self.stand(waits.entry, place)
        self.read_mail()
        self.notice(waits.ref.name)
        return place

    def close(self) -> None:
        pick = self.random
        keys = [*self.beliefs, *self.waiting]
        if not keys:
            return
        key = pick.choice(keys)
        belief = self.beliefs.get(key)
        caller = self.callers[key[0].rstrip("0123456789")]
        if caller.session != key[0] or (belief and belief.freed):
            return
        ref = belief.ref if belief else self.waiting[key].ref
        # One whose session is over closes uncleanly what it had.
        clean = self.of(key[0]) is not None and pick.random() < 0.6
        self.say(f"close {ref} clean {clean}")
        there = run(caller.store.close([Closing(ref, False, clean, belief is not None and clean, TTL)], 5.0))[0]
        self.waiting.pop(key, None)
        if belief is None:
            return
        if clean or not belief.delay:
            self.holds(self.is_off or there != belief.is_disturbed, "whoever lets go is told whether it was still his")
            del self.beliefs[key]
        elif belief.is_disturbed:
            del self.beliefs[key]
        else:
            belief.freed = self.now() + belief.delay
            belief.is_closed = True

    def heartbeat(self) -> None:
        caller = self.callers[self.random.choice(CLIENTS)]
        if not caller.until:
            return
        self.say(f"heartbeat {caller.session}")
        now = self.now()
        beat = run(caller.store.heartbeat(caller.session, TTL, True, 5.0))
        self.holds(beat.over == (caller.until <= now), "a session lives until its time is over")
        if beat.over:
            return
        caller.until = now + TTL
        for message in beat.granted:
            self.take_message(message)
        self.reconcile(caller, is_beat=True)

    def reconcile(self, caller: Caller, *, is_beat: bool = False) -> None:
        """As the keeper does it when the life of the store has changed (A2)."""
        life = caller.store._life.value
        mine = [belief for key, belief in self.beliefs.items() if key[0] == caller.session and not belief.freed]
        waits = [waits for key, waits in self.waiting.items() if key[0] == caller.session]
        if life != caller.life:
            caller.life = life
            refs = [belief.ref for belief in mine] + [waiting.ref for waiting in waits]
            stand = dict(zip(refs, run(caller.store.standing(refs, 5.0)), strict=True))
            for belief in mine:
                stands = stand[belief.ref]
                # What nobody had seen before the keys were turned off is no loss.
                right = stands != belief.is_disturbed or (self.is_off and stands)
                self.holds(right, "who has lost the key is told, and nobody else")
                belief.is_disturbed = False
                if not stands:
                    self.lose(caller, belief)
            for waiting in waits:
                self.holds(stand[waiting.ref], "whoever waits has lost nothing")
        elif is_beat:
            self.holds(not any(belief.is_disturbed for belief in mine), "a heartbeat tells of every loss")

    def lose(self, caller: Caller, belief: Belief) -> None:
        """Told: it believes no longer. As the keeper does, it closes the claim, now or later."""
        key = (belief.ref.session, belief.ref.claim)
        del self.beliefs[key]
        self.closed.add(key)
        if self.random.random() < 0.7:
            run(caller.store.close([Closing(belief.ref, False, False, False, TTL)], 5.0))
            self.closed_lost(belief)

    def closed_lost(self, belief: Belief) -> None:
        """Without a lock_delay nothing is left of it then."""
        if not belief.delay:
            queue = run(self.callers[CLIENTS[0]].store.inspect(belief.ref.name, 5.0))
            left = [c.token for c in queue.holders + queue.waiters]
            self.holds(belief.ref.number not in left, "a lost claim that is closed blocks no longer")

    def end(self) -> None:
        caller = self.caller()
        if not caller.until:
            return
        self.say(f"end {caller.session}")
        run(caller.store.end(caller.session, 5.0))
        self.renew(caller, self.now())

    def steal(self) -> None:
        keys = [*self.beliefs, *self.waiting]
        if keys:
            key = self.random.choice(keys)
            ref = self.beliefs[key].ref if key in self.beliefs else self.waiting[key].ref
            self.say(f"steal {ref}")
            run(self.callers[CLIENTS[0]].store.steal(ref.name, ref.number, 5.0))
            self.beliefs.pop(key, None)
            self.waiting.pop(key, None)

    def jump(self) -> None:
        self.say("jump")
        self.ahead += JUMP
        self.server.clock.jump(JUMP)
        for name in self.names:
            self.notice(name, False)

    # -- the others -------------------------------------------------------------------------------------------------

    def take(self) -> None:
        """As `SET key value NX PX`, or without a ttl."""
        name = self.random.choice(self.names)
        ttl = self.random.choice(((), ("PX", "10000"), ("PX", "100000")))
        if self.ask("SET", self.key(name), "a stranger's", "NX", *ttl):
            self.say(f"taken {name} {ttl}")

    def let_go(self) -> None:
        name = self.random.choice(self.names)
        if self.value(name) == "a stranger's":
            self.say(f"let go {name}")
            self.ask("DEL", self.key(name))
            self.notice(name, False)

    def vandal(self) -> None:
        """Deletes or overwrites a key that is not his."""
        name = self.random.choice(self.names)
        if self.is_ours(name):
            self.say(f"vandal {name}")
            if self.random.random() < 0.5:
                self.ask("DEL", self.key(name))
            else:
                self.ask("SET", self.key(name), "a stranger's", "PX", "10000")
            for belief in self.of_name(name):
                belief.is_disturbed = True
            self.notice(name, False)

    def turn_off(self) -> None:
        """As an operator does it, once no client is told the template any more."""
        self.say("turned off")
        for caller in self.callers.values():
            caller.store._life.told = ""
        assert self.ask("EVAL", TURN_OFF, "1", f"{self.tag}genesis") == 1
        self.is_off = True

    # -- what must hold ---------------------------------------------------------------------------------------------

    def of_name(self, name: str) -> list[Belief]:
        return [belief for belief in self.beliefs.values() if belief.ref.name == name]

    def ends(self, belief: Belief) -> float:
        """When it keeps the name no longer."""
        if belief.freed:
            return belief.freed
        caller = self.callers[belief.ref.session.rstrip("0123456789")]
        return caller.until + belief.delay if caller.session == belief.ref.session else 0.0

    def read_mail(self) -> None:
        for caller in self.callers.values():
            box = f"{self.tag}m:{caller.address}"
            mail = self.ask("LRANGE", box, "0", "-1")
            assert isinstance(mail, list)
            if mail:
                self.ask("DEL", box)
            for payload in mail:
                message = decode(payload.encode())
                assert message is not None
                self.take_message(message)

    def take_message(self, message: Message) -> None:
        key = (message.session, message.claim)
        waits = self.waiting.get(key)
        if waits is None or self.of(message.session) is None:
            return
        if message.number == waits.ref.number:
            del self.waiting[key]
            self.believe(waits.entry, message.number)
        else:
            waits.is_hinted = True

    def check(self) -> None:
        now = self.now()
        for key, belief in list(self.beliefs.items()):
            if self.ends(belief) <= now:
                del self.beliefs[key]
        for name in self.names:
            beliefs = self.of_name(name)
            self.check_together([belief.mode for belief in beliefs if not belief.freed and self.of(belief.ref.session)])
            if self.is_off:
                self.check_untold(name, now)
                continue
            self.check_key(name, [belief for belief in beliefs if not belief.is_disturbed], now)
            if any(belief.is_noticed for belief in beliefs):
                self.holds(self.value(name) != "", "a key that was lost is free, and a holder does not know yet")
            self.check_first(name, now)

    def check_key(self, name: str, beliefs: list[Belief], now: float) -> None:
        """Whoever goes by the plain key is kept out as long as somebody holds, or his lock_delay runs."""
        if beliefs:
            self.holds(self.is_ours(name), f"the key of {name!r} is not ours, and somebody holds")
            left = self.ask("PTTL", self.key(name))
            assert isinstance(left, int)
            most = max(map(self.ends, beliefs)) - now
            self.holds(left / 1000 >= most - SLACK, f"the key lasts {left / 1000} s, the claims {most:.3f} s")
            queue = run(self.callers[CLIENTS[0]].store.inspect(name, 5.0))
            # One that has lost the key may still keep the name, and whoever waits may keep the key.
            alone = len(queue.holders) == len(beliefs) and not queue.waiters
            if alone and all(belief.is_closed for belief in beliefs):
                self.holds(left / 1000 <= most + SLACK, f"the key lasts {left / 1000} s, the delay {most:.3f} s")

    def check_together(self, modes: list[Mode]) -> None:
        """No two of ours that may not hold together, also after a key was lost."""
        if len(modes) > 1:
            kinds = {mode.kind for mode in modes}
            self.holds(len(kinds) == 1 and Kind.EXCLUSIVE not in kinds, f"two hold: {modes}")
            if modes[0].kind is Kind.PERMITS:
                self.holds(sum(mode.permits for mode in modes) <= min(mode.limit for mode in modes), f"{modes}")

    def check_first(self, name: str, now: float) -> None:
        """Whoever is first looks soon, or has been told to."""
        queue = run(self.callers[CLIENTS[0]].store.inspect(name, 5.0))
        if not queue.holders and not queue.waiters:
            self.holds(not self.is_ours(name), f"nobody is there, and the key of {name!r} is ours")
        if queue.holders or not queue.waiters:
            return
        first = queue.waiters[0].token
        for waits in list(self.waiting.values()):
            caller = self.of(waits.ref.session)
            if waits.ref.number == first and caller is not None:
                self.holds(waits.is_hinted or waits.due <= now + POLL + 0.01, f"the first for {name!r} sleeps")
                if not self.value(name) and not self.ask("EXISTS", f"{self.tag}b:{name.removeprefix(self.prefix)}"):
                    place = self.look_at(caller, waits)
                    self.holds(place.standing is Standing.HOLDS, "free, and not granted")

    def check_untold(self, name: str, now: float) -> None:
        """Who was barred by a plain key is no more, and looks soon."""
        waiting = {waits.ref.number: waits for waits in self.waiting.values()}
        queue = run(self.callers[CLIENTS[0]].store.inspect(name, 5.0))
        untold = [waiting[c.token] for c in queue.holders if c.token in waiting]
        caller = self.of(untold[0].ref.session) if untold else None
        if caller is not None:
            self.holds(untold[0].is_hinted or untold[0].due <= now + POLL + 0.01, f"the first for {name!r} sleeps")
            if self.random.random() < 0.5:
                place = self.look_at(caller, untold[0])
                self.holds(place.standing is Standing.HOLDS, "nobody bars it, and it is not granted")

    def leave(self) -> None:
        """All go, cleanly: nothing of ours is left."""
        self.say("all go")
        for caller in self.callers.values():
            refs = [belief.ref for key, belief in self.beliefs.items() if key[0] == caller.session]
            refs += [waits.ref for key, waits in self.waiting.items() if key[0] == caller.session]
            for ref in refs:
                run(caller.store.close([Closing(ref, False, True, False, TTL)], 5.0))
        self.ahead += 10 * TTL
        self.server.clock.jump(10 * TTL)
        card = SessionCard("sweeper", TTL, "", "", "", 1)
        entry = Entry(card, True, False, 1, f"{self.prefix}sweeper", EXCLUSIVE, 0.0, "", False, False)
        run(self.callers[CLIENTS[0]].store.enter(entry, 5.0))
        run(self.callers[CLIENTS[0]].store.heartbeat("sweeper", TTL, False, 5.0))
        names = run(self.callers[CLIENTS[0]].store.names(self.prefix, 5.0))
        self.holds(names == [f"{self.prefix}sweeper"], f"left: {names}")
