"""The leases of threads: one name, or several that are lost together.

Promises: leaving the `with` block gives back what is held, and says if it had been lost.
Does not promise that a thread stops when it loses a lease: Python cannot stop one. Call `check()`.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Self

from tenure import config
from tenure.errors import TenureError
from tenure.lease import ASK_MOST, BaseLease
from tenure.leases import BaseLeases
from tenure.model import Instant, LossReason, Seconds
from tenure.ports import HOLDS
from tenure.protocols import claim as protocol
from tenure.protocols.records import CLOSED
from tenure.protocols.several import release_all
from tenure.runtimes.blocking import run

if TYPE_CHECKING:
    from types import TracebackType

    from tenure.ports import QueueStore


class _Entered(abc.ABC):
    """What is left by giving it back."""

    @property
    @abc.abstractmethod
    def lost(self) -> LossReason | None: ...

    @abc.abstractmethod
    def release(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.lost is LossReason.FORKED and error is None:
            return  # the parent's block, left in a forked child: nothing of it is ours to judge
        try:
            self.release()
        except TenureError as lost:
            if error is None:
                raise
            error.add_note(str(lost))


class Lease(BaseLease, _Entered):
    """The right to a name until an instant; leaves no trace once released."""

    def release(self) -> None:
        """Give the name back. Repeating it does nothing.

        A release without an answer is repeated by the keeper and raises nothing.

        Raises:
            LeaseLost: it had been lost before; what was done since may have overlapped with another holder.
        """
        claim = self._own
        self._core.drop(claim)
        # A client that was closed has released it already, and has no engine to ask.
        reason = claim.lost
        if reason is None and claim.phase is not CLOSED:
            reason = run(protocol.release(self._core.ledger, self._store, claim))
        if reason is not None:
            raise self._loss()

    _store: QueueStore

    def confirm(self) -> bool:
        """Ask the engine whether this lease is among the holders of its name; False if it is lost or released.

        Costs a request. True was true when the engine answered and may be false by now, as with any lease.

        Raises:
            StoreUnavailable, OutcomeUnknown: the engine did not answer.
        """
        if not self.held:
            return False
        place = run(self._store.look(self._own.ref, ASK_MOST))
        return place.standing is HOLDS

    def wait_lost(self, timeout: Seconds | None = None) -> LossReason | None:
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
                run(signal.wait(Instant(min(end, runtime.now() + 1.0))))
        finally:
            self._own.on_end.remove(signal.set)
        return self.lost


class Leases(BaseLeases[Lease], _Entered):
    """The right to several names until an instant; if one is lost, all are. A mapping from names to leases."""

    _store: QueueStore

    def release(self) -> None:
        """Give all names back. Repeating it does nothing.

        A release without an answer is repeated by the keeper and raises nothing.

        Raises:
            LeaseLost: one had been lost before; what was done since may have overlapped with another holder.
        """
        self._drop()
        if run(release_all(self._core.ledger, self._store, self._claims)) is not None:
            raise self._loss()

    def wait_lost(self, timeout: Seconds | None = None) -> LossReason | None:
        """Wait until the leases are lost or released, or for `timeout` seconds; the reason, or None."""
        self._in_order[0].wait_lost(timeout)
        return self.lost


__all__ = ["Lease", "Leases"]
