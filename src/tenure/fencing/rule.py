"""The rule of the fence: may this holder, by this number, do its work here?

Promises: values and pure functions; whatever enforces a fence asks `judge`, whether the fence is in a table, a key, an
object or a header. Does not promise anything of time: the fence must be read, judged and kept from changing until the
work is committed, in one atomic step of the resource's own store.

The rule, from protocol B8 and D1 to D4: a holder's *floor* is the smallest token of those who hold with it, and its
first act is to raise the fence to it. From then on `floor <= fence <= token` holds for it and for its co-holders, and
fails for every earlier holder.
"""

from __future__ import annotations

import enum
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from tenure.arguments import count, text
from tenure.errors import ForeignToken, NotRaised, StaleOperation, StaleToken, UsageError, WrongResource
from tenure.model import Grant

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tenure.errors import TenureError

TOKEN_MAX: Final = 2**63 - 1
"""The largest token and operation number: what a 64-bit integer column holds."""

RESOURCE_BYTES: Final = 512

_AUTHORITY: Final = re.compile(r"([^:/]+):[^/]*/(.+)")


class Holder(Protocol):
    """What a guard wants of a lease; `Lease` and `AsyncLease` have it."""

    @property
    def grant(self) -> Grant:
        """The proof of the grant."""
        ...

    @property
    def held(self) -> bool:
        """Whether its deadline is ahead."""
        ...

    def check(self) -> None:
        """Raise `LeaseLost` unless it is held; costs no request."""
        ...

    def confirm(self) -> bool | Awaitable[bool]:
        """Ask the engine whether it is still among the holders."""
        ...

    def refused(self) -> None:
        """Note that a resource refused its token: it is lost."""
        ...


class Proof(NamedTuple):
    """What a holder shows at a resource.

    Attributes:
        resource: what it wants to work on; the locked name unless said otherwise.
        token: the fencing token.
        floor: the smallest token of its group of co-holders; the token itself if it holds alone.
        authority: who drew the token, as kind and namespace; empty if nobody knows.
        seq: the number of this operation among the holder's own, from 1; 0 if they are not numbered.
    """

    resource: str
    token: int
    floor: int
    authority: str = ""
    seq: int = 0

    def of(self, resource: str) -> Proof:
        """Return it if it was made for this resource; for places whose own name differs, such as a `Row`.

        Raises:
            WrongResource: it was not.
        """
        _shown(self, resource, None)
        return self


class Fence(NamedTuple):
    """What a resource remembers.

    Attributes:
        token: the largest floor that it was raised to; 0 before the first.
        intent: what it is about to be raised to, and refuses smaller tokens by already (rule D2).
        seq: the largest operation number that was done under `token`.
        authority: who drew the token; empty if nobody knows.
    """

    token: int = 0
    intent: int = 0
    seq: int = 0
    authority: str = ""


class Verdict(enum.Enum):
    """What a fence says to a proof."""

    ACCEPTED = "accepted"
    NOT_RAISED = "not raised"
    """Neither stale nor known: raise the fence, and only then read."""
    STALE = "stale"
    DUPLICATE = "duplicate"
    FOREIGN = "foreign"


def judge(fence: Fence, proof: Proof) -> Verdict:
    """Compare a proof with the fence.

    Equal tokens are accepted: a holder writes many times. A token that nobody compares with an authority can only be
    found stale.
    """
    if fence.authority and proof.authority and fence.authority != proof.authority:
        return Verdict.FOREIGN
    if max(fence.token, fence.intent) > proof.token:
        return Verdict.STALE
    if fence.token < proof.floor:
        return Verdict.NOT_RAISED
    if proof.seq and fence.seq >= proof.seq:
        return Verdict.DUPLICATE
    return Verdict.ACCEPTED


def raised(fence: Fence, proof: Proof) -> Fence:
    """The fence after a proof that was not stale has raised it. Raising again changes nothing."""
    if fence.token >= proof.floor:
        return fence
    # A new holder counts its operations from the start.
    return Fence(proof.floor, fence.intent, 0, proof.authority or fence.authority)


def announced(fence: Fence, proof: Proof) -> Fence:
    """The fence after a proof that was not stale has said that it will raise it."""
    return fence._replace(intent=max(fence.intent, proof.floor))


