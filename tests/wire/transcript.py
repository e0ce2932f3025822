"""A transcript: what was said over a wire and what then lay in the store, in text that reads well in a diff."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HEAD: Final = """\
The wire of {engine}, format {format}. Written by `scripts/test tests/wire --rewrite`; test_transcripts.py says why.

  ## what happens
  >  a request      <  its reply      !  a message      =  what the caller learns
  -  what does not lie in the store any more           +  what lies there now           *  what was written anew

N1, N2 ... are the numbers in the order in which they were given. NOW+1000s is a time, on the clock of whoever keeps it;
~1000s what is left of one. STORE is the store's random id.
"""

_WHOLE: Final = re.compile(r"(?<![\w.+-])\d{7,17}(?![\w.])")

NEAR_US: Final = 2_000_000_000
"""A number that is no further from a clock is a time."""

UNIT_S: Final = 200
"""Times are told in so many seconds: what a slow host takes for the scenario is not seen."""


def told(microseconds: int) -> int:
    """Seconds as they are told."""
    return round(microseconds / 1e6 / UNIT_S) * UNIT_S


class Transcript:
    """Written step by step; ids, numbers and times are made the same for every run."""

    def __init__(self, engine: str, format: int) -> None:
        self._parts = [HEAD.format(engine=engine, format=format)]
        self._raw: list[tuple[str, list[str], Sequence[int]]] = []
        self._numbers: dict[int, str] = {}
        self._ids: dict[str, str] = {}

    # -- what is made the same -------------------------------------------------------------------------------------

    def number(self, number: int) -> None:
        """A number was given."""
        self._numbers.setdefault(number, f"N{len(self._numbers) + 1}")

    def named(self, number: int) -> str:
        """A number as it is shown; 0 is none."""
        return self._numbers.get(number, str(number))

    def call(self, found: str, shown: str) -> None:
        """Show this text otherwise, wherever it occurs."""
        if found:
            self._ids[found] = shown

    # -- writing ----------------------------------------------------------------------------------------------------

    def add(
        self,
        title: str,
        said: Sequence[tuple[str, str]],
        answer: Sequence[str],
        changes: Sequence[tuple[str, str, str]],
        clocks: Sequence[int],
    ) -> None:
        """One step."""
        lines = [f"{mark} {text}" for mark, text in said]
        lines += [f"= {text}" for text in answer]
        lines += [f"{mark} {where}  {what}".rstrip() for mark, where, what in changes]
        self._raw.append((title, lines, clocks))

    def section(self, title: str, lines: Sequence[str]) -> None:
        """What is no step: a schema, say."""
        self._raw.append((title, list(lines), ()))

    def text(self) -> str:
        """All of it. Only now are all numbers known: a request that draws one is written before its reply is read."""
        parts = [*self._parts]
        for title, lines, clocks in self._raw:
            plain = [self._plain(line, clocks) for line in lines]
            parts.append("\n".join([f"## {title}", *_merged(plain)]) + "\n")
        return "\n".join(parts)

    def _plain(self, line: str, clocks: Sequence[int]) -> str:
        for found, shown in self._ids.items():
            line = line.replace(found, shown)
        return _WHOLE.sub(lambda match: self._time(match[0], clocks), line)

    def _time(self, text: str, clocks: Sequence[int]) -> str:
        value = int(text)
        if value in self._numbers:
            return self._numbers[value]
        for clock in clocks:
            if abs(value - clock) < NEAR_US:
                return f"NOW{told(value - clock):+d}s"
        return text if value % 1_000_000 == 0 or not clocks else f"~{told(value)}s"


def _merged(lines: Sequence[str]) -> Iterator[str]:
    """What is gone and has come with nothing new but its time was written anew."""
    anew = {line[2:] for line in lines if line.startswith("- ")} & {line[2:] for line in lines if line.startswith("+ ")}
    for line in lines:
        if line[2:] not in anew or line[0] not in "+-":
            yield line
        elif line[0] == "-":
            yield f"* {line[2:]}"
