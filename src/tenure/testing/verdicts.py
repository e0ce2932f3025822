"""What a drill has to say: the schedule that shows a fault, line by line, and what would help.

Promises: text, for people. Does not promise that it is stable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from tenure.testing.actors import Line

LINES_MOST: Final = 200

FIX: Final = {
    "lost": (
        "Read and write inside of one guard of tenure.fencing, on the connection that does the work: it lets the "
        "resource see the new token before anything is read, and compares tokens in the transaction of the write. A "
        "value that was read before the guard, or a token that is compared in a step of its own, is what loses updates."
    ),
    "denied": (
        "A holder writes many times under one token, so equal tokens must be accepted; and only the largest token that "
        "was seen counts, not how often. If this is right after a restart or a restore, the fence was raised by "
        "another authority's tokens."
    ),
    "void": (
        "Give connect() a connection that the drill can watch (see tenure.testing.watch), or call "
        "tenure.testing.point() before each request; say by refusal= which errors tell that a holder was overtaken. A "
        "path that loses nothing and refuses nobody needs no lock."
    ),
    "failed": "The path must work by itself, on any connection that connect() makes, before it can be overtaken.",
}
"""By the kind of the failure."""


class Schedule(NamedTuple):
    """Where the holders are stopped; the second one nowhere if None."""

    first: int
    second: int | None


def render(what: str, schedule: Schedule | None, timeline: tuple[Line, ...], fix: str) -> str:
    """The message of a failure."""
    lines = [what, ""]
    if schedule is not None:
        second = "" if schedule.second is None else f", the second before its point {schedule.second + 1}"
        lines.append(f"schedule: the first holder is stopped before its point {schedule.first + 1}{second}")
    width = max((len(line.who) for line in timeline), default=0)
    lines += [f"  {line.who:{width}}  {line.what}" for line in timeline[:LINES_MOST]]
    if len(timeline) > LINES_MOST:
        lines.append(f"  ... and {len(timeline) - LINES_MOST} more")
    return "\n".join([*lines, "", f"what helps: {fix}"])
