"""The store's port over one SQLite file; how a step reaches the file is the transport's business."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenure.engines.sqlite.endpoint import bury, is_dead, tidy
from tenure.engines.stepping import StepStore
from tenure.ports import BUSY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tenure.engines.queue import At, Steps
    from tenure.engines.sqlite.database import Database
    from tenure.engines.sqlite.files import Home
    from tenure.model import Seconds
    from tenure.ports import ClaimRef, Entry, Peer, Place


class SqliteStore(StepStore):
    """What both transports share: the dead found by their presence files are evidence for the next step (C1)."""

    def __init__(self, home: Home, database: Database, address: str) -> None:
        self._home = home
        self._address = address
        self.database = database

    async def enter(self, entry: Entry, timeout: Seconds) -> Place:
        place = await self.run(lambda steps, at: steps.enter(at, entry), timeout)
        # Whoever waits will listen for the end of those in front; whoever only tries must find the dead now.
        if place.standing is BUSY:
            return await self._past_the_dead(place, lambda steps, at, dead: steps.enter(at, entry, dead), timeout)
        return place

    async def look(self, ref: ClaimRef, timeout: Seconds) -> Place:
        place = await self.run(lambda steps, at: steps.look(at, ref), timeout)
        return await self._past_the_dead(place, lambda steps, at, dead: steps.look(at, ref, dead), timeout)

    async def _past_the_dead(
        self, place: Place, step: Callable[[Steps, At, frozenset[str]], Place], timeout: Seconds
    ) -> Place:
        """Repeat a step with what the presence files say of those in front, until they are alive."""
        while place.peers and (dead := self._dead_among(place.peers)):
            peers, place = place.peers, await self._with(dead, step, timeout)
            self._bury(peers, dead)
        return place

    async def _with(
        self, dead: frozenset[str], step: Callable[[Steps, At, frozenset[str]], Place], timeout: Seconds
    ) -> Place:
        return await self.run(lambda steps, at: step(steps, at, dead), timeout)

    async def tidy(self, timeout: Seconds) -> None:
        """Remove the files of dead clients that no session names any more."""
        addresses = await self.run(lambda steps, _: steps.tables.addresses(), timeout)
        tidy(self._home, addresses)

    async def authority(self, timeout: Seconds) -> str:
        await self.run(lambda _steps, _at: None, timeout)
        return f"sqlite:{self.database.id}"

    def _dead_among(self, peers: Sequence[Peer]) -> frozenset[str]:
        """The sessions whose process is dead for good. Asked outside any transaction: that is never undone."""
        return frozenset(p.session for p in peers if p.address != self._address and is_dead(self._home, p.address))

    def _bury(self, peers: Sequence[Peer], dead: frozenset[str]) -> None:
        """Remove the files of the dead, once the step that latched their death is committed."""
        for peer in peers:
            if peer.session in dead:
                bury(self._home, peer.address)
