"""The store's port over `Steps`: one atomic step per operation, whatever makes it atomic.

Promises: each operation is one call of `run`. Does not promise anything of its own: memory runs a step under a
mutex, SQLite in a transaction, the simulator on another node behind a network.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tenure.engines.queue import At, Steps
    from tenure.model import Queue, Seconds
    from tenure.ports import Beat, ClaimRef, Closing, Entry, Place

R = TypeVar("R")


class StepStore(abc.ABC):
    """A `QueueStore` whose operations are steps."""

    @abc.abstractmethod
    async def run(self, step: Callable[[Steps, At], R], timeout: Seconds) -> R:
        """Make one step atomically, then send its mail.

        Raises:
            StoreUnavailable: the step certainly had no effect.
            OutcomeUnknown: it may have had one.
        """

    async def enter(self, entry: Entry, timeout: Seconds) -> Place:
        return await self.run(lambda steps, at: steps.enter(at, entry), timeout)

    async def look(self, ref: ClaimRef, timeout: Seconds) -> Place:
        return await self.run(lambda steps, at: steps.look(at, ref), timeout)

    async def close(self, closings: Sequence[Closing], timeout: Seconds) -> list[bool]:
        return await self.run(lambda steps, at: steps.close(at, closings), timeout)

    async def heartbeat(self, session: str, ttl: Seconds, waiting: bool, timeout: Seconds) -> Beat:
        return await self.run(lambda steps, at: steps.heartbeat(at, session, ttl, waiting), timeout)

    async def standing(self, refs: Sequence[ClaimRef], timeout: Seconds) -> list[bool]:
        return await self.run(lambda steps, _: steps.standing(refs), timeout)

    async def claims(self, session: str, timeout: Seconds) -> list[ClaimRef]:
        return await self.run(lambda steps, _: steps.claims(session), timeout)

    async def end(self, session: str, timeout: Seconds) -> None:
        await self.run(lambda steps, at: steps.end(at, session), timeout)

    async def inspect(self, name: str, timeout: Seconds) -> Queue:
        return await self.run(lambda steps, _: steps.inspect(name), timeout)

    async def names(self, prefix: str, timeout: Seconds) -> list[str]:
        return await self.run(lambda steps, _: steps.tables.names(prefix), timeout)

    async def steal(self, name: str, number: int, timeout: Seconds) -> bool:
        return await self.run(lambda steps, at: steps.steal(at, name, number), timeout)
