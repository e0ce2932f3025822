"""What starting costs: the import over a bare interpreter, and the command line over an interpreter that does nothing.

Whole processes, in turn; the figures are differences within a round. The files are read before, so nothing waits for a
disk.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks import ROOT
from benchmarks.table import Row, Samples

if TYPE_CHECKING:
    from collections.abc import Sequence

WARM_UP = 2


def run(quick: bool) -> list[Row]:
    """Start each in turn."""
    rounds = 15 if quick else 31
    with TemporaryDirectory(prefix="tenure-bench-") as folder:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "src"),
            "TENURE_URL": f"sqlite://{folder}/locks.db",
            # As after an installation, whatever the caller has set: the warm-up compiles for the rounds.
            "PYTHONPYCACHEPREFIX": f"{folder}/compiled",
            "PYTHONDONTWRITEBYTECODE": "",
        }
        python = [sys.executable]
        commands: dict[str, Sequence[str]] = {
            "python -c pass": [*python, "-c", "pass"],
            "import tenure": [*python, "-c", "import tenure"],
            "from tenure import Client": [*python, "-c", "from tenure import Client"],
            "tenure run": [*python, "-m", "tenure", "run", "bench", "--", "true"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for count in range(WARM_UP + rounds):
            for name, command in commands.items():
                taken = _start(command, environment)
                if count >= WARM_UP:
                    times[name].append(taken * 1e3)
    bare = Samples("python -c pass", times["python -c pass"])

    def row(name: str, at_most: float | None) -> Row:
        return Row(f"start-up: {name}", "ms", Samples(name, times[name]), bound=bare, judge="over", at_most=at_most)

    return [row("import tenure", 15.0), row("from tenure import Client", None), row("tenure run", 120.0)]


def _start(command: Sequence[str], environment: dict[str, str]) -> float:
    begun = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)  # noqa: S603 - commands of this file
    # A wait with a timeout of subprocess's own looks each 50 ms.
    watched = os.pidfd_open(process.pid)
    try:
        if not select.select([watched], [], [], 30.0)[0]:
            process.kill()
        taken = time.perf_counter() - begun
        if status := process.wait():
            raise OSError(f"{command} has ended with {status}")
    finally:
        os.close(watched)
    return taken
