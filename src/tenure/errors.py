"""Every exception of tenure; each says what the caller now knows and may do.

Promises: one root, `TenureError`; one class per cause; each pickles and keeps its cause.
`retry` tells whether asking again is safe: True only where nothing is held and nothing was done.
Does not promise: that a message is stable; match on classes and attributes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenure.model import LossReason, Queue


def _rebuild(
    cls: type[TenureError], args: tuple[Any, ...], state: dict[str, Any], cause: BaseException | None
) -> TenureError:
    """Make the exception anew in another process, its cause included."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    error.__cause__ = cause
    return error


class TenureError(Exception):
    """The root of everything that tenure raises."""

    retry: ClassVar[bool] = False

    def __reduce__(self) -> tuple[Callable[..., TenureError], tuple[Any, ...]]:
        # BaseException's own form drops __cause__, which is often the only thing that explains an outage.
        return _rebuild, (type(self), self.args, self.__dict__.copy(), self.__cause__)


class NotHeld(TenureError):
    """Nothing is held and nothing was done; asking again is safe."""

    retry: ClassVar[bool] = True


class AcquireTimeout(NotHeld, TimeoutError):
    """The wait is over and nothing is held.

    Attributes:
        name: the name that was asked for.
        waited: how long was waited, in seconds.
        queue: who holds the name and who waits, as seen after the wait was over; None where the engine
            could not be asked any more.
    """

    def __init__(self, message: str, *, name: str = "", waited: float = 0.0, queue: Queue | None = None) -> None:
        super().__init__(message)
        self.name = name
        self.waited = waited
        self.queue = queue


class StoreUnavailable(NotHeld):
    """The engine could not be asked; the request certainly had no effect."""


class OutcomeUnknown(TenureError):
    """No answer came; the request may or may not have had its effect. Whatever it was granted is abandoned."""


class Overtaken(TenureError):
    """Another holder may be at work, or a later operation of this one has been. Stop; never retry blindly."""


class LeaseLost(Overtaken):
    """The lease ended before its holder released it.

    Attributes:
        name: what was locked.
        token: the fencing token of the lost lease.
        reason: why it was lost.
    """

    def __init__(self, message: str, *, name: str = "", token: int = 0, reason: LossReason | None = None) -> None:
        super().__init__(message)
        self.name = name
        self.token = token
        self.reason = reason


class _Refusal(TenureError):
    """A resource refused a fencing token; what was asked for was not done.

    Attributes:
        resource: what the fence protects.
        token: the token that was refused.
        fence: the largest token that the resource has seen.
    """

    def __init__(self, message: str, *, resource: str = "", token: int = 0, fence: int = 0) -> None:
        super().__init__(message)
        self.resource = resource
        self.token = token
        self.fence = fence


class StaleToken(_Refusal, Overtaken):
    """The resource has seen a larger token: somebody else holds the name by now, or has held it. The lease is lost."""


class StaleOperation(_Refusal, Overtaken):
    """This holder's operation of this number, or a later one, was done before. Its lease is as it was.

    Attributes:
        seq: the number that was refused.
        applied: the largest number that was done; if it equals `seq`, it is this very operation that was.
    """

    def __init__(
        self, message: str, *, resource: str = "", token: int = 0, fence: int = 0, seq: int = 0, applied: int = 0
    ) -> None:
        super().__init__(message, resource=resource, token=token, fence=fence)
        self.seq = seq
        self.applied = applied


class SetupError(TenureError):
    """The program or the store is set up wrongly; asking again without a change cannot help."""


class UsageError(SetupError, ValueError):
    """An argument is wrong. It was refused before anything was touched."""


class WouldDeadlock(UsageError):
    """This thread or task already holds the name in a way that its own request would wait for. Nothing was queued."""


class UnsafeSetup(SetupError):
    """The store works, but not as the promises need it. Nothing was changed."""


class IncompatibleStore(SetupError):
    """The store speaks another format, or is none of ours. Nothing was changed.

    Attributes:
        in_force: the format found, or None where the store is no store of tenure.
        spoken: the formats that this release speaks.
    """

    def __init__(self, message: str, *, in_force: int | None = None, spoken: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.in_force = in_force
        self.spoken = spoken


class NotRaised(_Refusal, UsageError):
    """The fence has not seen this holder yet, and cannot be raised here: what was read so far may be out of date.

    Nothing was done. Open the fence before the transaction begins, and read again.
    """


class FenceRegression(_Refusal, SetupError):
    """The resource has seen a larger token, and still this one is the holder's: tokens went backwards.

    The engine lost what it knew, or the fence was raised by somebody else's numbers. Nothing was done; the lease is
    as it was.
    """


class ForeignToken(_Refusal, SetupError):
    """The fence was raised by tokens of another authority, with which this one cannot be compared. Nothing was done.

    Attributes:
        authority: who drew the token.
        fenced_by: whose tokens the fence has seen.
    """

    def __init__(
        self,
        message: str,
        *,
        resource: str = "",
        token: int = 0,
        fence: int = 0,
        authority: str = "",
        fenced_by: str = "",
    ) -> None:
        super().__init__(message, resource=resource, token=token, fence=fence)
        self.authority = authority
        self.fenced_by = fenced_by


class MissingTable(SetupError):
    """The user's database lacks a table of tenure's. Nothing was done; the message says what prints its definition."""


class MissingRow(SetupError, LookupError):
    """The row that carries the fence is not there. Nothing was done."""


class Conflict(TenureError):
    """Another worker of the same holder wrote between this one's read and its write. Nothing was done; read again.

    The lease is as it was: run the whole block again, under the same lease.

    Attributes:
        resource: what the fence protects.
    """

    def __init__(self, message: str, *, resource: str = "") -> None:
        super().__init__(message)
        self.resource = resource


class MissingToken(UsageError):
    """A request shows no fencing token where one is needed. Nothing was done."""


class MalformedToken(UsageError):
    """What a request shows is no fencing token. Nothing was done; it is never read as "no fencing"."""


class WrongResource(UsageError):
    """A request shows a token for another resource than the one that it wants to work on. Nothing was done."""
