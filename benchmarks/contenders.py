"""Ours, the peers and the bound, behind one small interface; each with its own defaults (its sleep, its poll).

Only what would end a wait early is changed: no contender gives up before the round is over.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Protocol

import filelock
import portalocker

import tenure
from benchmarks.bare import BareTable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAME = "bench"


class Worker(Protocol):
    """One contender for one name."""

    def enter(self) -> None:
        """Wait until the name is ours."""

    def leave(self) -> None:
        """Give it back."""


class Contender(Protocol):
    """What one process needs to contend: connected once, shared by its workers."""

    def worker(self) -> Worker:
        """A worker for one thread of this process."""

    def close(self) -> None:
        """Let go of everything."""


class Tenure:
    """One client per process."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self._client = tenure.Client(url or f"sqlite://{folder}/locks.db").open()
        # The first request of a client opens its session; that is not what is measured.
        self._client.lock("warm").acquire().release()

    def worker(self) -> Worker:
        """A worker of this client."""
        return _TenureWorker(self._client.lock(NAME, wait=None))

    def close(self) -> None:
        """Close the client."""
        self._client.close()


class _TenureWorker:
    def __init__(self, lock: tenure.Lock) -> None:
        self._lock = lock
        self._lease: tenure.Lease

    def enter(self) -> None:
        self._lease = self._lock.acquire()

    def leave(self) -> None:
        self._lease.release()


class Flock:
    """The bound: flock(2) on an open descriptor, from Python, and nothing else. Blocks, so it has no timeout."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "flock"

    def worker(self) -> Worker:
        """A descriptor of its own: flock(2) belongs to the open file."""
        return _FlockWorker(os.open(self._path, os.O_RDWR | os.O_CREAT))

    def close(self) -> None:
        """The end of the process closes the descriptors."""


class _FlockWorker:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def enter(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def leave(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)


class Filelock:
    """filelock with its own poll (50 ms)."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "filelock"

    def worker(self) -> Worker:
        """A lock object of its own."""
        return _FilelockWorker(filelock.FileLock(self._path))

    def close(self) -> None:
        """Nothing is kept."""


class _FilelockWorker:
    def __init__(self, lock: filelock.BaseFileLock) -> None:
        self._lock = lock

    def enter(self) -> None:
        self._lock.acquire()

    def leave(self) -> None:
        self._lock.release()


class Portalocker:
    """portalocker's file lock with its own poll (250 ms)."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "portalocker"

    def worker(self) -> Worker:
        """A lock object of its own."""
        return _PortalockerWorker(portalocker.Lock(self._path, timeout=60.0))

    def close(self) -> None:
        """Nothing is kept."""


class _PortalockerWorker:
    def __init__(self, lock: portalocker.Lock) -> None:
        self._lock = lock

    def enter(self) -> None:
        self._lock.acquire()

    def leave(self) -> None:
        self._lock.release()


class Ring:
    """The bound of strict order: a byte handed on from pipe to pipe, which is one wake-up of a process per hand-over.

    No lock: who is not there when its turn comes holds up all the others.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def worker(self) -> Worker:
        """The next place in the ring; the first one has the byte."""
        place = 0
        while True:
            try:
                os.mkfifo(self._folder / f"ring-{place}")
            except FileExistsError:
                place += 1
                continue
            break
        return _RingWorker(self._folder, place)

    def close(self) -> None:
        """The end of the process closes the descriptors."""


class _RingWorker:
    def __init__(self, folder: Path, place: int) -> None:
        self._folder = folder
        self._place = place
        # Both ends of each pipe: passing on to a worker that has ended then neither blocks nor fails.
        self._mine = os.open(folder / f"ring-{place}", os.O_RDWR)
        self._next = -1
        if place == 0:
            os.write(self._mine, b"t")

    def enter(self) -> None:
        os.read(self._mine, 1)

    def leave(self) -> None:
        if self._next < 0:
            # Everybody has a place before the first turn is over.
            size = sum(name.startswith("ring-") for name in os.listdir(self._folder))
            self._next = os.open(self._folder / f"ring-{(self._place + 1) % size}", os.O_RDWR)
        os.write(self._next, b"t")


class Nobody:
    """No lock at all: what the sections alone allow, for one process."""

    def __init__(self, _folder: Path) -> None:
        pass

    def worker(self) -> Worker:
        """A worker that may always enter."""
        return _NobodyWorker()

    def close(self) -> None:
        """There is nothing to close."""


class _NobodyWorker:
    def enter(self) -> None:
        pass

    def leave(self) -> None:
        pass


MAKE: dict[str, Callable[[Path], Contender]] = {
    "tenure": Tenure,
    "flock(2)": Flock,
    "filelock": Filelock,
    "portalocker": Portalocker,
    "ring of pipes": Ring,
    "bare table": BareTable,
    "sections alone": Nobody,
}
