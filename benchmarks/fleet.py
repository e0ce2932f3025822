"""A fleet of processes that contend for one name, and what they saw.

Each worker notes its turns; a *hand-over* is a turn of another worker than the one before. Who had the last turn and
when it began to release stand in shared memory, written only inside the section, so that the lock under test guards
them too: a worker that finds another's mark at the end of its turn has seen two holders.

The latency of a hand-over runs from just before the release to just after the acquire: it includes both calls.
"""

from __future__ import annotations

import gc
import math
import mmap
import os
import pickle
import select
import signal
import threading
import time
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from benchmarks.stats import jain, percentile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.contenders import Contender, Worker

_OPENING_MOST: Final = 60.0
_DRAIN_MOST: Final = 30.0
_CLOSING_MOST: Final = 15.0
_LEAD: Final = 0.02

_clock = time.monotonic


@dataclass
class Seen:
    """What one worker saw."""

    turns: int = 0
    handovers: int = 0
    overlaps: int = 0
    longest: float = 0.0
    finished: bool = False
    latencies: array[float] = field(default_factory=lambda: array("d"))


@dataclass(frozen=True)
class Outcome:
    """What the fleet saw, with times in seconds.

    Attributes:
        handovers: hand-overs a second.
        turns: turns a second.
        p50: the median latency of a hand-over.
        p99: the latency that one in a hundred exceeds.
        fairness: Jain's index over the workers' turns.
        longest: the longest wait of any worker; waits that began before the end are waited for.
        overlaps: how often two holders were seen.
        metered: how much the meter grew per turn; NaN without one.
    """

    handovers: float
    turns: float
    p50: float
    p99: float
    fairness: float
    longest: float
    overlaps: int
    metered: float


@dataclass(frozen=True)
class _Plan:
    """What every process of the fleet is told."""

    make: Callable[[Path], Contender]
    folder: Path
    threads: int
    seconds: float
    section: float
    board: _Board


class _Board:
    """The shared memory: when to start, who had the last turn, when that began to release, how many there were."""

    def __init__(self) -> None:
        view = memoryview(mmap.mmap(-1, mmap.PAGESIZE))
        self.holder = view[:8].cast("q")
        self.released = view[8:16].cast("d")
        self.start = view[16:24].cast("d")
        self.turns = view[24:32].cast("q")


def run(
    make: Callable[[Path], Contender],
    folder: Path,
    *,
    processes: int,
    threads: int = 1,
    seconds: float,
    section: float = 0.0,
    meter: Callable[[], int] | None = None,
) -> Outcome:
    """Let `processes` of `threads` workers each contend for `seconds`, each turn sleeping for `section` seconds.

    The meter, such as a server's count of requests, is read twice, when all are in their stride and before the end.
    The processes are forked by this one, which must have no threads; they are killed if they do not end.
    """
    board = _Board()
    plan = _Plan(make, folder, threads, seconds, section, board)
    ready_end, ready = os.pipe()
    gate, gate_end = os.pipe()
    fleet: dict[int, int] = {}
    patience = 0.0  # if anything fails, the fleet is killed
    try:
        for index in range(processes):
            results, out = os.pipe()
            pid = os.fork()
            if pid == 0:
                for inherited in (gate_end, ready_end, results, *fleet.values()):
                    os.close(inherited)
                _child(plan, index, ready, gate, out)
            os.close(out)
            fleet[pid] = results
        os.close(ready)
        _await_ready(ready_end, fleet)
        board.start[0] = _clock() + _LEAD
        os.close(gate_end)
        gate_end = -1
        end = _clock() + _LEAD + seconds + _DRAIN_MOST
        metered = _per_turn(meter, board, seconds)
        seen = [worker for results in fleet.values() for worker in _collect(results, end)]
        patience = _CLOSING_MOST
    finally:
        until = _clock() + patience
        for pid, results in fleet.items():
            _bury(pid, until)
            os.close(results)
        for descriptor in (ready_end, gate, gate_end):
            if descriptor >= 0:
                os.close(descriptor)
    return summary(seen, seconds, metered)


