"""A waiter that has been behind one holder for long says so.

Without max_hold, a program that hangs while its keeper beats keeps a name for ever, and nothing is wrong anywhere. Only
those who wait can notice.

Promises: one event for each holder that is waited for so long. Does not promise to know what the holder does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenure.errors import OutcomeUnknown, StoreUnavailable
from tenure.model import Instant
from tenure.observe.events import Stalled

if TYPE_CHECKING:
    from tenure.ports import QueueStore
    from tenure.protocols.ledger import Ledger
    from tenure.protocols.records import Claim

LOOK_S: Final = 60.0
"""Seconds between two looks at who holds the name."""

STALL_S: Final = 600.0
"""Seconds behind one holder after which a waiter says so."""


class Stall:
    """What one waiter has seen of the holder in front."""

    __slots__ = ("_is_told", "_since", "_token", "look_at")

    def __init__(self, now: Instant) -> None:
        self.look_at = Instant(now + LOOK_S)
        self._token = 0
        self._since = now
        self._is_told = False

    async def look(self, ledger: Ledger, store: QueueStore, claim: Claim) -> None:
        """Look who holds the name. An engine that does not answer is no news: the wait itself notices that."""
        now = ledger.runtime.now()
        self.look_at = Instant(now + LOOK_S)
        try:
            queue = await store.inspect(claim.name, claim.session.patience)
        except (StoreUnavailable, OutcomeUnknown):
            return
        token = queue.holders[0].token if queue.holders else 0
        if token != self._token:
            self._token, self._since, self._is_told = token, now, False
        elif token and not self._is_told and now - self._since >= STALL_S:
            self._is_told = True
            ledger.emit(Stalled(claim.name, token, now - claim.asked_at))
            ledger.flush()
