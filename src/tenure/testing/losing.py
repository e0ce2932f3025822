"""What if I lose it here? Ways to lose a lease on purpose, between two lines of a test.

Promises: what the holder's code sees is what it sees of a real loss. Does not promise anything of the resource: a
holder that lost its lease goes on until it asks, which is what such tests are about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenure import config
from tenure.errors import UsageError
from tenure.lease import BaseLease
from tenure.model import LossReason
from tenure.testing.clock import ADVANCE_MOST
from tenure.testing.works import Life, Works

if TYPE_CHECKING:
    from tenure.face import BaseClient
    from tenure.model import Seconds

    Holder = BaseLease | BaseClient


def lose_lease(lease: BaseLease, reason: LossReason = LossReason.SESSION_ENDED) -> None:
    """Lose a lease at this moment, on any engine, as if its engine had ended it.

    `held` is false from here on, `check()` raises LeaseLost with this reason, the body of an `async with` is cancelled
    at its next await, and `on_event` is told. The engine is told by the keeper: at once by a virtual clock, soon after
    otherwise; then others may have the name. A lease that was lost or released before stays as it was.

    Args:
        lease: of any client, blocking or asyncio; from any thread.
        reason: what `lease.lost` says.

    Raises:
        UsageError: an argument is wrong; nothing was done.
    """
    if not isinstance(lease, BaseLease):
        raise UsageError(f"lease: a lease is needed, not {type(lease).__name__}")
    if not isinstance(reason, LossReason):
        raise UsageError(f"reason: one of LossReason is needed, not {reason!r}")
    claim, ledger = lease._own, lease._core.ledger  # noqa: SLF001 - what the keeper does, done by hand
    with ledger.mutex:
        ledger.lose(claim, reason, ledger.runtime.now())
    ledger.flush()
    works = getattr(lease._core, "works", None)  # noqa: SLF001
    if isinstance(works, Works):
        works.settle()


def pause(holder: Holder, seconds: Seconds | None = None) -> None:
    """Stop the holder's process, let time pass, and let it go on, as SIGSTOP or a suspended machine does.

    Its keeper renews nothing meanwhile, and everybody else's does. When this returns the lease is as after a real
    pause: past its deadline, `held` is false, the engine has ended it, so that others may have the name, and the body
    of an `async with` is cancelled at its next await. No real time passes.

    Args:
        holder: a lease of a client of a `VirtualClock`, or the client: all of its leases are paused.
        seconds: how long, up to a year; by default the whole ttl, after which the engine has ended its session.

    Raises:
        UsageError: it lives by no virtual clock, or an argument is wrong; nothing was done.
    """
    works, life = _life(holder)
    by = holder._core.settings.ttl + 0.001 if seconds is None else config.seconds("seconds", seconds, 0.0, ADVANCE_MOST)  # noqa: SLF001
    life.is_paused = True
    try:
        works.advance(works.now() + by)
    finally:
        life.is_paused = False
        works.settle()


def _life(holder: object) -> tuple[Works, Life]:
    """The works of the clock by which a lease or a client lives, and whether its process runs."""
    core = getattr(holder, "_core", None)
    works, life = getattr(core, "works", None), getattr(core, "life", None)
    if not isinstance(works, Works) or not isinstance(life, Life):
        raise UsageError(
            "holder: a lease or a client of a VirtualClock is needed, whose time can pass; any other lease can be "
            "lost with lose_lease"
        )
    return works, life
