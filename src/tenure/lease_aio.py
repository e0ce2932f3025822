"""The leases of tasks: one name, or several that are lost together.

Promises: the body of `async with` is cancelled when what it holds is lost; cancelling any call leaves nothing behind.
Does not promise that a cancelled body stops at once.
"""

from __future__ import annotations

import abc
import asyncio
from typing import TYPE_CHECKING, Self

from tenure import config
from tenure.body import Body, Held
from tenure.errors import TenureError
from tenure.lease import ASK_MOST, BaseLease
from tenure.leases import BaseLeases
from tenure.model import Instant, LossReason, Seconds
from tenure.ports import HOLDS
from tenure.protocols import claim as protocol
from tenure.protocols.lease import release_later
from tenure.protocols.several import release_all

if TYPE_CHECKING:
    from types import TracebackType

    from tenure.errors import LeaseLost
    from tenure.ports import QueueStore


class _Entered(Held, abc.ABC):
    """What cancels its body when it is lost, and is left by giving it back."""

    _cancel_on_loss = True
    _body: Body | None = None

    @abc.abstractmethod
    def _drop(self) -> None: ...

    @abc.abstractmethod
    def _loss(self) -> LeaseLost: ...

    @abc.abstractmethod
    async def release(self) -> None: ...

    async def __aenter__(self) -> Self:
        if self._cancel_on_loss:
            task = asyncio.current_task()
            if task is not None:
                self._body = Body(self, asyncio.get_running_loop(), task)
                self._body.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        body, self._body = self._body, None
        outer = body.leave(asyncio.current_task()) if body is not None else True
        if self.lost is LossReason.FORKED and error is None:
            return  # the parent's block, left in a forked child: nothing of it is ours to judge
        if isinstance(error, asyncio.CancelledError):
            await self._leave_cancelled(error, body is not None and body.ours and not outer)
            return
        try:
            await self.release()
        except TenureError as lost:
            if error is None:
                raise
            error.add_note(str(lost))

    async def _leave_cancelled(self, error: asyncio.CancelledError, ours: bool) -> None:
        self._drop()
        if ours:
            raise self._loss() from error
        # Somebody else's cancellation passes at once: the keeper releases, and `lost` still tells.
        for claim in self._claims:
            release_later(self._core.ledger, claim)


class AsyncLease(BaseLease, _Entered):
    """The right to a name until an instant; leaves no trace once released."""

    _store: QueueStore

    async def release(self) -> None:
        """Give the name back. Repeating it does nothing.

        A release without an answer is repeated by the keeper and raises nothing.

        Raises:
            LeaseLost: it had been lost before; what was done since may have overlapped with another holder.

        Cancellation: safe; the keeper releases it.
        """
        claim = self._own
        self._core.drop(claim)
        reason = claim.lost
        if self._alive():
            reason = await protocol.release(self._core.ledger, self._store, claim)
        if reason is not None:
            raise self._loss()

    async def confirm(self) -> bool:
        """Ask the engine whether this lease is among the holders of its name; False if it is lost or released.

        Costs a request. True was true when the engine answered and may be false by now, as with any lease.

        Raises:
            StoreUnavailable, OutcomeUnknown: the engine did not answer.

        Cancellation: safe.
        """
        if not self.held:
            return False
        place = await self._store.look(self._own.ref, ASK_MOST)
        return place.standing is HOLDS

    async def wait_lost(self, timeout: Seconds | None = None) -> LossReason | None:
        """Wait until the lease is lost or released, or for `timeout` seconds; the reason, or None."""
        runtime, patience = self._core.ledger.runtime, config.wait(timeout, "timeout")
        until = None if patience is None else Instant(runtime.now() + patience)
        signal = runtime.signal()
        self._own.on_end.append(signal.set)
        try:
            while self.held:
                end = self.deadline if until is None else min(until, self.deadline)
                if until is not None and runtime.now() >= until:
                    break
                await signal.wait(Instant(min(end, runtime.now() + 1.0)))
        finally:
            self._own.on_end.remove(signal.set)
        return self.lost


class AsyncLeases(BaseLeases[AsyncLease], _Entered):
    """The right to several names until an instant; if one is lost, all are. A mapping from names to leases."""

    _store: QueueStore

    async def release(self) -> None:
        """Give all names back. Repeating it does nothing.

        A release without an answer is repeated by the keeper and raises nothing.

        Raises:
            LeaseLost: one had been lost before; what was done since may have overlapped with another holder.

        Cancellation: safe; the keeper releases them.
        """
        self._drop()
        if await release_all(self._core.ledger, self._store, self._claims) is not None:
            raise self._loss()

    async def wait_lost(self, timeout: Seconds | None = None) -> LossReason | None:
        """Wait until the leases are lost or released, or for `timeout` seconds; the reason, or None."""
        await self._in_order[0].wait_lost(timeout)
        return self.lost


__all__ = ["AsyncLease", "AsyncLeases"]