def _per_turn(meter: Callable[[], int] | None, board: _Board, seconds: float) -> float:
    if meter is None:
        return math.nan
    readings = []
    for part in (0.5, 0.95):
        time.sleep(max(0.0, board.start[0] + part * seconds - _clock()))
        readings.append((meter(), board.turns[0]))
    (before, first), (after, last) = readings
    return (after - before) / (last - first) if last > first else math.nan


def summary(seen: list[Seen], seconds: float, metered: float) -> Outcome:
    """What all of them saw."""
    if not all(worker.finished for worker in seen):
        raise ChildProcessError("a thread of the fleet failed; its error is above")
    latencies = [latency for worker in seen for latency in worker.latencies]
    return Outcome(
        handovers=sum(worker.handovers for worker in seen) / seconds,
        turns=sum(worker.turns for worker in seen) / seconds,
        p50=percentile(latencies, 0.5),
        p99=percentile(latencies, 0.99),
        fairness=jain([worker.turns for worker in seen]),
        longest=max(worker.longest for worker in seen),
        overlaps=sum(worker.overlaps for worker in seen),
        metered=metered,
    )


def _await_ready(ready_end: int, fleet: dict[int, int]) -> None:
    end = _clock() + _OPENING_MOST
    count = 0
    while count < len(fleet):
        # Results before the start are the end of a process that failed.
        heard = select.select([ready_end, *fleet.values()], [], [], max(0.0, end - _clock()))[0]
        if not heard:
            raise TimeoutError(f"{len(fleet) - count} of {len(fleet)} processes were not ready in {_OPENING_MOST:g} s")
        if ready_end not in heard:
            raise ChildProcessError("a process of the fleet failed before the start; its error is above")
        count += len(os.read(ready_end, 4096))


def _collect(results: int, end: float) -> list[Seen]:
    parts: list[bytes] = []
    while True:
        if not select.select([results], [], [], max(0.0, end - _clock()))[0]:
            raise TimeoutError(f"a process did not end within {_DRAIN_MOST:g} s of its time")
        part = os.read(results, 1 << 20)
        if not part:
            break
        parts.append(part)
    if not parts:
        raise ChildProcessError("a process of the fleet failed; its error is above")
    seen: list[Seen] = pickle.loads(b"".join(parts))  # noqa: S301 - written by our own child
    return seen


def _bury(pid: int, until: float) -> None:
    # Forked here and not yet waited for, so the number is still its own when it is killed.
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        if _clock() >= until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return
        time.sleep(0.002)


def _child(plan: _Plan, index: int, ready: int, gate: int, out: int) -> None:
    status = 1
    try:
        gc.freeze()
        contender = plan.make(plan.folder)
        workers = [contender.worker() for _ in range(plan.threads)]
        seen = [Seen() for _ in workers]
        os.write(ready, b"r")
        os.read(gate, 1)  # its end, for everybody at once
        first = 1 + index * plan.threads
        if plan.threads == 1:
            _contend(workers[0], first, plan, seen[0])
        else:
            crew = [
                threading.Thread(target=_contend, args=(worker, first + n, plan, seen[n]))
                for n, worker in enumerate(workers)
            ]
            for thread in crew:
                thread.start()
            for thread in crew:
                thread.join()
        contents = pickle.dumps(seen)
        with os.fdopen(out, "wb") as file:
            file.write(contents)
        contender.close()
        status = 0
    except BaseException as error:  # noqa: BLE001 - a forked child must never return into its parent's code
        # One line, in one write: a whole fleet may have the same to say.
        os.write(2, f"process {index} of the fleet failed: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def _contend(worker: Worker, me: int, plan: _Plan, seen: Seen) -> None:
    section, holder, released, turns = plan.section, plan.board.holder, plan.board.released, plan.board.turns
    enter, leave, clock, sleep = worker.enter, worker.leave, _clock, time.sleep
    start = plan.board.start[0]
    end = start + plan.seconds
    sleep(max(0.0, start - clock()))
    while (asked := clock()) < end:
        enter()
        got = clock()
        before = holder[0]
        holder[0] = me
        turns[0] += 1
        seen.longest = max(seen.longest, got - asked)
        if got < end:
            seen.turns += 1
            if before != me:
                seen.handovers += 1
                if before:
                    seen.latencies.append(got - released[0])
        if section:
            sleep(section)
        if holder[0] != me:
            seen.overlaps += 1
        released[0] = clock()
        leave()
    seen.finished = True
