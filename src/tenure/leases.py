"""What both kinds of several leases share: a mapping from names to leases that are lost together.

Promises: as `lease`: no request is made here.
Does not promise that all were taken in one step: each has a grant of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from tenure.lease import BaseLease
from tenure.model import LeaseState, LossReason

if TYPE_CHECKING:
    from tenure.core import Core
    from tenure.errors import LeaseLost
    from tenure.model import Instant, Seconds
    from tenure.protocols.records import Claim

L = TypeVar("L", bound=BaseLease)

_WORSE: Final = [LeaseState.HELD, LeaseState.SUSPECT, LeaseState.RELEASED, LeaseState.LOST]


class BaseLeases(Mapping[str, L], Generic[L]):
    """The right to several names until an instant. Each has its own token: `leases[name].token`."""

    def __init__(self, core: Core, leases: dict[str, L]) -> None:
        """Hold nothing yet.

        Args:
            core: the client's.
            leases: by name, in the order in which they are taken.
        """
        self._core = core
        self._leases = leases
        self._in_order = list(leases.values())
        self._missing: L | None = self._in_order[0]
        """The one that was not granted; None once all are."""

    def _adopt(self, place: int, claim: Claim) -> None:
        self._in_order[place]._adopt(claim)

    @property
    def _claims(self) -> list[Claim]:
        return [lease._own for lease in self._in_order]

    def _drop(self) -> None:
        """Forget under whom they are held."""
        for claim in self._claims:
            self._core.drop(claim)

    def _loss(self) -> LeaseLost:
        lost = [lease for lease in self._in_order if lease.lost is not None]
        first = [lease for lease in lost if lease.lost is not LossReason.TOGETHER]
        return (first or lost or self._in_order)[0]._loss()

    # -- the names --------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> L:
        return self._leases[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._leases)

    def __len__(self) -> int:
        return len(self._leases)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    # -- the whole --------------------------------------------------------------------------------------------------

    @property
    def state(self) -> LeaseState:
        """The worst of any: HELD, SUSPECT (renewals fail), RELEASED or LOST, by the clock of this moment."""
        return max((lease.state for lease in self._in_order), key=_WORSE.index)

    @property
    def held(self) -> bool:
        """Whether all deadlines are ahead at this moment. True of SUSPECT too."""
        return self.state in (LeaseState.HELD, LeaseState.SUSPECT)

    @property
    def deadline(self) -> Instant:
        """The earliest local end on the boot-time clock, in seconds; it moves with each renewal."""
        return min(lease.deadline for lease in self._in_order)

    def remaining(self) -> Seconds:
        """Seconds until the deadline; 0 if one is lost or released. Bound your own timeouts by it."""
        return min(lease.remaining() for lease in self._in_order)

    @property
    def lost(self) -> LossReason | None:
        """Why they were lost, or None. Once set it stays."""
        return self._loss().reason

    def check(self) -> None:
        """Return if all are held at this moment; costs no request.

        Raises:
            LeaseLost: stop; another holder may be at work. Also after a release.
        """
        if self.state is LeaseState.LOST:
            raise self._loss()
        for lease in self._in_order:
            lease.check()

    def hand_over(self) -> None:
        """Let another thread or task use these leases: this one may then ask for the names again."""
        for lease in self._in_order:
            lease.hand_over()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(map(repr, self._leases))} {self.state.value}>"
