"""Cancels the body of an `async with` when its lease is lost, as `asyncio.timeout` cancels its own.

Promises: the entering task is cancelled once, from a callback of the loop; an outer cancellation always wins and its
count stays intact; nothing is cancelled after the body was left.
Does not promise a barrier: a cancellation is a stop signal, and the body may run until its next await.

Source: asyncio.timeout (CPython, Lib/asyncio/timeouts.py) for `cancelling`/`uncancel`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    import asyncio

    from tenure.core import Core
    from tenure.model import Instant, LossReason
    from tenure.protocols.records import Claim
    from tenure.runtimes.aio import AioRuntime, Timer


class Held(Protocol):
    """A lease, or several that are lost together."""

    _core: Core

    @property
    def _claims(self) -> list[Claim]: ...

    @property
    def held(self) -> bool:
        """Whether the deadline is ahead."""
        ...

    @property
    def lost(self) -> LossReason | None:
        """Why it was lost."""
        ...

    @property
    def deadline(self) -> Instant:
        """The local end."""
        ...


class Body:
    """One entered `async with`."""

    def __init__(self, lease: Held, loop: asyncio.AbstractEventLoop, task: asyncio.Task[object]) -> None:
        self._lease = lease
        self._loop = loop
        self._task = task
        self._base = task.cancelling()
        self._out = False
        self._ours = False
        self._timer: Timer | None = None

    def enter(self) -> None:
        """Arm both triggers: a timer at the deadline, and the keeper's call.

        After a stop of the whole process the timer fires within one turn of the loop, the keeper's call perhaps a
        hundred turns later; a loss before the deadline is known to the keeper alone.
        """
        for claim in self._lease._claims:
            claim.on_lost.append(self._from_keeper)
        self._arm()
        if self._lease.lost is not None:
            self._loop.call_soon(self._fire)

    def _arm(self) -> None:
        runtime = cast("AioRuntime", self._lease._core.ledger.runtime)
        self._timer = runtime.timer(self._lease.deadline, self._tick)

    def _tick(self) -> None:
        if self._out:
            return
        if self._lease.lost is not None:
            self._fire()
        elif self._lease.held:
            self._arm()  # renewed meanwhile

    def _from_keeper(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._fire)
        except RuntimeError:  # the loop is closed, and the body with it
            return

    def _fire(self) -> None:
        # Only ever run as a callback of the loop: from the task's own frame, `cancel` would leave a stray
        # cancellation behind after `uncancel` on Python 3.11 and 3.12.
        if not self._out and not self._ours:
            self._ours = True
            self._task.cancel()

    def leave(self, task: asyncio.Task[object] | None) -> bool:
        """Disarm; first thing on leaving, so that a late callback does nothing.

        Returns:
            Whether a cancellation that is being delivered is another's than ours.
        """
        self._out = True
        if self._timer is not None:
            self._timer.cancel()
        if task is None or task is not self._task:
            # Left in another task than entered: that one's cancellations are none of ours.
            return True
        if self._ours:
            return task.uncancel() > self._base
        return task.cancelling() > self._base

    @property
    def ours(self) -> bool:
        """Whether the loss cancelled the body."""
        return self._ours
