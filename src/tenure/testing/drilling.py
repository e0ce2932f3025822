"""The drill: your own write path, overtaken at each of its moments.

A first holder runs it and is stopped before one of its statements, for longer than its lease lasts. A second holder
takes over and works; then the first goes on as if nothing had happened. That is done once for every statement, and
again with the second holder stopped before each of its own meanwhile, so that the first one's late write lands in
between. A drill so finds the worst moment by itself; the path needs no hooks.

Promises: real runs of the path, on the connections that it gets in earnest; each schedule once; a failure shows who did
what. A path that loses no update, refuses whoever was overtaken and never the rightful holder passes; a drill in which
nothing was refused is void, and fails.
Does not promise anything of what it cannot see: points within a statement, the effects of a path beside its value.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from contextlib import contextmanager
from itertools import pairwise
from numbers import Number
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, NoReturn

from tenure import config
from tenure.errors import Overtaken, UsageError
from tenure.observe.log import logger
from tenure.testing.actors import HANGS_S, Actor, Line, Play, Told, is_async, look
from tenure.testing.clock import VirtualClock
from tenure.testing.losing import pause
from tenure.testing.verdicts import FIX, Schedule, render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAITS_LEAST_S: Final = 0.02
"""Seconds of silence, at least, after which a holder is taken to wait for the other one."""

WAITS_RUNS: Final = 3
"""And so many times what a run takes that nobody disturbs."""


class DrillFailed(AssertionError):
    """A drill has found something.

    Attributes:
        kind: "lost" (an update is gone), "denied" (the rightful holder is refused), "void" (nothing was tested),
            "failed" (the path fails by itself, or hangs).
        timeline: who did what in the schedule that shows it.
    """

    def __init__(self, kind: str, message: str, timeline: tuple[Line, ...] = ()) -> None:
        super().__init__(message)
        self.kind = kind
        self.timeline = timeline


class Drilled(NamedTuple):
    """What a drill that has passed did.

    Attributes:
        points: those of one run, in order.
        schedules: how many were played.
        overtaken: in how many the second holder worked while the first was stopped.
        refused: runs of an overtaken holder that were refused.
        done: runs that were acknowledged; none of them was lost.
    """

    points: tuple[str, ...]
    schedules: int
    overtaken: int
    refused: int
    done: int


def drill(
    path: Callable[[Any, Any], Any],
    *,
    connect: Callable[[], Any],
    value: Callable[[Any], Any],
    takes: Literal["lease", "client"] = "lease",
    name: str = "drill",
    refusal: type[BaseException] | tuple[type[BaseException], ...] = Overtaken,
    schedules_max: int = 1000,
) -> Drilled:
    """Overtake a write path at each of its moments, and see that no update is lost.

    Blocks, and may be called from a blocking or an asynchronous test. Holders live by a virtual clock and memory://, so
    that a lease is outlasted without waiting; the connections are real.

    Args:
        path: yours: `path(lease, connection)`, or `async def`. Each run of it that returns has changed the value by the
            same amount; one that was not done raises.
        connect: makes a connection, or whatever else `path` works on; may be `async def`. Called once for each holder
            and look, in its thread, and closed there; all of them reach the same data. What `watch` knows is stepped
            without hooks, otherwise the path, or the transport under it, calls `point`.
        value: `value(connection)`, a number that tells how many runs were done; may be `async def`.
        takes: "lease": of a lock that the drill takes. "client": `path(client, connection)` takes the lock itself.
        name: of the lock, and so of the resource, where the drill takes it.
        refusal: the errors by which a path tells that it was overtaken.
        schedules_max: of more, so many are played, evenly chosen.

    Returns:
        What was played.

    Raises:
        DrillFailed: an update is lost, the rightful holder is refused, or the drill tested nothing.
        UsageError: an argument is wrong; nothing was run.
    """
    if takes not in ("lease", "client"):
        raise UsageError(f"takes: 'lease' or 'client' is needed, not {takes!r}")
    for argument, function in (("path", path), ("connect", connect), ("value", value)):
        if not callable(function):
            raise UsageError(f"{argument}: something that can be called is needed, not {type(function).__name__}")
    refusals = refusal if isinstance(refusal, tuple) else (refusal,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in refusals):
        raise UsageError(f"refusal: a class of exceptions, or a tuple of them, is needed, not {refusal!r}")
    play = Play(path, connect, takes, config.name(name), refusals, is_async(path, connect, value))
    most = config.count("schedules_max", schedules_max, 1_000_000)
    made = _Drill(play, value)
    try:
        with _quiet():
            return made.run(most)
    finally:
        made.end()


@contextmanager
def _quiet() -> Iterator[None]:
    """Leases are lost all the time in a drill; nobody wants to read of each."""
    log = logger()
    log.addFilter(_nothing)
    try:
        yield
    finally:
        log.removeFilter(_nothing)


def _nothing(_record: object) -> bool:
    return False


class _Drill:
    """One drill, schedule after schedule on one store."""

    def __init__(self, play: Play, value: Callable[[Any], Any]) -> None:
        self._play = play
        self._read = value
        self._timeline: list[Line] = []
        self._clock = VirtualClock()
        self._actors: list[Actor] = []
        self._step: Any = 0
        self._value: Any = 0
        self._waits = WAITS_LEAST_S
        self._schedule: Schedule | None = None
        self.overtaken = self.refused = self.done = 0

    def run(self, most: int) -> Drilled:
        """Play them all."""
        points = self._solo()
        schedules = list(_schedules(_stops(points)))
        if len(schedules) > most:
            schedules = [schedules[at * len(schedules) // most] for at in range(most)]
        waits: Counter[int] = Counter()
        played = 0
        for schedule in schedules:
            if waits[schedule.first] < 2:
                waits[schedule.first] += self._play_one(schedule)
                played += 1
            # Else it waits for the first one before it comes to any point that is left; seen twice, for once it may
            # have been slow.
        if not self.refused:
            what = "nobody was overtaken" if not self.overtaken else "no overtaken holder was refused"
            self._fail("void", f"{what} in {played} schedules, so nothing was tested")
        return Drilled(tuple(points), played, self.overtaken, self.refused, self.done)

    # -- alone ------------------------------------------------------------------------------------------------------

    def _solo(self) -> list[str]:
        """Runs of holders whom nobody disturbs: the points, what a run is worth, and how long it takes."""
        points: list[str] = []
        worth = [self._look()]
        for holder in (self._enter("first"), self._enter("second")):
            self._take(holder)
            for _ in range(2):
                begun = time.monotonic()
                told = holder.call("run")
                took = time.monotonic() - begun
                self._must_be_done(holder, told)
                worth.append(self._look())
                if len(worth) == 4:
                    # The first run of all may do more: make a row that is there for all who follow.
                    points, self._waits = list(holder.points), max(WAITS_LEAST_S, WAITS_RUNS * took)
            holder.call("drop")
        self._value, self._step = worth[-1], worth[1] - worth[0]
        if not self._step:
            self._fail(
                "void",
                f"a run of the path left the value at {worth[0]!r}: value() must see, over another connection, what a "
                "run has written",
            )
        if any(later - earlier != self._step for earlier, later in pairwise(worth)):
            self._fail("failed", f"runs are not worth the same: they took the value to {worth}, one after the other")
        if not points:
            self._fail("void", "the path has no point at which it could be stopped")
        return points

    def _must_be_done(self, holder: Actor, told: Told) -> None:
        """A run of whoever holds the name, undisturbed."""
        if told.kind == "refused":
            self._fail("denied", f"the {holder.who} holder has the name, and is refused: {told.detail}")
        if told.kind == "failed":
            self._fail("failed", f"a run of the {holder.who} holder, which has the name, failed: {told.detail}")

    # -- overtaken --------------------------------------------------------------------------------------------------

    def _play_one(self, schedule: Schedule) -> bool:
        """One schedule; whether the second holder waited for the first before it came to where it should stop."""
        self._schedule = schedule
        self._timeline.clear()
        first, second = self._actors
        try:
            acknowledged, others, waited = self._overtake(schedule, first, second)
            # Whatever the first did: whoever has the name can go on working.
            self._must_be_done(second, second.call("run"))
        except TimeoutError as hangs:
            self._fail("failed", f"{hangs} within {HANGS_S:.0f} s")
        first.call("drop")
        second.call("drop")
        self._count(acknowledged + 1, others)
        return waited

    def _overtake(self, schedule: Schedule, first: Actor, second: Actor) -> tuple[int, int, bool]:
        """How many runs were acknowledged, how many were not, and whether the second waited for the first."""
        self._take(first)
        first.send("run", schedule.first)
        early: Told | None = first.hear()
        was_stopped = early is not None and not early.is_over
        pause(first.client)
        first.note("its lease is over")
        self._take(second)
        second.send("run", schedule.second)
        news = self._heard(second)
        outcomes = []
        if news is not None and news.is_over:
            outcomes.append(news)
            if schedule.second is None:
                # Twice: a late write of what was right once would otherwise not show.
                outcomes.append(second.call("run"))
        if was_stopped:
            self.overtaken += news is not None
            # A pause has no end: whatever the second one's work has a ttl for is over too.
            pause(first.client)
            first.go_on()
            early = first.hear() if outcomes else self._heard(first)
        if not outcomes:
            outcomes.append(self._finish(second, news))
        if early is None:
            early = first.hear()
        if was_stopped:
            self.refused += early.kind == "refused"
        retried = sum(self._again(second, outcome) for outcome in outcomes)
        is_done = early.kind == "done"
        self.done += len(outcomes) + is_done + 1
        return len(outcomes) + is_done, retried + (not is_done), news is None

    def _finish(self, holder: Actor, news: Told | None) -> Told:
        """Let a holder that is stopped, or waits and may yet be stopped, come to the end of its run."""
        while news is None or not news.is_over:
            if news is not None:
                holder.go_on()
            news = holder.hear()
        return news

    def _again(self, second: Actor, told: Told) -> bool:
        """A failure of the rightful holder's, a conflict perhaps, is no refusal: it runs once more, as users do.

        Returns:
            Whether it had to.
        """
        is_failed = told.kind == "failed"
        if is_failed:
            second.note("tries again")
            told = second.call("run")
        self._must_be_done(second, told)
        return is_failed

    def _heard(self, holder: Actor) -> Told | None:
        """What is heard of a holder soon; None if it waits."""
        try:
            return holder.hear(self._waits)
        except TimeoutError:
            holder.note("waits")
            return None

    def _count(self, acknowledged: int, others: int) -> None:
        """Compare what is there with what was acknowledged. A run that was not may have been done all the same."""
        before, after = self._value, self._look()
        self._value = after
        # Rounded, for a value may be a sum of fractions.
        found = round(float((after - before) / self._step), 6)
        if acknowledged <= found <= acknowledged + others:
            return
        runs = f"{acknowledged} runs were acknowledged, and the value went from {before!r} to {after!r}, by {found:g}"
        if found < acknowledged:
            self._fail("lost", f"{acknowledged - found:g} updates are lost: {runs}")
        self._fail("failed", f"more was done than anybody asked for: {runs}")

    # -- the holders ------------------------------------------------------------------------------------------------

    def _look(self) -> Any:
        found = look(self._play, self._read)
        if not isinstance(found, Number):
            self._fail("failed", f"value() returned {found!r}, which is no number")
        return found

    def _enter(self, who: str) -> Actor:
        holder = Actor(who, self._play, self._clock, self._timeline)
        self._actors.append(holder)
        told = holder.call("connect")
        if told.kind != "done":
            self._fail("failed", f"connect() failed: {told.detail}")
        return holder

    def _take(self, holder: Actor) -> None:
        told = holder.call("take")
        if told.kind != "done":
            self._fail("failed", f"the {holder.who} holder did not get the lock: {told.detail}")

    def end(self) -> None:
        """Let all holders come to their end, wherever they are."""
        for holder in self._actors:
            holder.end()
        self._actors.clear()

    def _fail(self, kind: str, what: str) -> NoReturn:
        timeline = tuple(self._timeline)
        raise DrillFailed(kind, render(what, self._schedule, timeline, FIX[kind]), timeline)


def _stops(points: list[str]) -> list[int]:
    """The points worth stopping at: not after a statement that neither reads, writes nor locks anything."""
    return [at for at in range(len(points)) if at == 0 or not _IDLE.match(points[at - 1])]


_IDLE: Final = re.compile(
    r"(BEGIN( DEFERRED)?( TRANSACTION)?|SAVEPOINT .*|RELEASE .*|SET TRANSACTION .*|PRAGMA .*)$", re.IGNORECASE
)


def _schedules(stops: list[int]) -> Iterator[Schedule]:
    """Each stop of the first; then, for stories that are longer, each with each stop of the second."""
    yield from (Schedule(first, None) for first in stops)
    yield from (Schedule(first, second) for first in stops for second in stops)
