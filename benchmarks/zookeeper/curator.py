"""Curator's InterProcessMutex, contended for by threads of Java processes: the lock that most who use ZooKeeper have.

It takes part where the environment names a folder with its jars. It comes warm, which ours does not: each process has
its code compiled on another name before the time begins.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from array import array
from typing import TYPE_CHECKING, Final

from benchmarks.fleet import Outcome, Seen, summary

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.zookeeper import ZooKeeperServer

JARS: Final = "TENURE_BENCH_CURATOR"
"""The environment's variable with a folder of the jars of Curator and what it needs."""

NAME: Final = "Curator InterProcessMutex"

_SOURCE: Final = os.path.join(os.path.dirname(__file__), "Contend.java")
_ENDING_MOST: Final = 60.0


def is_there() -> bool:
    """Whether it takes part."""
    return bool(os.environ.get(JARS))


def run(server: ZooKeeperServer, folder: Path, *, processes: int, threads: int, seconds: float) -> Outcome:
    """Let them contend, with nothing to do in it.

    Raises:
        OSError: one of them failed; what it said is above.
    """
    if shutil.which("javac") is None:
        raise OSError("javac is not installed (Debian: default-jdk-headless)")
    jars = f"{os.environ[JARS]}/*"
    subprocess.run(["javac", "-cp", jars, "-d", folder, _SOURCE], check=True)  # noqa: S603, S607 - ours
    board = folder / "board"
    board.write_bytes(bytes(16))
    address = f"{server.host}:{server.port}"
    fleet = []
    try:
        for at in range(processes):
            numbers = [str(1 + at * threads), str(threads), str(seconds), "0"]
            command = ["java", "-cp", f"{jars}:{folder}", "Contend", address, os.fspath(board), *numbers]
            fleet.append(
                subprocess.Popen(  # noqa: S603 - ours
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
                )
            )
        for process in fleet:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise OSError("a Java process of the fleet did not come to the start")
        before = server.received
        for process in fleet:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        seen = [_seen(line) for process in fleet for line in process.communicate(timeout=_ENDING_MOST)[0].splitlines()]
    finally:
        for process in fleet:
            process.kill()
            process.wait()
    if len(seen) != processes * threads:
        raise OSError("a Java process of the fleet failed")
    return summary(seen, seconds, (server.received - before) / max(1, sum(worker.turns for worker in seen)))


def _seen(line: str) -> Seen:
    turns, handovers, overlaps, longest, *latencies = map(int, line.split())
    times = array("d", [1e-9 * latency for latency in latencies])
    return Seen(turns, handovers, overlaps, 1e-9 * longest, True, times)
