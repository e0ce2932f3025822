"""What every engine is put through: each thing that a format has a word for, once, step by step.

The steps go to the store's port, below all clients, so that nothing depends on when a keeper wakes. Names of sessions
and claims are given here; what an engine draws by itself (numbers, times, ids) is normalised by `Transcript`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from tenure.model import EXCLUSIVE, SHARED, Kind, Mode
from tenure.ports import ClaimRef, Closing, Entry, SessionCard
from tenure.runtimes.blocking import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenure.ports import Beat, Place, QueueStore
    from tests.wire.transcript import Transcript

NAMESPACE: Final = "wire"
TTL: Final = 1000.0
DELAY: Final = 400.0
"""So far apart that a time in a transcript says which of them it comes from, however slow the host is."""

PATIENCE: Final = 10.0
SESSIONS: Final = ("a", "b", "c")


class Desk(Protocol):
    """One engine's store, watched from outside."""

    @property
    def store(self) -> QueueStore:
        """Blank, until the scenario is played."""
        ...

    @property
    def has_tombstones(self) -> bool:
        """A late enqueue is refused by the store; else nothing that was sent before can arrive any more."""
        ...

    def said(self) -> list[tuple[str, str]]:
        """What went over the wire since the last call: `>` a request, `<` its reply, `!` a message; and its text."""
        ...

    def state(self) -> list[tuple[str, str]]:
        """All that lies in the store now: where, and what."""
        ...

    def clocks(self) -> Sequence[int]:
        """The clocks, in microseconds, that times in this store are of."""
        ...


class Play:
    """Takes steps on a desk and writes down what came of each."""

    def __init__(self, desk: Desk, transcript: Transcript) -> None:
        self.desk = desk
        self._transcript = transcript
        self._opened: set[str] = set()
        self.numbers: dict[tuple[str, int], int] = {}
        """Of each session's claims."""
        self._lies: list[tuple[str, str]] = []

    def _write(self, title: str, answer: list[str]) -> None:
        said, lies = self.desk.said(), self.desk.state()
        before, after = self._lies, lies
        changes = [("-", *row) for row in before if row not in after] + [
            ("+", *row) for row in after if row not in before
        ]
        self._lies = lies
        self._transcript.add(title, said, answer, changes, self.desk.clocks())

    # -- the steps --------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make the store."""
        authority = run(self.desk.store.authority(PATIENCE))
        self._write("a client opens the store, which is blank", [f"authority {authority}"])

    def enter(self, title: str, session: str, claim: int, name: str, **named: Any) -> None:
        opening = named.pop("opening", session not in self._opened)
        card = SessionCard(session, TTL, f"at-{session}", f"client {session}", "host.example", 100 + ord(session))
        entry = Entry(card, opening, False, claim, f"{NAMESPACE}:{name}", EXCLUSIVE, 0.0, "", False, False)
        place = run(self.desk.store.enter(entry._replace(**named), PATIENCE))
        if place.facts:
            self._opened.add(session)
        self._place(title, session, claim, place)

    def look(self, title: str, session: str, claim: int, name: str) -> None:
        place = run(self.desk.store.look(self.ref(session, claim, name), PATIENCE))
        self._place(title, session, claim, place)

    def _place(self, title: str, session: str, claim: int, place: Place) -> None:
        if place.number:
            self.numbers[session, claim] = place.number
            self._transcript.number(place.number)
        words = [place.standing.value]
        if place.number:
            words.append(self._transcript.named(place.number))
        if place.floor:
            words.append(f"floor {self._transcript.named(place.floor)}")
        if place.peers:
            words.append("behind " + " and ".join(peer.session for peer in place.peers))
        if place.limit:
            words.append(f"a holder's limit is {place.limit}")
        if place.facts:
            words.append(f"session extended by {place.facts.ttl:g} s")
        self._write(title, [", ".join(words)])

    def close(self, title: str, session: str, claim: int, name: str, **named: bool) -> None:
        flags = {"tombstone": False, "clean": True, "held": True, **named}
        ref = self.ref(session, claim, name)
        [done] = run(self.desk.store.close([Closing(ref, ttl=TTL, **flags)], PATIENCE))
        self._write(title, ["it was there" if done else "it was not there"])

    def beat(self, title: str, session: str, *, waiting: bool = False) -> None:
        beat: Beat = run(self.desk.store.heartbeat(session, TTL, waiting, PATIENCE))
        grants = [
            f"claim {claim} holds {self._transcript.named(number)}, floor {self._transcript.named(floor)}"
            for _, claim, number, floor in beat.granted
        ]
        self._write(title, ["the session is over"] if beat.over else [f"extended by {beat.facts.ttl:g} s", *grants])

    def steal(self, title: str, session: str, claim: int, name: str) -> None:
        number = self.numbers[session, claim]
        done = run(self.desk.store.steal(f"{NAMESPACE}:{name}", number, PATIENCE))
        self._write(title, ["stolen" if done else "it was not there"])

    def standing(self, title: str, *refs: ClaimRef) -> None:
        found = run(self.desk.store.standing(refs, PATIENCE))
        self._write(title, ["it stands" if stands else "it does not" for stands in found])

    def claims(self, title: str, session: str) -> None:
        found = run(self.desk.store.claims(session, PATIENCE))
        rows = [f"claim {ref.claim} {ref.name} {self._transcript.named(ref.number)}" for ref in found]
        self._write(title, sorted(rows))

    def inspect(self, title: str, name: str) -> None:
        queue = run(self.desk.store.inspect(f"{NAMESPACE}:{name}", PATIENCE))
        rows = [
            f"{'holds' if c.holds else 'waits'} {self._transcript.named(c.token)} {c.mode.kind.value} "
            f"{c.mode.permits} of {c.mode.limit}: {c.client}, {c.host}, pid {c.pid}, {c.info!r}"
            for c in (*queue.holders, *queue.waiters)
        ]
        self._write(title, rows)

    def names(self, title: str, prefix: str) -> None:
        self._write(title, run(self.desk.store.names(f"{NAMESPACE}:{prefix}", PATIENCE)))

    def end(self, title: str, session: str) -> None:
        run(self.desk.store.end(session, PATIENCE))
        self._write(title, [])

    def ref(self, session: str, claim: int, name: str) -> ClaimRef:
        """A claim, by its number if it has one."""
        return ClaimRef(session, claim, f"{NAMESPACE}:{name}", self.numbers.get((session, claim), 0))


