"""Random steps of clients on a store with plain keys, of holders of plain keys, and of a vandal who deletes them.

Nobody restates the Lua here: what is checked after each step is who believes to hold, as each side is entitled to, and
what the server has. The server's clock is moved meanwhile, so that sessions and keys end in the middle; and the plain
keys may be turned off.
"""

from __future__ import annotations

from typing import Final

from tenure.model import EXCLUSIVE, Kind, Mode
from tenure.ports import Closing, Entry, SessionCard, Standing
from tenure.runtimes.blocking import run
from tests.redis.mixed_beliefs import CLIENTS, Belief
from tests.redis.mixed_steps import POLL, TTL, Steps
from tests.redis.rig import TURN_OFF

JUMP: Final = 20.0
SLACK: Final = 5.0
"""Seconds that a run takes on a slow host; the clock is moved by more."""

STEPS: Final = 60


class Mixed(Steps):
    """One step after the other; what must hold is checked after each."""

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

    # -- the others ---------------------------------------------------------------------------------------------------

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

    def jump(self) -> None:
        self.say("jump")
        self.ahead += JUMP
        self.server.clock.jump(JUMP)
        for name in self.names:
            self.notice(name, False)

    # -- what must hold -----------------------------------------------------------------------------------------------

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
