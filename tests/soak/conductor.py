"""Processes that want the same names, and all that may happen to them and to their servers meanwhile.

Promises: what was started here is ended here; the same seed draws the same faults in the same order, though not at the
same instant of what they disturb.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tests.servers.processes import ServerFailed
from tests.servers.proxy import BOTH, Proxy
from tests.soak import judge
from tests.soak.places import KINDS
from tests.soak.worker import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers.proxy import Direction
    from tests.soak.places import Place

TTL: Final = 2.0
"""Seconds; ZooKeeper's and etcd's servers grant little less."""

ROOT: Final = Path(__file__).parents[2]


class Outcome(NamedTuple):
    """What came of a run.

    Attributes:
        wrong: what must not be, in words; empty if all is well.
        leases: how many were granted.
        lost: how many of them were seen to be lost.
        faults: how often each was done.
        counts: of what came of the workers' requests.
    """

    wrong: list[str]
    leases: int
    lost: int
    faults: dict[str, int]
    counts: dict[str, int]


class Conductor:
    """One run at one place."""

    def __init__(self, place: Place, folder: Path, *, workers: int, seed: int, naive: bool) -> None:
        self._place = place
        self._folder = folder
        self._naive = naive
        self._seed = seed
        self._random = random.Random(seed)  # noqa: S311 - chance, not secrecy
        self._numbers = list(range(workers))
        self._starts: Counter[int] = Counter()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._proxies: dict[int, list[Proxy]] = {}
        self._closing = contextlib.ExitStack()
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._stopped: set[int] = set()
        self._away: set[int] = set()
        self.faults: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self, seconds: float, patience: float) -> None:
        """Let them work, and disturb them for so long; then mend all, and wait until each was served."""
        with self._closing:
            for number in self._numbers:
                self._proxies[number] = [self._closing.enter_context(Proxy(target)) for target in self._place.targets]
                self._closing.callback(self._end, number)
                self._start(number)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                self._rest(self._random.uniform(0.05, 0.6))
                self._disturb()
            self._mend()
            self._wait_served(patience)

    # -- faults -------------------------------------------------------------------------------------------------------

    def _disturb(self) -> None:
        # Whoever holds something has the most to get wrong.
        holding = [number for number in self._numbers if self._holds(number)]
        number = self._random.choice(holding if holding and self._random.random() < 0.7 else self._numbers)
        faults: list[Callable[[int], None]] = [self._stop, self._stop, self._kill]
        if self._place.targets:
            faults += [self._cut, self._hold, self._hold, self._slow, self._lose]
        if self._place.servers and self._random.random() < 0.3:
            faults = [self._stop_server, self._kill_server] if self._place.is_patient else [self._kill_server]
        fault = self._random.choice(faults)
        fault(number)

    def _holds(self, number: int) -> bool:
        """Whether the last that a worker wrote is that it holds a name."""
        with contextlib.suppress(FileNotFoundError), self._path(number, "log").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 300))
            return b'"held"' in log.read().rstrip().rpartition(b"\n")[2]
        return False

    def _done(self, what: str, undo: Callable[[], None], least: float, most: float) -> None:
        """Count a fault, and undo it after so many ttls."""
        self.faults[what] += 1
        self._due.append((time.monotonic() + self._random.uniform(least, most) * TTL, undo))

    def _stop(self, number: int) -> None:
        if number in self._processes and number not in self._stopped:
            self._stopped.add(number)
            self._processes[number].send_signal(signal.SIGSTOP)
            briefly = self._random.random() < 0.4
            self._done("worker stopped", lambda: self._cont(number), *((0.1, 0.8) if briefly else (1.2, 2.2)))

    def _cont(self, number: int) -> None:
        if number in self._stopped:
            self._stopped.remove(number)
            self._processes[number].send_signal(signal.SIGCONT)

    def _kill(self, number: int) -> None:
        if number in self._processes:
            self._end(number)
            self._done("worker killed", lambda: self._start(number), 0.0, 0.5)

    def _cut(self, number: int) -> None:
        for proxy in self._proxies[number]:
            proxy.cut(self._random.choice(["rst", "fin"]))
        self.faults["connections cut"] += 1

    def _hold(self, number: int) -> None:
        """A network that is cut, for all of a worker's servers or for one."""
        held = self._random.choice([self._proxies[number], [self._random.choice(self._proxies[number])]])
        ways: list[tuple[Direction, ...]] = [BOTH, ("requests",), ("replies",)]
        directions = self._random.choice(ways)
        for proxy in held:
            proxy.hold(*directions)
        self._done("network held", lambda: self._heal(held, lost=self._random.random() < 0.5), 0.05, 1.8)

    def _slow(self, number: int) -> None:
        for proxy in self._proxies[number]:
            proxy.delay(self._random.uniform(0.005, TTL / 15))
        self._done("network slow", lambda: self._heal(self._proxies[number], lost=False), 0.2, 1.5)

    def _lose(self, number: int) -> None:
        """Answers are lost, and what was asked is done."""
        for proxy in self._proxies[number]:
            proxy.drop("replies")
        self._done("replies lost", lambda: self._heal(self._proxies[number], lost=True), 0.02, 0.3)

    def _heal(self, proxies: list[Proxy], *, lost: bool) -> None:
        for proxy in proxies:
            if lost:
                proxy.cut()
            proxy.heal()

    def _stop_server(self, _: int) -> None:
        if (at := self._leave()) is not None:
            server = self._place.servers[at]
            server.stop()

            def cont() -> None:
                server.cont()
                self._away.discard(at)

            self._done("server stopped", cont, 0.1, 1.5)

    def _kill_server(self, _: int) -> None:
        if (at := self._leave()) is not None:
            server = self._place.servers[at]
            server.kill()

            def start() -> None:
                server.spawn()
                self._away.discard(at)

            self._done("server killed", start, 0.0, 0.8)

    def _leave(self) -> int | None:
        """A server that may be away now."""
        if len(self._away) >= self._place.spare:
            return None
        at = self._random.choice([n for n in range(len(self._place.servers)) if n not in self._away])
        self._away.add(at)
        return at

    # -- the workers --------------------------------------------------------------------------------------------------

    def _path(self, number: int, ending: str) -> Path:
        return self._folder / f"{number}-{self._starts[number]}.{ending}"

    def _start(self, number: int) -> None:
        self._starts[number] += 1
        orders = {
            "url": self._place.url(self._proxies[number]),
            "ttl": TTL,
            "naive": self._naive,
            "looped": number % 2 == 1,
            "seed": self._seed * 1000 + number * 100 + self._starts[number],
            "calm": str(self._folder / "calm"),
            "log": str(self._path(number, "log")),
        }
        with self._path(number, "err").open("wb") as errors:
            self._processes[number] = subprocess.Popen(
                [sys.executable, "-m", "tests.soak.worker", json.dumps(orders)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def _end(self, number: int) -> None:
        """Kill it; one that is stopped dies too."""
        if number in self._processes:
            self._look_at(number)
            process = self._processes.pop(number)
            process.kill()
            process.wait()
            self._stopped.discard(number)

    def _look_at(self, number: int) -> bool:
        """Whether it has ended, which it may do once all is calm; an ending before, or with an error, is wrong."""
        status = self._processes[number].poll()
        if status:
            said = self._path(number, "err").read_text("utf-8", "replace")
            self.wrong.append(f"worker {number} ended with {status}: {said[-2000:]}")
        return status is not None

    def _rest(self, seconds: float) -> None:
        """Let some time pass, and undo what is due."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            for due in [due for due in self._due if due[0] <= now]:
                self._due.remove(due)
                due[1]()
            time.sleep(0.01)

    def _mend(self) -> None:
        for _, undo in self._due:
            undo()
        self._due.clear()
        for proxies in self._proxies.values():
            self._heal(proxies, lost=False)
        for server in self._place.servers:
            server.wait_ready()
        for number, process in self._processes.items():
            if process.poll() is not None and not process.returncode:
                self.wrong.append(f"worker {number} ended before its time")
        (self._folder / "calm").touch()

    def _wait_served(self, patience: float) -> None:
        end = time.monotonic() + patience
        for number, process in self._processes.items():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
            if not self._look_at(number):
                self.wrong.append(f"worker {number} was not served within {patience:g} s after all was mended")


def soak(
    engine: str, seconds: float, *, seed: int, workers: int = 5, naive: bool = False, patience: float = 60
) -> Outcome:
    """Let workers contend for some names on an engine, under faults, and judge what they say.

    Args:
        engine: one of `KINDS`.
        seconds: for how long faults are made.
        seed: draws the faults, and what the workers do.
        workers: processes; every other one uses asyncio.
        naive: workers that never ask their lease whether it is still held, which must be found out.
        patience: seconds within which each must be served once all is mended.

    Whatever was wrong, the workers' logs are copied to the folder TENURE_SOAK_KEEP, if that is set.
    """
    with tempfile.TemporaryDirectory(prefix="tenure-soak-") as name, KINDS[engine].enter() as place:
        folder = Path(name)
        conductor = Conductor(place, folder, workers=workers, seed=seed, naive=naive)
        try:
            conductor.run(seconds, patience)
        except ServerFailed as error:
            conductor.wrong.append(f"a server: {error}")
        log = judge.read(sorted(folder.glob("*.log")))
        wrong = [*conductor.wrong, *judge.overlaps(log.beliefs), *judge.disorder(log.beliefs)]
        wrong += [
            f"worker {number} never held {sorted(missed)} after all was mended"
            for number in range(workers)
            if (missed := NAMES.keys() - log.served.get(str(number), set()))
        ]
        if wrong and (kept := os.environ.get("TENURE_SOAK_KEEP")):
            shutil.copytree(folder, kept, dirs_exist_ok=True)
        return Outcome(wrong, len(log.beliefs), log.counts.get("lost", 0), dict(conductor.faults), log.counts)


def shown(outcome: Outcome) -> dict[str, Any]:
    """An outcome for people, as JSON."""
    return {"leases": outcome.leases, "lost": outcome.lost, "faults": outcome.faults, "counts": outcome.counts}
