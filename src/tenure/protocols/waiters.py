"""Who of a client waits, and which of them reads its mailbox: decisions alone.

Promises: while any waiter sleeps, another one reads, or one has been woken to read.
Does not promise news to whoever is woken: a wake-up is a hint, and who is woken looks.

Every decision is made under the ledger's mutex. What it wakes is woken after the mutex is let go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenure.protocols.records import WAITING, Claim

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenure.ports import Mailbox, Runtime, Signal


class Waiters:
    """The claims of one client whose callers wait for news, and the one of them that reads for all."""

    def __init__(self, runtime: Runtime, mailbox: Mailbox, later: Callable[[Callable[[], None]], None]) -> None:
        self.mailbox = mailbox
        self.waiting: dict[Claim, None] = {}
        self.reader: Claim | None = None
        self._runtime = runtime
        self._later = later

    def start(self, claim: Claim) -> Signal | None:
        """Note a waiter, unless there is news for itself. It reads the mailbox (`reader`), unless another waiter does.

        Returns:
            What to wait for if another one reads. A reader needs none: it is woken through the mailbox.
        """
        # Looked at under the mutex in which it becomes a waiter, so that nothing that came in between is missed.
        if claim.phase is not WAITING or claim.hinted:
            return None
        self.waiting[claim] = None
        if self.reader is None:
            self.reader = claim
            return None
        if claim.signal is None:
            claim.signal = self._runtime.signal()
        return claim.signal

    def read_on(self, claim: Claim) -> None:
        """Let a waiter read the mailbox again, unless there is news for itself or another waiter reads."""
        if claim.phase is WAITING and not claim.hinted and self.reader is None:
            self.reader = claim

    def stop(self, claim: Claim) -> Signal | None:
        """A waiter is awake, and reads no longer. Repeating it is harmless.

        Returns:
            What to set after the mutex is let go, so that the next of those who wait reads; None if one reads already.
        """
        self.waiting.pop(claim, None)
        if self.reader is claim:
            self.reader = None
        if self.reader is not None:
            return None
        heir = next(iter(self.waiting), None)
        return None if heir is None else heir.signal

    def wake(self, claim: Claim) -> None:
        """Wake whoever waits for a claim, also if it is reading the mailbox."""
        if claim.signal is not None:
            self._later(claim.signal.set)
        if self.reader is claim:
            self._later(self.mailbox.poke)

    def hint_all(self) -> None:
        """Whoever waits looks again."""
        for claim in self.waiting:
            claim.hinted = True
            self.wake(claim)

    def clear(self) -> None:
        """In a forked child: nobody waits here."""
        self.waiting.clear()
        self.reader = None
