"""Which keys this client's waiters watch, and since which revision: what stores and mailboxes share.

Promises: a key is watched once, however many wait for its end; whoever stops waiting leaves no watch behind; whoever
has seen a key before its watch began is told to look again, so that no end is missed in between: at once, or a little
later if what it watches was itself waiting, for that is seldom gone in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tenure.model import Instant
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Iterable

LATE_S: Final = 0.25
"""Seconds after which those look again who have seen what they watch, itself a waiter, before their watch began."""


class Waiter(NamedTuple):
    """A claim that waits."""

    session: str
    claim: int


class Wanted(NamedTuple):
    """A key to watch.

    Attributes:
        key: which.
        revision: at which it was seen.
        puts: also when it is written, not only when it goes.
        waits: it waited itself when it was seen, so it is not about to go.
    """

    key: bytes
    revision: int
    puts: bool = False
    waits: bool = False


def address(waiter: Waiter, revision: int, key: bytes, waits: bool) -> str:
    """What a waiter watches, as the address of a peer."""
    return f"{revision} {waits:d} {waiter.claim} {waiter.session} {key.decode()}"


def from_address(text: str) -> tuple[Waiter, Wanted]:
    """What `address` has written."""
    revision, waits, claim, session, key = text.split(" ", 4)
    return Waiter(session, int(claim)), Wanted(key.encode(), int(revision), waits=waits == "1")


class Watches:
    """The watches of one client; safe from any thread."""

    def __init__(self) -> None:
        self._mutex = native.mutex()
        self._wanted: dict[bytes, Wanted] = {}
        self._waiters: dict[bytes, set[Waiter]] = {}
        self._keys: dict[Waiter, set[bytes]] = {}
        self._since: dict[bytes, int] = {}
        """The revision after which a watch tells everything; absent while it was not answered yet."""
        self._changed: dict[bytes, None] = {}
        self._late: dict[bytes, Instant] = {}
        """Those that were seen before their watch began, by somebody who looks again then; in this order."""

    def set(self, waiter: Waiter, wanted: Iterable[Wanted]) -> tuple[bool, bool]:
        """From now on a waiter watches these and no others.

        Returns:
            Whether a key must be asked for, and whether the waiter must look again: it has seen one before its watch
            began.
        """
        with self._mutex:
            news = {want.key: want for want in wanted}
            for key in self._keys.get(waiter, set()) - news.keys():
                self._leave(waiter, key)
            asks = late = False
            for key, want in news.items():
                late = late or self._since.get(key, 0) > want.revision
                if key not in self._wanted:
                    self._wanted[key] = want
                    self._changed[key] = None
                    asks = True
                self._waiters.setdefault(key, set()).add(waiter)
            self._keys[waiter] = set(news)
            return asks, late

    def began(self, key: bytes, revision: int, now: Instant) -> list[Waiter]:
        """The server watches a key, and tells what happens after a revision: who has seen it before, and looks again.

        Asked for the past instead, etcd takes its time: every 100 ms it looks for those who want that.
        """
        with self._mutex:
            want = self._wanted.get(key)
            if want is None:
                return []
            self._since[key] = revision
            if revision <= want.revision:
                return []
            if want.waits:
                # Under contention most have seen what they watch a little earlier, and will be told of its end before
                # long: a look at once would be for nothing.
                self._late[key] = Instant(now + LATE_S)
                return []
            return list(self._waiters.get(key, ()))

    def late_at(self) -> Instant | None:
        """When somebody shall look again; None if nobody shall."""
        with self._mutex:
            return next(iter(self._late.values()), None)

    def late(self, now: Instant) -> list[Waiter]:
        """Who looks again now, having seen a key before its watch began."""
        with self._mutex:
            due = [key for key, at in self._late.items() if now >= at]
            for key in due:
                del self._late[key]
            return [waiter for key in due for waiter in self._waiters.get(key, ())]

    def drop(self, waiter: Waiter) -> None:
        """It waits no longer. The server is told when something else is to be said."""
        if waiter in self._keys:
            with self._mutex:
                for key in self._keys.pop(waiter, ()):
                    self._leave(waiter, key)

    def _leave(self, waiter: Waiter, key: bytes) -> None:
        waiters = self._waiters.get(key)
        if waiters is not None:
            waiters.discard(waiter)
            # A session's own key stays watched: its next wait wants it again, and its end is told.
            if not waiters and not self._wanted[key].puts:
                del self._waiters[key], self._wanted[key]
                self._since.pop(key, None)
                self._late.pop(key, None)
                self._changed[key] = None

    def fire(self, key: bytes) -> list[Waiter]:
        """Something happened to a key: who waited for that. It is watched no longer, until somebody asks again."""
        with self._mutex:
            waiters = self._waiters.pop(key, set())
            for waiter in waiters:
                self._keys[waiter].discard(key)
            self._since.pop(key, None)
            self._late.pop(key, None)
            want = self._wanted.pop(key, None)
            # A claim's key does not come again, and its watch says nothing more: nobody needs to be told of that.
            if want is not None and want.puts:
                self._changed[key] = None
            return list(waiters)

    def changes(self) -> list[tuple[bytes, Wanted | None]]:
        """What has changed since the last call: what is wanted of each key now, None for nothing."""
        if not self._changed:
            return []
        with self._mutex:
            changed, self._changed = self._changed, {}
            return [(key, self._wanted.get(key)) for key in changed]

    def everything(self) -> list[Wanted]:
        """All that is wanted; for a new connection, before which much may have happened."""
        with self._mutex:
            self._changed, self._since, self._late = {}, {}, {}
            self._wanted = {key: want._replace(waits=False) for key, want in self._wanted.items()}
            return list(self._wanted.values())

    @property
    def is_empty(self) -> bool:
        """Nobody watches anything."""
        return not self._wanted
