"""How a waiter waits for news of its claim: one waiter of the client reads the mailbox, the others sleep.

Reading oneself saves a hop between threads: the holder-to-be wakes at once, without a dispatcher in between.

Promises: whoever leaves, however it leaves, hands the reading on.
Does not promise news to whoever comes back: its caller looks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenure.ports import Message
from tenure.protocols.records import WAITING

if TYPE_CHECKING:
    from tenure.model import Instant
    from tenure.protocols.ledger import Ledger
    from tenure.protocols.records import Claim

LOOK: Final = Message("", 0, 0, 0)
"""Tells every waiter of the client to look again."""


async def news(ledger: Ledger, claim: Claim, until: Instant) -> None:
    """Wait for a message, a hint or an instant."""
    waiters = ledger.waiters
    mailbox = waiters.mailbox
    try:
        with ledger.mutex:
            signal = waiters.start(claim)
        if signal is not None:
            await signal.wait(until)
            return
        while waiters.reader is claim:
            messages = await mailbox.receive(until)
            waiters.reader = None  # awake already: what is delivered here needs no poke
            if messages or ledger.runtime.now() < until:
                # Empty-handed before its time: a session in front has ended, or something came that nobody understood.
                ledger.deliver(messages or [LOOK])
            if mailbox.overflowed:
                mailbox.overflowed = False
                ledger.inbox.put(claim.session)
            # What came was for another waiter: to read on costs less than to wake a third one that would.
            if claim.phase is not WAITING or not messages or ledger.runtime.now() >= until:
                return
            with ledger.mutex:
                waiters.read_on(claim)
    finally:
        with ledger.mutex:
            heir = waiters.stop(claim)
        if heir is not None:
            heir.set()
