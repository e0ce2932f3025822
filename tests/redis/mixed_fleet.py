"""A mixed fleet: processes with redis-py's Lock and processes with tenure contend for one name, and some are killed.

Who is inside stands in shared memory, written by whoever believes to hold the lock, so that two at a time are seen by
one of them. To run many rounds by hand, on a server that is started for them:

    python -m tests.redis.mixed_fleet 10000
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import redis

from tenure import Client
from tests.servers.processes import PATIENCE, until
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

NAME: Final = "orders/42"
OPTION: Final = "?plain_key={name}"

TTL: Final = 2.0
SLEEP: Final = 0.005
"""Seconds that redis-py sleeps between its attempts."""

SECTION: Final = 0.0005
PAUSE_MOST: Final = 0.02
"""Seconds in the section, and after it: while nobody holds, either kind may come."""

KINDS: Final = ("redis-py", "tenure")
EACH: Final = 3
"""Processes of each kind."""

_ROOT: Final = Path(__file__).parents[2]
_WORKER: Final = struct.Struct("qqq")
_WORKERS: Final = EACH * len(KINDS)


class Board:
    """What all processes see: who is inside, how many rounds are to be done, and what each worker has counted."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(16 + _WORKER.size * _WORKERS))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    @property
    def inside(self) -> int:
        """The worker that believes to hold the lock, counted from 1; 0 for nobody."""
        return int(struct.unpack_from("q", self._map, 0)[0])

    @inside.setter
    def inside(self, worker: int) -> None:
        struct.pack_into("q", self._map, 0, worker)

    @property
    def wanted(self) -> int:
        """How many rounds; 0 before the start."""
        return int(struct.unpack_from("q", self._map, 8)[0])

    @wanted.setter
    def wanted(self, rounds: int) -> None:
        struct.pack_into("q", self._map, 8, rounds)

    def count(self, worker: int, rounds: int = 0, overlaps: int = 0, stalls: int = 0) -> None:
        """Add to what a worker has counted. Each writes its own."""
        place = 16 + _WORKER.size * (worker - 1)
        old = _WORKER.unpack_from(self._map, place)
        _WORKER.pack_into(self._map, place, old[0] + rounds, old[1] + overlaps, old[2] + stalls)

    def counted(self) -> list[tuple[int, int, int]]:
        """Rounds, overlaps and stalls of each worker."""
        return [_WORKER.unpack_from(self._map, 16 + _WORKER.size * place) for place in range(_WORKERS)]

    @property
    def rounds(self) -> int:
        return sum(rounds for rounds, _, _ in self.counted())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._map.close()


class Outcome(NamedTuple):
    """What a fleet has seen; rounds by kind.

    Attributes:
        stalls: sections that took most of a ttl, on a host so busy that its locks end.
        killed: workers that were killed inside the section.
    """

    rounds: dict[str, int]
    overlaps: int
    stalls: int
    killed: int


def contend(url: str, rounds: int, kills: int = 0, option: str = OPTION) -> Outcome:
    """Let a fleet contend on an empty server until so many rounds are done in all."""
    killed = 0
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        board = stack.enter_context(Board(Path(folder, "board")))
        workers: list[subprocess.Popen[bytes]] = []
        for worker in range(1, _WORKERS + 1):
            kind = KINDS[worker % len(KINDS)]
            arguments = [kind, url + (option if kind == "tenure" else ""), str(worker), str(Path(folder, "board"))]
            command = [sys.executable, "-m", "tests.redis.mixed_fleet", *arguments]
            workers.append(stack.enter_context(subprocess.Popen(command, cwd=_ROOT)))
            stack.callback(workers[-1].kill)
        until(lambda: all(rounds < 0 for rounds, _, _ in board.counted()), "all workers are ready", PATIENCE)
        board.wanted = rounds
        for kill in range(kills):
            # Of either kind in turn; the others have to wait for its ttl.
            part = rounds * (kill + 1) // (kills + 1)
            until(partial(_has_done, board, part), "rounds are done", 10 * PATIENCE)
            killed += _killed_inside(board, kill + 1, workers[kill])
        for worker, process in enumerate(workers):
            code = process.wait(max(10 * PATIENCE, rounds / 20))
            assert code == (0 if worker >= kills else -signal.SIGKILL)
        counted = board.counted()
    by_kind = {kind: sum(counted[place][0] for place in range(_WORKERS) if _kind(place) == kind) for kind in KINDS}
    return Outcome(by_kind, sum(seen for _, seen, _ in counted), sum(stalls for _, _, stalls in counted), killed)


def _has_done(board: Board, rounds: int) -> bool:
    return board.rounds >= rounds


def _kind(place: int) -> str:
    return KINDS[(place + 1) % len(KINDS)]


def _killed_inside(board: Board, worker: int, process: subprocess.Popen[bytes]) -> bool:
    """Kill a worker in its section, and wait until it is gone; False if it had just left."""
    end = time.monotonic() + PATIENCE
    while board.inside != worker:
        assert time.monotonic() < end, f"worker {worker} never enters"
    process.send_signal(signal.SIGSTOP)
    was_inside = board.inside == worker
    process.kill()
    process.wait()
    if board.inside == worker:
        board.inside = 0
    return was_inside


# -- a worker ---------------------------------------------------------------------------------------------------------


def work(board: Board, worker: int, do: Callable[[Callable[[], None]], None]) -> None:
    """Do rounds until there are enough.

    Args:
        board: what all see.
        worker: which one this is.
        do: does something under the lock.
    """

    def section() -> None:
        begun = time.monotonic()
        overlaps = int(board.inside != 0)
        board.inside = worker
        time.sleep(SECTION)
        overlaps += board.inside != worker
        board.inside = 0
        stalls = int(time.monotonic() - begun > TTL / 4)
        board.count(worker, rounds=1, overlaps=overlaps, stalls=stalls)

    do(lambda: None)
    # Ready, with all that is imported and connected late: all begin together.
    board.count(worker, rounds=-1)
    while not board.wanted:
        time.sleep(0.001)
    board.count(worker, rounds=1)
    chance = random.Random(worker)  # noqa: S311 - how long to pause
    while board.rounds < board.wanted:
        do(section)
        time.sleep(chance.random() * PAUSE_MOST)


def work_as(kind: str, url: str, worker: int, board: Board) -> None:
    """Be a worker of a kind."""
    if kind == "tenure":
        with Client(url, ttl=TTL) as client:

            def do(section: Callable[[], None]) -> None:
                with client.lock(NAME, wait=10 * PATIENCE):
                    section()

            work(board, worker, do)
        return
    with redis.Redis.from_url(url) as server:

        def do_plainly(section: Callable[[], None]) -> None:
            with server.lock(NAME, timeout=TTL, sleep=SLEEP):
                section()

        work(board, worker, do_plainly)


def main(arguments: list[str]) -> None:
    """Be a worker, or start a fleet for a number of rounds."""
    if len(arguments) > 1:
        kind, url, worker, path = arguments
        with Board(Path(path)) as board:
            work_as(kind, url, int(worker), board)
        return
    with RedisServer() as server:
        begun = time.monotonic()
        print(contend(server.url, int(arguments[0]), kills=2), f"in {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    os.environ.pop("TENURE_URL", None)
    main(sys.argv[1:])
