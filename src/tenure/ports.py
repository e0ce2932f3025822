"""The ports: all that a protocol may await.

A protocol is an `async def` that awaits nothing but these. `async` means "may wait" here, not "asyncio": the blocking
runtime's ports block and return, asyncio's suspend the caller's task, the simulator's hand the call to a seeded world.

Rules for whoever implements one:
* every call of a store takes a timeout and ends in a reply, `StoreUnavailable` (certainly no effect) or
  `OutcomeUnknown`; never in a guess;
* a wake-up is a hint: `Signal.wait` and `Mailbox.receive` may return early, and callers look again;
* `Signal.set` and `Inbox.put` never wait and may be called from any thread, a finalizer or a signal handler.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

from tenure.model import Contender, Instant, Mode, Queue, Seconds, UtcTime

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

__all__ = [
    "BUSY",
    "GONE",
    "HOLDS",
    "WAITS",
    "Beat",
    "ClaimRef",
    "Closing",
    "Contender",
    "Entry",
    "Inbox",
    "Mail",
    "Mailbox",
    "Message",
    "Peer",
    "Place",
    "Queue",
    "QueueStore",
    "Runtime",
    "SessionCard",
    "SessionFacts",
    "Signal",
    "Standing",
]

T = TypeVar("T")


class Signal(Protocol):
    """Wakes one waiter; setting it twice before it is waited for wakes once."""

    def set(self) -> None:
        """Wake the waiter, now or when it comes. Never waits; safe from any thread and from a finalizer."""
        ...

    async def wait(self, until: Instant | None) -> bool:
        """Wait until set or until an instant; consume the setting. True if it was set. May return early."""
        ...


class Runtime(Protocol):
    """Time, randomness and waiting, as one of the runtimes gives them."""

    def now(self) -> Instant:
        """The boot-time clock: runs on through suspend, never set by anyone."""
        ...

    def utc(self) -> UtcTime:
        """The wall clock, for display and for hybrid numbers; never for deadlines."""
        ...

    def new_id(self) -> str:
        """A fresh random id of 128 bits, never used before, also not by a forked child."""
        ...

    def random(self) -> float:
        """A number in [0, 1) for jitter."""
        ...

    def signal(self) -> Signal:
        """A new signal, for a waiter of this runtime."""
        ...

    def mutex(self) -> AbstractContextManager[object]:
        """A lock for decisions. Whoever holds it awaits nothing."""
        ...


class Inbox(Protocol[T]):
    """The keeper's queue: put from anywhere, taken by one."""

    def put(self, item: T) -> None:
        """Never waits; safe from any thread, a finalizer or a signal handler."""
        ...

    async def get(self, until: Instant) -> list[T]:
        """Everything that has come, after waiting for the first until `until`; may be empty."""
        ...


class SessionCard(NamedTuple):
    """What a client says of itself when it opens a session."""

    id: str
    ttl: Seconds
    address: str
    client: str
    host: str
    pid: int


class SessionFacts(NamedTuple):
    """What the engine answers when it opened or extended a session.

    Attributes:
        ttl: the granted ttl, which may differ from the asked one.
        life: names this life of the store; another value means that data may have been lost (rule A2).
        stolen: how often a claim of this session was stolen.
        since: the instant, on the caller's clock, from which the answer proves the session extended, for an engine
            where that is before the request was sent (rule C3); None where the request itself extends it.
        period: how often to renew, in seconds; 0 for a third of the ttl (rule A4).
    """

    ttl: Seconds
    life: str
    stolen: int
    since: Instant | None = None
    period: Seconds = 0.0


class Entry(NamedTuple):
    """A claim that wants to enter the queue of a name.

    Attributes:
        session: whose it is.
        opening: the session may not exist yet: open it in the same step.
        extend: extend the session in the same step (opening always does).
        claim: the claim's id, unique within its session and used once.
        delay: lock_delay: how long an unclean end keeps the name closed, in seconds.
        at_once: enter only if that grants the name at once.
        again: it was sent before, unanswered: the first may be there already.
    """

    session: SessionCard
    opening: bool
    extend: bool
    claim: int
    name: str
    mode: Mode
    delay: Seconds
    info: str
    at_once: bool
    again: bool


class Standing(enum.Enum):
    """Where a claim stands."""

    HOLDS = "holds"
    WAITS = "waits"
    BUSY = "busy"
    """Asked for at once, and others are in front: nothing was entered."""
    GONE = "gone"
    """Not in the queue: its session is over, it was closed, stolen, or the store lost it."""


# Python 3.11 takes 90 ns for an enum's member and 10 for a module's name.
HOLDS: Final = Standing.HOLDS
WAITS: Final = Standing.WAITS
BUSY: Final = Standing.BUSY
GONE: Final = Standing.GONE


class Peer(NamedTuple):
    """A session whose end might let a waiter in: listen to its address, look again at `due` at the latest."""

    session: str
    address: str
    due: Instant