def refusal(verdict: Verdict, fence: Fence, proof: Proof) -> TenureError:
    """Say why a proof was not accepted."""
    what = f"{proof.resource!r} refuses token {proof.token}"
    seen = max(fence.token, fence.intent)
    if verdict is Verdict.FOREIGN:
        return ForeignToken(
            f"{what} of {proof.authority}: its fence was raised by {fence.authority}, whose tokens cannot be compared",
            resource=proof.resource,
            token=proof.token,
            fence=seen,
            authority=proof.authority,
            fenced_by=fence.authority,
        )
    if verdict is Verdict.DUPLICATE:
        return StaleOperation(
            f"{proof.resource!r} has done operation {fence.seq} of token {proof.token} and refuses its {proof.seq}",
            resource=proof.resource,
            token=proof.token,
            fence=seen,
            seq=proof.seq,
            applied=fence.seq,
        )
    if verdict is Verdict.NOT_RAISED:
        return NotRaised(
            f"{proof.resource!r} has not seen token {proof.token} yet, and this transaction has begun: commit it, call "
            "fencing.open() with the lease, and read again",
            resource=proof.resource,
            token=proof.token,
            fence=seen,
        )
    return StaleToken(
        f"{what}: it has seen {seen}, so another holder has been here",
        resource=proof.resource,
        token=proof.token,
        fence=seen,
    )


def prove(
    lease: Any, resource: str | None = None, seq: int | None = None, *, label: str | None = None
) -> tuple[Proof, Holder | None]:
    """Make a proof of whatever shows that somebody holds a name.

    Args:
        lease: a lease, a `Grant`, a `Proof` that came with a request, or a positive whole number that came from
            elsewhere.
        resource: what the fence protects; the locked name by default. A resource is fenced by one name for ever.
        seq: the number of this operation, from 1.
        label: what errors call a resource whose place says what it is; then `resource` is None.

    Returns:
        The proof, and the lease, if there is one, to be told and asked.

    Raises:
        UsageError: an argument is wrong; it is never read as "no fencing".
        WrongResource: the proof of a request is for another resource.
    """
    holder: Holder | None = None
    name: str | None = None
    authority = ""
    if isinstance(lease, Proof):
        lease, seq = _shown(lease, resource, seq)
    elif not isinstance(lease, Grant) and isinstance(getattr(lease, "grant", None), Grant):
        holder = lease
        lease = lease.grant
    if isinstance(lease, Grant):
        token = count("token", lease.token, TOKEN_MAX)
        floor = token if lease.floor is token else count("floor", lease.floor, token)
        name, authority = lease.name, _comparable(lease.authority)
    else:
        token = floor = count("lease", lease, TOKEN_MAX)
        if label is None and resource is None:
            raise UsageError("resource: a bare token does not say what it protects")
    if seq is not None:
        count("seq", seq, TOKEN_MAX)
        if floor != token:
            # Co-holders have tokens of their own under one fence, which has room for the count of one.
            raise UsageError("seq: operations can be numbered under an exclusive lease only")
    named = text("resource", label or (name if resource is None else resource), RESOURCE_BYTES, 1)
    return Proof(named, token, floor, authority, seq or 0), holder


def _shown(proof: Proof, resource: str | None, seq: int | None) -> tuple[Grant, int | None]:
    """What a request has shown, taken at its word but for the resource."""
    if resource is not None and resource != proof.resource:
        raise WrongResource(f"the token was shown for {proof.resource!r}, and this is {resource!r}")
    if seq is not None and proof.seq:
        raise UsageError("seq: the request has numbered its operation by itself")
    return Grant(proof.resource, proof.token, proof.floor, proof.authority), seq or proof.seq or None


@lru_cache(maxsize=64)
def _comparable(authority: str) -> str:
    """The part of an authority that decides whether tokens can be compared: kind and namespace.

    The store's own id is left out: tokens go on rising after a store has lost its data, which is when it changes.
    """
    text("authority", authority, 2 * RESOURCE_BYTES)
    found = _AUTHORITY.fullmatch(authority)
    return f"{found[1]}/{found[2]}" if found else authority
