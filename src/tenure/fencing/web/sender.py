"""What every sender does, whatever its library: show the token of a lease that is held, and hear refusals.

Promises: a lost lease sends nothing; a stale token is a lost lease, as with the other guards. Does not promise that
what was sent before the loss does not arrive: that is for the server to refuse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tenure.errors import FenceRegression, StaleToken
from tenure.fencing.refusing import settle
from tenure.fencing.rule import Fence, Verdict, prove
from tenure.fencing.web.field import field
from tenure.fencing.web.problems import is_problem, refusal_in

if TYPE_CHECKING:
    from tenure.errors import TenureError


class Sender:
    """One holder who sends requests about one resource."""

    def __init__(self, lease: Any, resource: str | None, seq: int | None) -> None:
        self._proof, self._holder = prove(lease, resource, seq)
        self._field = field(self._proof)

    def field(self) -> str:
        """What the next request shows.

        Raises:
            LeaseLost: stop; nothing is to be sent.
        """
        if self._holder is not None:
            self._holder.check()
        return self._field

    async def hear(self, error: TenureError, *, is_async: bool) -> None:
        """Raise what a server answered, after the lease has been told.

        Raises:
            FenceRegression: the server says stale, and the engine says that this is the holder.
            TenureError: what the server said.
        """
        proof = self._proof
        # A server that asked another one on its own account may have passed on what that one said of its token.
        if isinstance(error, StaleToken) and (error.resource, error.token) == (proof.resource, proof.token):
            try:
                await settle(Verdict.STALE, Fence(), proof, self._holder, is_async=is_async)
            except FenceRegression:
                raise FenceRegression(
                    f"{proof.resource!r} refuses token {proof.token} as stale, and still the engine says that this is "
                    "the holder's: it lost its count, or the fence was raised by numbers that are not its own",
                    resource=proof.resource,
                    token=proof.token,
                ) from error
            except StaleToken:
                pass
        raise error


def refusal_of(response: Any) -> TenureError | None:
    """The refusal that a whole response of httpx or requests says, or None."""
    headers = response.headers
    if not is_problem(response.status_code, headers.get("Content-Type"), headers.get("Content-Length")):
        return None
    return refusal_in(response.status_code, response.content)
