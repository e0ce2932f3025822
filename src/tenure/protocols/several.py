"""Several names at once: one after the other in one order, held together and lost together (rule B11).

Promises: two clients never wait for each other, for all take the names that they share in the same order, each granted
before the next is asked for; whatever ends the call early, nothing is held afterwards.
Does not promise one step: while it waits for one name, it holds those before it.

Source: ordered resource acquisition (Havender 1968, "Avoiding deadlock in multitasking systems").
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tenure.model import LossReason
from tenure.protocols.claim import acquire, release
from tenure.protocols.lease import join, release_later

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tenure.model import Instant
    from tenure.ports import QueueStore
    from tenure.protocols.claim import Ask
    from tenure.protocols.ledger import Ledger
    from tenure.protocols.records import Claim


def in_order(ledger: Ledger, asks: Iterable[Ask]) -> list[Ask]:
    """The order in which every client takes names: by the part of the store, then by name."""
    return sorted(asks, key=lambda ask: (ledger.part(ask.name), ask.name))


async def acquire_all(
    ledger: Ledger,
    store: QueueStore,
    asks: Sequence[Ask],
    until: Instant | None,
    at_once: bool,
    adopt: Callable[[int, Claim], None],
) -> list[Claim] | Ask:
    """Wait until a claim of each ask is among the holders of its name.

    Args:
        ledger: the client's.
        store: the caller's own connection to the engine.
        asks: one for each name, as `in_order` has them.
        until: give up at this instant; None waits for ever.
        at_once: take all of them without waiting, or none.
        adopt: called with the place of an ask and its claim, before that one's request is sent.

    Returns:
        The claims, held, and tied together: if one is lost, all are. Or, if the wait is over, the ask that was not
        granted: then nothing is held.

    Raises:
        As `claim.acquire`; nothing is held.

    Cancellation: safe at every await; nothing is held afterwards, and the keeper closes what was granted.
    """
    while True:
        claims: list[Claim] = []
        try:
            for place, ask in enumerate(asks):
                claim = await acquire(ledger, store, ask, until, at_once, partial(adopt, place))
                if claim is None:
                    return ask
                claims.append(claim)
            if join(ledger, claims):
                held, claims = claims, []
                return held
        finally:
            # Whatever was granted before one was not; what was lost is closed by the keeper already.
            for claim in claims:
                release_later(ledger, claim)
        # One of them was lost while a later one was waited for.
        if at_once or (until is not None and ledger.runtime.now() >= until):
            return asks[0]


async def release_all(ledger: Ledger, store: QueueStore, claims: Sequence[Claim]) -> LossReason | None:
    """Give all back, the last one taken first.

    Returns:
        None if they were held until now, or had been released before; else why one was lost.

    Cancellation: safe; the keeper closes the rest.
    """
    reason: LossReason | None = None
    left = list(claims)
    try:
        while left:
            found = await release(ledger, store, left.pop())
            if reason in (None, LossReason.TOGETHER):
                reason = found or reason
    finally:
        for claim in left:
            release_later(ledger, claim)
    return reason
