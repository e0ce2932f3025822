"""10,000 leases held by one client: what it costs to keep them, and whether any is lost.

The holder is a process of its own, which does nothing but sleep while its CPU time is counted. Committed transactions
are read from outside, from the counter in SQLite's shared-memory index; opening that file inside the holder would, on
closing it, drop the locks that SQLite has on it.
"""

from __future__ import annotations

import json
import math
import os
import resource
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import tenure
from benchmarks import ROOT
from benchmarks.table import Row, Samples
from tenure.observe.events import Event, Lost, Renewed

if TYPE_CHECKING:
    from collections.abc import Callable

C = TypeVar("C")

COUNT = 10_000
TTL = 30.0
OPENING_MOST = 120.0


@dataclass(frozen=True)
class Report(Generic[C]):
    """What the holder said of itself, and what was counted outside of it while it slept."""

    begun: dict[str, Any]
    kept: dict[str, Any]
    ended: dict[str, Any]
    before: C
    after: C


def run(quick: bool) -> list[Row]:
    """Hold, sleep, count."""
    # A beat comes every 10 s: the quick run must see one too.
    seconds = 11.0 if quick else 60.0
    with TemporaryDirectory(prefix="tenure-bench-") as folder:
        path = Path(folder) / "locks.db"
        report = hold(f"sqlite://{path}", seconds, lambda: _transactions(path))
    kept = report.kept
    beats = kept["renewed"] or math.nan

    def row(what: str, unit: str, value: float, at_most: float | None = None) -> Row:
        return Row(f"10,000 leases: {what}", unit, Samples("tenure", [value]), at_most=at_most)

    return [
        row(f"CPU over {seconds:g} s", "%", 100 * kept["cpu"] / seconds, 0.5),
        row("lost", "", kept["lost"], 0.0),
        row("threads beside the main one", "", kept["threads"], 1.0),
        row("committed transactions a heartbeat", "", (report.after - report.before) / beats, 1.0),
        row("heartbeats", "", kept["renewed"]),
        row("time to take one", "us", report.begun["each"]),
        row("time to release one", "us", report.ended["each"]),
    ]


def hold(url: str, seconds: float, count: Callable[[], C]) -> Report[C]:
    """Start a holder, let it sleep on its leases, and count something just before and after that."""
    command = [sys.executable, "-m", "benchmarks.leases", url, str(seconds)]
    with subprocess.Popen(  # noqa: S603 - commands of this file
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as holder:
        try:
            begun = _heard(holder)
            before = count()
            kept = _heard(holder)
            after = count()
            assert holder.stdin is not None
            holder.stdin.write("go on\n")
            ended = _heard(holder)
            holder.wait(30.0)
        finally:
            if holder.poll() is None:
                holder.kill()
    return Report(begun, kept, ended, before, after)


def _heard(holder: subprocess.Popen[str]) -> dict[str, Any]:
    """A report of the holder, which ends by itself: its opening and its sleep are bounded."""
    assert holder.stdout is not None
    line = holder.stdout.readline()
    if not line:
        raise ChildProcessError("the holder of the leases failed; its error is above")
    report: dict[str, Any] = json.loads(line)
    return report


def _transactions(path: Path) -> int:
    """The counter of committed transactions: the third word of the WAL index (SQLite, walformat.html, section 4)."""
    with open(f"{path}-shm", "rb") as file:
        count: int = struct.unpack("=3I", file.read(12))[2]
    return count


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _hold(url: str, seconds: float) -> None:
    """In the holder's process."""
    renewed = lost = 0

    def on_event(event: Event) -> None:
        nonlocal renewed, lost
        renewed += isinstance(event, Renewed)
        lost += isinstance(event, Lost)

    threads = _threads()
    client = tenure.Client(url, ttl=TTL, on_event=on_event)
    end = time.monotonic() + OPENING_MOST
    begun = time.perf_counter()
    leases = []
    for number in range(COUNT):
        leases.append(client.lock(f"name/{number}").acquire())
        if time.monotonic() > end:
            raise TimeoutError(f"only {number} leases were taken in {OPENING_MOST:g} s")
    each = (time.perf_counter() - begun) / COUNT * 1e6
    time.sleep(0.2)
    print(json.dumps({"each": each}), flush=True)
    renewed = 0
    before = resource.getrusage(resource.RUSAGE_SELF)
    time.sleep(seconds)
    after = resource.getrusage(resource.RUSAGE_SELF)
    kept = {
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "renewed": renewed,
        "lost": max(lost, sum(not lease.held for lease in leases)),
        "threads": _threads() - threads,
    }
    print(json.dumps(kept), flush=True)
    sys.stdin.readline()
    # The rest is left to the client's end, as it would take a while; the thousand is for the figure.
    begun = time.perf_counter()
    for lease in leases[:1000]:
        lease.release()
    print(json.dumps({"each": (time.perf_counter() - begun) * 1e3}), flush=True)
    client.close()


if __name__ == "__main__":
    _hold(sys.argv[1], float(sys.argv[2]))
