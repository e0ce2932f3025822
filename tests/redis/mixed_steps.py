"""What clients do on a store with plain keys, and what they believe of its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenure.engines.mail import decode
from tenure.model import EXCLUSIVE, SHARED, Kind, Mode
from tenure.ports import Closing, Entry, Message, Place, SessionCard, Standing
from tenure.runtimes import native
from tenure.runtimes.blocking import run
from tests.redis.mixed_beliefs import CLIENTS, Beliefs, Waiting

if TYPE_CHECKING:
    from tests.redis.mixed_beliefs import Belief, Caller

TTL: Final = 60.0
DELAY: Final = 25.0
POLL: Final = 0.1


class Steps(Beliefs):
    """The steps of clients; each draws its client, and what it asks for."""

    # -- to enter and to wait -----------------------------------------------------------------------------------------

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

    # -- to go --------------------------------------------------------------------------------------------------------

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

    # -- to hear ------------------------------------------------------------------------------------------------------

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
