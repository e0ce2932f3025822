"""What both kinds of lease share: everything that asks the local clock and nothing else.

Promises: no request is made here; `held` is computed at the moment of asking and never stored; a loss, once seen,
stays. Does not promise that the engine still agrees, or that nobody else works: compare the token at the resource.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NoReturn, Self

from tenure.errors import LeaseLost
from tenure.model import Grant, Instant, LeaseState, LossReason, Seconds
from tenure.protocols.lease import worth
from tenure.protocols.records import CLOSED, HELD

if TYPE_CHECKING:
    from tenure.core import Core
    from tenure.protocols.records import Claim


ASK_MOST: Seconds = 5.0
"""Seconds that one question to an engine that is no claim (confirm, inspect, names, steal) may take."""


class BaseLease:
    """The right to a name until an instant."""

    _claim: Claim | None = None
    """None also of a lease whose making Ctrl-C cut off; it is collected all the same."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._claim = None

    def _adopt(self, claim: Claim) -> None:
        # Before the request is sent: whatever happens to the caller, this handle's end closes the claim (B2).
        self._claim = claim

    @property
    def _own(self) -> Claim:
        claim = self._claim
        if claim is None:
            raise LeaseLost("this lease was never granted")
        return claim

    @property
    def _missing(self) -> Self | None:
        """Itself, unless it was granted."""
        return None if self._claim is not None and self._claim.phase is HELD else self

    @property
    def _claims(self) -> list[Claim]:
        return [self._own]

    def _drop(self) -> None:
        """Forget under whom it is held."""
        self._core.drop(self._own)

    @property
    def name(self) -> str:
        """What is locked."""
        return self._core.bare(self._own.name)

    @property
    def token(self) -> int:
        """The fencing token: larger than that of every earlier grant of this name."""
        return self._own.number

    @property
    def floor(self) -> int:
        """The smallest token of the group that holds together; the token itself if it is exclusive (rule B8)."""
        return self._own.floor

    @property
    def grant(self) -> Grant:
        """The proof of this grant, which may be pickled and sent on."""
        return Grant(self.name, self.token, self.floor, self._core.authority)

    @property
    def state(self) -> LeaseState:
        """HELD, SUSPECT (renewals fail, the deadline is ahead), LOST or RELEASED, by the clock of this moment."""
        return worth(self._core.ledger, self._own) if self._alive() else self._own_state()

    @property
    def held(self) -> bool:
        """Whether the deadline is ahead at this moment. True of SUSPECT too."""
        return self.state in (LeaseState.HELD, LeaseState.SUSPECT)

    @property
    def deadline(self) -> Instant:
        """The local end on the boot-time clock, in seconds; it moves with each renewal."""
        return self._own.deadline

    def remaining(self) -> Seconds:
        """Seconds until the deadline; 0 if the lease is lost or released. Bound your own timeouts by it."""
        if not self.held:
            return 0.0
        return max(0.0, self._own.deadline - self._core.ledger.runtime.now())

    @property
    def lost(self) -> LossReason | None:
        """Why it was lost, or None. Once set it stays."""
        _ = self.state  # whoever sees a passed deadline latches it
        return self._own.lost

    def check(self) -> None:
        """Return if the lease is held at this moment; costs no request.

        Raises:
            LeaseLost: stop; another holder may be at work. Also after a release.
        """
        state = self.state
        if state is LeaseState.LOST:
            raise self._loss()
        if state is LeaseState.RELEASED:
            raise LeaseLost(f"the lease on {self.name!r} was released", name=self.name, token=self.token)

    def refused(self) -> None:
        """Note that a resource refused the token: somebody else holds the name. The lease is lost, without a request.

        The guards of `tenure.fencing` do this; whoever compares tokens by other means does it by hand.
        """
        claim, ledger = self._own, self._core.ledger
        if self._alive():
            with ledger.mutex:
                ledger.lose(claim, LossReason.REFUSED, ledger.runtime.now())
            ledger.flush()

    def hand_over(self) -> None:
        """Let another thread or task use this lease: this one may then ask for the name again.

        Tell nobody else: the lease, its deadline and its token stay as they are.
        """
        self._core.drop(self._own)
        self._own.owner = None

    def _alive(self) -> bool:
        return self._own.lost is None and self._own.phase is not CLOSED

    def _own_state(self) -> LeaseState:
        return LeaseState.RELEASED if self._own.lost is None else LeaseState.LOST

    def _loss(self) -> LeaseLost:
        reason = self._own.lost
        why = "unknown" if reason is None else reason.value
        return LeaseLost(
            f"the lease on {self.name!r} (token {self.token}) was lost: {why}",
            name=self.name,
            token=self.token,
            reason=reason,
        )

    def __repr__(self) -> str:
        if self._claim is None:
            return f"<{type(self).__name__} never granted>"
        return f"<{type(self).__name__} {self.name!r} token {self.token} {self.state.value}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a lease is this process's own; pickle lease.grant, which guards accept too")

    def __del__(self) -> None:
        claim = self._claim
        if claim is None or claim.phase is CLOSED:
            return
        # Never takes a lock: a finalizer may run inside any other code of this thread.
        if claim.phase is HELD:
            warnings.warn(f"{self!r} was never released", ResourceWarning, stacklevel=2, source=self)
        self._core.ledger.inbox.put(claim)
