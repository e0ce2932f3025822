"""What a guard does with a verdict: tell the lease, ask the engine where it knows better, and refuse.

Promises: the same for every guard, whatever its resource. Does not promise that the engine can be asked: who cannot be
asked confirms nothing, and the token is stale.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from tenure.errors import FenceRegression, OutcomeUnknown, SetupError, StoreUnavailable
from tenure.fencing.rule import Verdict, refusal

if TYPE_CHECKING:
    from tenure.fencing.rule import Fence, Holder, Proof


async def settle(verdict: Verdict, fence: Fence, proof: Proof, holder: Holder | None, *, is_async: bool) -> None:
    """Return if a proof was accepted; else refuse.

    Args:
        verdict: what the fence says.
        fence: as it was found.
        proof: what was shown.
        holder: the lease, if there is one.
        is_async: whether the guard may await; otherwise it blocks.

    Raises:
        StaleToken: the lease is lost from now on.
        FenceRegression: the engine says that the stale token is the holder's; its lease is as it was.
        StaleOperation, NotRaised, ForeignToken: the lease is as it was.
    """
    if verdict is Verdict.ACCEPTED:
        return
    error = refusal(verdict, fence, proof)
    if verdict is Verdict.STALE and holder is not None:
        if holder.held and await _is_confirmed(holder, is_async=is_async):
            raise _regression(proof, max(fence.token, fence.intent)) from error
        holder.refused()
    raise error


async def _is_confirmed(holder: Holder, *, is_async: bool) -> bool:
    """Whether the engine says that the claim is still among the holders."""
    try:
        if not is_async:
            answer = holder.confirm()
            if inspect.iscoroutine(answer):
                # The lease of a loop, which may be waiting for this very call.
                answer.close()
                return False
            return bool(answer)
        if inspect.iscoroutinefunction(holder.confirm):
            return bool(await holder.confirm())
        from asyncio import to_thread

        return bool(await to_thread(holder.confirm))
    except (StoreUnavailable, OutcomeUnknown, SetupError):
        return False


def _regression(proof: Proof, fence: int) -> FenceRegression:
    return FenceRegression(
        f"{proof.resource!r} refuses token {proof.token}, having seen {fence}, and still the engine says that this "
        "is the holder's: it lost its count, or the fence was raised by numbers that are not its own",
        resource=proof.resource,
        token=proof.token,
        fence=fence,
    )
