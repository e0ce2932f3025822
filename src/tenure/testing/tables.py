"""The simulated engine's tables: those of the memory engine, with snapshots, and a recorder of what happened to them.

Promises: the steps of `tenure.engines.queue` run on them unchanged.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from tenure.engines.memory import MemoryTables
from tenure.testing.history import FOREVER, History, Place, compatible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenure.engines.queue import ClaimRow
    from tenure.ports import Entry
    from tenure.testing.world import World

_OWN = frozenset({"_history", "_world", "life", "id", "_lives"})


class SimTables(MemoryTables):
    """Sessions and queues of one simulated server."""

    def __init__(self, world: World, history: History) -> None:
        super().__init__()
        self._world = world
        self._history = history
        self._lives = 0
        # The memory engine draws its id from the operating system; a seed must decide here.
        self.id = "sim"
        self.new_life()

    def new_life(self) -> None:
        """The server was started anew (rule A2)."""
        self._lives += 1
        self.life = f"life {self._lives}"

    # -- what is lost at a restart -----------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """All that a restart could bring back."""
        return copy.deepcopy({key: value for key, value in vars(self).items() if key not in _OWN})

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go back to a snapshot, or to nothing."""
        before = self.rows()
        if state is None:
            state = {key: value for key, value in vars(MemoryTables()).items() if key not in _OWN}
        vars(self).update(copy.deepcopy(state))
        after = {(row.name, row.number) for row in self.rows()}
        for row in before:
            if (row.name, row.number) not in after:
                self._place(row).removed = self._world.time
        for row in self.rows():
            place = self._place(row)
            if place.removed < FOREVER:
                self._history.counts["brought back"] += 1
                place.removed, place.went_back = FOREVER, True

    def rows(self) -> list[ClaimRow]:
        """Every claim, by name and number."""
        return [row for name in self.names("") for row in self.queue(name)]

    # -- the recorder ------------------------------------------------------------------------------------------------

    def _place(self, row: ClaimRow) -> Place:
        key = (row.name, row.number)
        place = self._history.places.get(key)
        if place is None:
            place = Place(row.name, row.number, row.session, row.claim, row.mode, self._world.time)
            self._history.places[key] = place
        return place

    def insert(self, entry: Entry, number: int, floor: int, delay_us: int) -> bool:
        if not super().insert(entry, number, floor, delay_us):
            return False
        now = self._world.time
        key = (entry.name, number)
        if key in self._history.places:
            self._history.broken.append(f"{entry.name} {number} was drawn twice, the second time at {now:.3f}")
        place = Place(entry.name, number, entry.session.id, entry.claim, entry.mode, now)
        if floor:
            place.told = place.entitled = now
        self._history.places[key] = place
        return True

    def tell(self, name: str, number: int, floor: int) -> None:
        super().tell(name, number, floor)
        place = self._history.places.get((name, number))
        if place is not None and place.told == FOREVER:
            place.told = self._world.time

    def remove(self, session: str, name: str, number: int) -> bool:
        was_there = super().remove(session, name, number)
        place = self._history.places.get((name, number))
        if was_there and place is not None:
            place.removed = self._world.time
            self._world.note("server", "removed", f"{name} {number % 10**8}")
        return was_there

    def note_entitled(self, now_us: int) -> None:
        """Note who stands among the live holders by now; the time of the first such look is when it became so.

        Restated here rather than asked of the steps: the claims of an ended session are dead, those with a
        lock_delay count as alive until they are gone, which is later than the truth and never earlier.
        """
        now = self._world.time
        for name in self.names(""):
            rows = list(self.queue(name))
            live = [row for row in rows if row.delay_us or (row.until_us > now_us and not row.ended)]
            for row in _first(live):
                place = self._history.places.get((name, row.number))
                if place is not None and place.entitled == FOREVER:
                    place.entitled = now
                    place.by_death = row not in _first(rows)


def _first(rows: Sequence[ClaimRow]) -> Sequence[ClaimRow]:
    """The longest compatible prefix, by a restatement of its own: `model.holders` is among what is tested."""
    modes = []
    for index, row in enumerate(rows):
        modes.append(row.mode)
        if not compatible(modes):
            return rows[:index]
    return rows
