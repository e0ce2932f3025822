"""What a client has in an ensemble: its sessions there, its claims, and from when their deadline counts.

Promises: records, and the one rule that follows from a session's own writes (C3). Does not promise to be seen whole:
whoever is not under the hub's mutex reads one field at a time.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from tenure.model import Instant

if TYPE_CHECKING:
    from tenure.engines.zookeeper.link import Link
    from tenure.model import Mode, Seconds
    from tenure.ports import SessionCard

_NEVER: Final = Instant(float("-inf"))

BEATS_PER_TTL: Final = 6
TICKS_LEAST: Final = 3
"""Of a session's timeout: with fewer, heartbeats half a tick apart could not keep half of it ahead (A1, C3)."""


class Proof:
    """From when a session's deadline counts.

    An answered write proves that its server is in touch with the leader now, not that the leader heard of the session
    now: a follower passes that on every half tick. So what counts is the write *two before* the last answered one,
    writes being half a tick apart; or the first message of the connection, for the leader itself decides on that.
    Pings, reads and `sync` are answered by a follower that was cut off, and prove nothing.
    """

    def __init__(self) -> None:
        self.since = _NEVER
        self._beats: deque[Instant] = deque(maxlen=3)

    def answered(self, sent: Instant, connected: Instant, apart: Seconds) -> Instant:
        """A write was answered.

        Args:
            sent: before it was sent.
            connected: before the first message of its connection was sent.
            apart: seconds that two writes are apart at least to count as two.
        """
        if not self._beats or sent >= self._beats[-1] + apart:
            self._beats.append(sent)
        if len(self._beats) == self._beats.maxlen:
            self.since = max(self.since, self._beats[0])
        self.since = max(self.since, connected)
        return self.since


class Berth:
    """One session in the ensemble: that of a client, or of its claims with one lock_delay (B10)."""

    def __init__(self, link: Link, serial: int, delay: Seconds) -> None:
        self.link = link
        self.serial = serial
        self.delay = delay
        self.node = ""
        self.proof = Proof()
        self.is_known = False
        """Its own node was made, `node`."""


class Own:
    """A claim of this client."""

    __slots__ = ("berth", "claim", "mode", "name", "node", "number", "queue", "session", "told", "waits", "watched")

    def __init__(self, berth: Berth, session: str, claim: int, name: str, queue: str, mode: Mode) -> None:
        self.berth = berth
        self.session = session
        self.claim = claim
        self.name = name
        self.queue = queue
        self.mode = mode
        self.node = ""
        """Empty until its enqueue is answered."""
        self.number = 0
        self.told = False
        """It was granted, so an unclean end keeps its name closed for its lock_delay (B10)."""
        self.waits = False
        self.watched: set[str] = set()

    @property
    def path(self) -> str:
        """Where it is."""
        return f"{self.queue}/{self.node}"


class Seat:
    """A session of tenure's, with its sessions in the ensemble and its claims."""

    def __init__(self, card: SessionCard, main: Berth) -> None:
        self.card = card
        self.main = main
        self.delayed: dict[Seconds, Berth] = {}
        self.serial = 0
        self.steals = 0
        """The version of the node that steals write."""
        self.claims: dict[int, Own] = {}

    @property
    def berths(self) -> list[Berth]:
        """All its sessions."""
        return [self.main, *self.delayed.values()]

    def in_use(self) -> list[Berth]:
        """The sessions that a deadline rests on."""
        used = {id(own.berth) for own in list(self.claims.values())}
        return [berth for berth in self.berths if berth is self.main or id(berth) in used]
