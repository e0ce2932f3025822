"""How quickly `tenure run` reacts: to a holder that was killed, and to one that slept past its lease.

Killed: `kill -9` of the wrapper; the clock stops when the next command's first output arrives. Its wrapper has been
waiting in the queue, its process has been forked: the time is for hearing of the death and starting the command.

Stopped: SIGSTOP of the wrapper and of its command's group, until the next holder has started; then SIGCONT to both,
the command first, which is the worse order. The clock stops when the first command is dead.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import ROOT
from benchmarks.table import Row, Samples

PATIENCE = 20.0
TTL = 1.0


def run(quick: bool) -> list[Row]:
    """Repeat both a few times."""
    killed = [_killed() for _ in range(5 if quick else 15)]
    stopped = [_stopped() for _ in range(3 if quick else 7)]
    return [
        Row(
            "reaction: kill -9 of the holder, until the next has started",
            "ms",
            Samples("tenure", killed),
            at_most=100.0,
        ),
        Row(
            "reaction: SIGCONT past the ttl, until the first command is dead",
            "ms",
            Samples("tenure", stopped),
            at_most=50.0,
        ),
    ]


class _Run:
    """A `tenure run` of our own, in a session of its own, with its events; its whole group is killed at the end."""

    def __init__(self, folder: str, ttl: float, *command: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TENURE_URL": f"sqlite://{folder}/locks.db"}
        arguments = ["run", "bench", "--json", "--ttl", str(ttl), "--wait", "60", "--", *command]
        self.process = subprocess.Popen(  # noqa: S603 - commands of this file
            [sys.executable, "-m", "tenure", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self.command = 0
        self._rest = b""

    def event(self, wanted: str) -> dict[str, Any]:
        """Wait for an event of the wrapper."""
        while True:
            event: dict[str, Any] = json.loads(self._line())
            if event["event"] == "started":
                self.command = event["pid"]
            if event["event"] == wanted:
                return event

    def _line(self) -> bytes:
        while b"\n" not in self._rest:
            self._rest += _read(self.process.stderr)
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def output(self) -> bytes:
        """Wait for the command's output."""
        return _read(self.process.stdout)

    def end(self) -> None:
        """Kill what is left of it; the wrapper has not been waited for, so its number is its own."""
        group = self.command
        if self.process.poll() is None:
            # Its command dies with it, and while the wrapper lives the number of the command's group is its own.
            if group:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGKILL)
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def _read(pipe: Any) -> bytes:
    if not select.select([pipe], [], [], PATIENCE)[0]:
        raise TimeoutError(f"nothing was heard of a `tenure run` for {PATIENCE:g} s")
    got: bytes = os.read(pipe.fileno(), 65536)
    if not got:
        raise ChildProcessError("a `tenure run` ended early")
    return got


def _killed() -> float:
    with TemporaryDirectory(prefix="tenure-bench-") as folder:
        runs: list[_Run] = []
        try:
            runs.append(_Run(folder, 30.0, "sleep", "60"))
            runs[0].event("started")
            runs.append(_Run(folder, 30.0, "echo", "started"))
            runs[1].event("waiting")
            time.sleep(0.1)
            begun = time.perf_counter()
            os.kill(runs[0].process.pid, signal.SIGKILL)
            runs[1].output()
            return (time.perf_counter() - begun) * 1e3
        finally:
            for one in runs:
                one.end()


def _stopped() -> float:
    with TemporaryDirectory(prefix="tenure-bench-") as folder:
        runs: list[_Run] = []
        try:
            runs.append(_Run(folder, TTL, "sleep", "60"))
            runs[0].event("started")
            wrapper, command = runs[0].process.pid, runs[0].command
            death = os.pidfd_open(command)
            runs.append(_Run(folder, 30.0, "sleep", "60"))
            runs[1].event("waiting")
            os.kill(wrapper, signal.SIGSTOP)
            os.killpg(command, signal.SIGSTOP)
            runs[1].event("started")
            begun = time.perf_counter()
            os.killpg(command, signal.SIGCONT)
            os.kill(wrapper, signal.SIGCONT)
            dead = bool(select.select([death], [], [], PATIENCE)[0])
            taken = (time.perf_counter() - begun) * 1e3
            os.close(death)
            if not dead:
                raise TimeoutError(f"the first command was still alive {PATIENCE:g} s after it was continued")
            return taken
        finally:
            for one in runs:
                one.end()
