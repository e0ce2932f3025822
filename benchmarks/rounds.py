"""Interleaved rounds: A B C A B C ..., each in a folder of its own, which is removed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING

from benchmarks import fleet
from benchmarks.contenders import MAKE
from benchmarks.table import Samples

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.contenders import Contender
    from benchmarks.fleet import Outcome

NOBODY: Mapping[str, Callable[[Path], Outcome]] = MappingProxyType({})


@dataclass
class Rounds:
    """The outcomes of some contenders' fleets, by contender."""

    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)

    def samples(self, name: str, value: Callable[[Outcome], float]) -> Samples:
        """One figure of a contender, over the rounds."""
        return Samples(name, [value(outcome) for outcome in self.outcomes[name]])

    @property
    def overlaps(self) -> int:
        """Two holders at once, in all rounds of all locks."""
        return sum(o.overlaps for outcomes in self.outcomes.values() for o in outcomes)


def fleets(
    names: Sequence[str],
    rounds: int,
    *,
    processes: int,
    seconds: float,
    threads: int = 1,
    section: float = 0.0,
    make: Mapping[str, Callable[[Path], Contender]] = MAKE,
    fresh: Callable[[], None] | None = None,
    meter: Callable[[], int] | None = None,
    others: Mapping[str, Callable[[Path], Outcome]] = NOBODY,
) -> Rounds:
    """Run each contender's fleet once a round; of "sections alone" one process with one worker is enough.

    `others` come after them in each round, and run their fleets by themselves.

    Before each fleet `fresh` is called, to clear away what the last one left elsewhere than in its folder.
    """
    done = Rounds({name: [] for name in (*names, *others)})
    for _ in range(rounds):
        for name in names:
            alone = name == "sections alone"
            if fresh is not None:
                fresh()
            with TemporaryDirectory(prefix="tenure-bench-") as folder:
                outcome = fleet.run(
                    make[name],
                    Path(folder),
                    processes=1 if alone else processes,
                    threads=1 if alone else threads,
                    seconds=seconds,
                    section=section,
                    meter=None if alone else meter,
                )
            done.outcomes[name].append(outcome)
        for name, other in others.items():
            with TemporaryDirectory(prefix="tenure-bench-") as folder:
                done.outcomes[name].append(other(Path(folder)))
    return done