def permits(count: int, limit: int) -> Mode:
    """So many permits of a semaphore."""
    return Mode(Kind.PERMITS, count, limit)


def begin(play: Play) -> None:
    """A store with a holder and a waiter."""
    play.begin()
    play.enter("a opens its session in the step that enters, and holds at once", "a", 1, "orders/42", info="nightly")
    play.enter("b waits behind a", "b", 1, "orders/42")


def busy_store(play: Play) -> None:
    """A store in the middle of its life, as the recorded ones are."""
    begin(play)
    play.enter("a holds with a lock_delay", "a", 2, "device", delay=DELAY)
    play.enter("a reads", "a", 3, "catalogue", mode=SHARED)
    play.enter("b reads too", "b", 3, "catalogue", mode=SHARED)
    play.enter("a takes 2 permits of 3", "a", 4, "encoders", mode=permits(2, 3))
    play.close("b closes a claim whose enqueue was not answered", "b", 7, "orders/43", tombstone=True, held=False)


def scenario(play: Play) -> None:
    """All of it."""
    begin(play)
    play.enter("b asks again, for its first request was not answered", "b", 1, "orders/42", again=True, opening=True)
    play.enter("c only tries: busy, and nothing is entered", "c", 1, "orders/42", at_once=True)
    play.look("b looks", "b", 1, "orders/42")
    play.beat("a renews its session", "a")
    play.inspect("an operator inspects the name", "orders/42")
    play.names("and lists names", "orders")
    play.close("a releases: b is granted and told", "a", 1, "orders/42")
    play.beat("b renews, and asks for grants that it may have missed", "b", waiting=True)
    play.look("b looks, and holds", "b", 1, "orders/42")
    play.enter("a waits behind b", "a", 2, "orders/42")
    play.steal("an operator steals the name from b: a is granted and told, b's session counts it", "b", 1, "orders/42")
    play.steal("a repeat does nothing", "b", 1, "orders/42")
    play.beat("b learns of it with its heartbeat", "b")
    play.standing(
        "b asks whether its claim stands; a asks, too", play.ref("b", 1, "orders/42"), play.ref("a", 2, "orders/42")
    )
    play.claims("the store lists the claims of a", "a")
    play.close(
        "c closes a claim whose enqueue was not answered: a tombstone", "c", 7, "orders/43", tombstone=True, held=False
    )
    if play.desk.has_tombstones:
        play.enter("the late enqueue is refused", "c", 7, "orders/43", opening=False)
    play.enter("a reads", "a", 3, "catalogue", mode=SHARED)
    play.enter("b reads too, with the floor of the group", "b", 3, "catalogue", mode=SHARED)
    play.enter("c wants to write: it waits for both", "c", 3, "catalogue")
    play.enter("a takes 2 permits of 3", "a", 4, "encoders", mode=permits(2, 3))
    play.enter("b wants 2 of 3: it waits", "b", 4, "encoders", mode=permits(2, 3))
    play.close("a returns its permits: b is granted", "a", 4, "encoders")
    play.enter("c takes 1 of 4, and hears that b goes by 3", "c", 4, "encoders", mode=permits(1, 4))
    play.enter("a holds with a lock_delay", "a", 5, "device", delay=DELAY)
    play.close("a ends uncleanly: the name stays closed for that long", "a", 5, "device", clean=False, held=False)
    play.enter("b waits for it", "b", 5, "device")
    play.end("c's session ends, with all that is left of its claims", "c")
    play.beat("and is over", "c")