class Place(NamedTuple):
    """Where a claim stands, as `enter` and `look` answer.

    Attributes:
        number: its number, 0 if it has none.
        floor: the group's floor if it holds, else 0 (rule B8).
        peers: if it waits, the sessions of the claims that together prove it blocked (rule B6). `due` is counted from
            before the request was sent plus what is left of their time: an estimate on the waiter's clock.
        facts: if the step opened or extended the session.
        limit: the differing limit of a holder, where permits were asked for; 0 if there is none.
    """

    standing: Standing
    number: int = 0
    floor: int = 0
    peers: tuple[Peer, ...] = ()
    facts: SessionFacts | None = None
    limit: int = 0


class ClaimRef(NamedTuple):
    """Names one claim; `number` is 0 while it is unknown."""

    session: str
    claim: int
    name: str
    number: int


class Closing(NamedTuple):
    """A claim to close.

    Attributes:
        tombstone: its enqueue was sent twice or not answered, so a late one must be refused (rule B1).
        clean: by a lease that is still held, or never handed out; only that skips the claim's lock_delay (rule B10).
        held: by a lease that is still held, so that the claim certainly is one of the holders.
        ttl: how long a tombstone must live where its session is not found, in seconds.
    """

    ref: ClaimRef
    tombstone: bool
    clean: bool
    held: bool
    ttl: Seconds


class Message(NamedTuple):
    """What a mailbox brings: a grant bound to session, claim and number (rule B4), or, with number 0, "look again"."""

    session: str
    claim: int
    number: int
    floor: int


class Mail(NamedTuple):
    """A message and the address it goes to, once the step that made it is committed (rule B3)."""

    address: str
    message: Message


class Beat(NamedTuple):
    """The answer to a heartbeat.

    Attributes:
        facts: of the session; of one that is over, only `life` counts: another one means that the store lost it.
        granted: the claims told but not yet taken (rule B4), if asked for.
        over: the session is over; nothing was extended.
    """

    facts: SessionFacts
    granted: tuple[Message, ...]
    over: bool = False


class Mailbox(Protocol):
    """Where a client hears that a claim was granted. One reader at a time; a message may be lost, late or doubled.

    Attributes:
        overflowed: so many messages came at once that some may not have found room; whoever lists the grants clears it.
    """

    overflowed: bool

    def watch(self, peers: Sequence[Peer]) -> bool:
        """Listen for the end of these sessions. False if one of them can already not be reached: look again."""
        ...

    async def receive(self, until: Instant | None) -> list[Message]:
        """Messages that have come, after waiting for the first; empty after `until`, a `poke` or the end of a peer."""
        ...

    def poke(self) -> None:
        """Make a `receive` in progress, or the next one, return. Never waits; safe from any thread."""
        ...


class QueueStore(Protocol):
    """An engine that keeps sessions and queues. Each operation is one atomic step.

    Raises, all of them:
        StoreUnavailable: certainly no effect.
        OutcomeUnknown: perhaps an effect; the caller repeats it or closes the claim.
        IncompatibleStore, UnsafeSetup: certainly no effect, and none to come.
    """

    async def enter(self, entry: Entry, timeout: Seconds) -> Place:
        """Put a claim into its queue, once: a repeat finds the first. A claim with a tombstone is refused as GONE."""
        ...

    async def look(self, ref: ClaimRef, timeout: Seconds) -> Place:
        """Say where a claim stands, after passing over the dead in front of it."""
        ...

    async def close(self, closings: Sequence[Closing], timeout: Seconds) -> list[bool]:
        """Remove claims; for each, whether it was there. Repeating it is harmless."""
        ...

    async def heartbeat(self, session: str, ttl: Seconds, waiting: bool, timeout: Seconds) -> Beat:
        """Extend a session, unless it is over. With `waiting`, list its grants not yet taken."""
        ...

    async def standing(self, refs: Sequence[ClaimRef], timeout: Seconds) -> list[bool]:
        """For each of up to 100 claims, whether it stands in its queue (rule A2)."""
        ...

    async def claims(self, session: str, timeout: Seconds) -> list[ClaimRef]:
        """Up to 100 claims that the engine has for a session."""
        ...

    async def end(self, session: str, timeout: Seconds) -> None:
        """End a session and remove what is left of its claims, uncleanly."""
        ...

    async def inspect(self, name: str, timeout: Seconds) -> Queue:
        """Who holds a name and who waits."""
        ...

    async def names(self, prefix: str, timeout: Seconds) -> list[str]:
        """The names that begin with `prefix` and have a queue, sorted."""
        ...

    async def steal(self, name: str, number: int, timeout: Seconds) -> bool:
        """Remove the claim with this number, if it stands there (rule B9)."""
        ...

    async def authority(self, timeout: Seconds) -> str:
        """Who draws the tokens: engine kind, namespace and the store's random id."""
        ...
