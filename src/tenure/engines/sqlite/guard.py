"""The write guard: one process at a time in a write transaction, waited for with a timeout.

Promises: `acquire` ends within its timeout, whatever the holder does, and then names the holder; the kernel frees the
guard of a dead process. No waiter starves in practice: a release rings a bell that wakes one waiter.
Does not promise: order. A newcomer may slip in between a release and the waiter that it woke.

flock(2) is the truth. It has no timeout, and blocking in it behind a stopped process is for ever, so waiters never
block in it: they wait for a byte in a named pipe, the *bell*, and try again. The bell is a hint. It may be lost (the
holder was killed, or the one who was woken is stopped), so nobody waits for it longer than `_PATIENCE_MAX_S`.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
import sys
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from tenure.errors import StoreUnavailable
from tenure.runtimes.native import original

if TYPE_CHECKING:
    import select
    from collections.abc import Callable

BELL_SUFFIX: Final = ".bell"

_EXCLUSIVE: Final = fcntl.LOCK_EX | fcntl.LOCK_NB
_BELL_BYTES: Final = 4096
_EPOLLIN: Final = 1
_EPOLLEXCLUSIVE: Final = 1 << 28
_RINGS: Final = 16
"""How many releases ring after somebody has waited."""
_SPINS: Final = 20
_PATIENCE_S: Final = 0.002
_PATIENCE_MAX_S: Final = 0.020
_STATES: Final = {"T": "stopped", "t": "stopped by a debugger", "D": "waiting for a disk", "Z": "dead, not yet reaped"}

_yield: Callable[[], None] = getattr(os, "sched_yield", lambda: None)


class Guard:
    """The write guard of one database, for one thread at a time (the caller holds a mutex).

    A forked child closes what it inherited and opens the file anew when it needs it: the inherited descriptor is the
    parent's own lock, so that locking it would succeed beside the parent, and unlocking it would unlock the parent.
    """

    __slots__ = ("__weakref__", "_bell", "_fd", "_path", "_waited")

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._bell = -1
        self._waited: mmap.mmap | bytearray = bytearray(1)
        _guards.add(self)

    def acquire(self, timeout: float) -> None:
        """Take the guard.

        Args:
            timeout: how long to wait, in seconds; 0 tries once.

        Raises:
            StoreUnavailable: not in time, or the file cannot be opened or locked; the guard is not held. The message
                names the process that holds it, and whether that is stopped, where the system tells.

        An exception of a signal handler (KeyboardInterrupt) may come after the guard was taken: put `acquire` inside
        the `try` whose `finally` calls `release`, which is harmless without it.
        """
        if self._fd < 0:
            self._open()
        try:
            fcntl.flock(self._fd, _EXCLUSIVE)
        except OSError:
            self._contend(timeout)

    def _contend(self, timeout: float) -> None:
        if not self._try() and not self._spin() and not self._wait(timeout):
            raise StoreUnavailable(f"the write guard {self._path} was not free within {timeout:g} s: {self._holder()}")

    def release(self) -> None:
        """Let go, and wake one waiter. Harmless if the guard is not held, and in a forked child. Never raises."""
        if self._fd < 0:
            return
        try:  # noqa: SIM105 - suppress() costs half as much as the unlocking
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        except OSError:
            pass
        rings = self._waited[0]
        if rings:
            self._ring(rings)

    def _ring(self, rings: int) -> None:
        if isinstance(self._waited, mmap.mmap):
            # Counted down before it rings: whoever is woken sets it anew before it tries. Else every release rang from
            # then on; and if only the next one did, a waiter that a newcomer beats to it would wait alone and longer.
            self._waited[0] = rings - 1
        # No bell, or a full one: then nobody has listened for thousands of releases.
        try:  # noqa: SIM105 - as above; where many wait, every release rings
            os.write(self._bell, b"\a")
        except OSError:
            pass

    def is_stale(self) -> bool:
        """Tell whether the file was deleted or replaced since it was opened: others then have another guard."""
        try:
            mine, theirs = os.fstat(self._fd), os.stat(self._path)
        except OSError:
            return True
        return (mine.st_dev, mine.st_ino) != (theirs.st_dev, theirs.st_ino)

    def close(self) -> None:
        """Close the descriptors, which lets go of the guard. `acquire` opens them again. Never raises."""
        self.disown()

    def disown(self) -> None:
        """Close the descriptors and unlock nothing: what a forked child does with its parent's guard. Never raises."""
        fds, self._fd, self._bell = (self._fd, self._bell), -1, -1
        for fd in fds:
            if fd >= 0:
                with suppress(OSError):
                    os.close(fd)

    def _open(self) -> None:
        self.disown()
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"the write guard {self._path} cannot be opened: {error.strerror}") from error
        self._bell = _open_bell(self._path + BELL_SUFFIX)
        self._waited = _open_flag(self._path)

    def _try(self) -> bool:
        try:
            fcntl.flock(self._fd, _EXCLUSIVE)
        except BlockingIOError:
            return False
        except OSError as error:
            raise StoreUnavailable(f"the write guard {self._path} cannot be locked: {error.strerror}") from error
        return True

    def _spin(self) -> bool:
        """Try again a few times, letting others run: a step takes about 30 us, and waiting for the bell as long."""
        for _ in range(_SPINS):
            _yield()
            if self._try():
                return True
        return False

    def _wait(self, timeout: float) -> bool:
        end = time.monotonic() + timeout
        patience = _PATIENCE_S
        with _Ear(self._bell) as ear:
            while True:
                # Listen before the try: a release between a failed try and the wait has then left its byte. Empty the
                # bell first: a byte that comes after that is kept, and a count taken down before it is set again.
                ear.empty()
                if isinstance(self._waited, mmap.mmap):
                    self._waited[0] = _RINGS
                if self._try():
                    return True
                left = end - time.monotonic()
                if left <= 0:
                    return False
                rang = ear.wait(min(patience, left))
                patience = _PATIENCE_S if rang else min(patience * 1.25, _PATIENCE_MAX_S)

    def _holder(self) -> str:
        try:
            pid = _locked_by(os.fstat(self._fd))
        except OSError:
            pid = 0
        if pid <= 0:
            return "which process holds it is not known"
        name, state = _process(pid)
        if state in ("stopped", "stopped by a debugger"):
            return f"process {pid} ({name}) holds it and is {state}; continue it (kill -CONT {pid}) or end it"
        return f"process {pid} ({name}, {state}) holds it"


class _Ear:
    """Waits for the bell, for the time of one `acquire`.

    Exclusive listening wakes one of many waiters; without it, 64 waiters would all run for one byte. The epoll object
    lives no longer than the wait, for a forked child would share it with its parent.
    """

    __slots__ = ("_bell", "_epoll", "_sleep")

    def __init__(self, bell: int) -> None:
        self._bell = bell
        self._epoll: select.epoll | None = None
        # Not gevent's: the caller holds a mutex, and another greenlet that wants it would wait for ever.
        self._sleep: Callable[[float], None] = original("time", "sleep")

    def __enter__(self) -> Self:
        make = original("select", "epoll") if self._bell >= 0 and sys.platform == "linux" else None
        if make is not None:
            epoll: select.epoll = make()
            self._epoll = epoll
            epoll.register(self._bell, _EPOLLIN | _EPOLLEXCLUSIVE)
        return self

    def __exit__(self, *_: object) -> None:
        if self._epoll is not None:
            self._epoll.close()

    def empty(self) -> None:
        """Take what has been rung so far; whoever does so tries the guard next, so no release is missed."""
        if self._bell >= 0:
            with suppress(OSError):
                os.read(self._bell, _BELL_BYTES)

    def wait(self, patience: float) -> bool:
        """Wait for the bell, in seconds at most; True if it rang."""
        if self._epoll is not None:
            return bool(self._epoll.poll(patience, 1))
        # Without a bell: short sleeps, spread so that waiters do not wake in step.
        self._sleep(min(patience, 0.0005 + (time.monotonic_ns() % 997) * 1e-6))
        return False


def _open_flag(path: str) -> mmap.mmap | bytearray:
    """The guard file's one byte, shared by all: how many more releases ring, for somebody may be waiting.

    Ringing for nobody would cost every step a system call. Set before a try and read after an unlock, both of which
    are system calls, so neither side can miss the other.
    """
    try:
        # A descriptor of its own: the map keeps a copy, and a copy of the locked one would keep the guard locked.
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if os.fstat(fd).st_size < 1:
                os.ftruncate(fd, 1)
            return mmap.mmap(fd, 1)
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return bytearray(b"\1")  # no shared memory here: always ring


def _open_bell(path: str) -> int:
    """Open the bell, making it if need be; -1 where the file system or the system has no named pipes for us."""
    try:
        with suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        # Both ends at once: writing then never meets "no reader", and reading never "no writer".
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return -1
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        return -1
    # One page, so that one read empties it, however long nobody has listened.
    with suppress(OSError, AttributeError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _BELL_BYTES)
    return fd


def _locked_by(file: os.stat_result) -> int:
    """Find the process that holds the exclusive flock on a file; 0 if unknown.

    A line of /proc/locks reads `7: FLOCK  ADVISORY  WRITE 4711 fe:00:123456 0 EOF`; waiters have `->` before FLOCK.
    Stacked file systems show another device than stat does, so the inode alone decides where no device fits.
    """
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    by_inode = 0
    with open("/proc/locks", encoding="ascii", errors="replace") as lines:
        for line in lines:
            words = line.split()
            if words[1:4] != ["FLOCK", "ADVISORY", "WRITE"] or len(words) < 6:
                continue
            if words[5] == device:
                return int(words[4])
            if words[5].rpartition(":")[2] == str(file.st_ino):
                by_inode = int(words[4])
    return by_inode


def _process(pid: int) -> tuple[str, str]:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return "gone", "its descriptor lives on in a child"
    # The name stands in parentheses and may itself contain some: the last one closes it.
    head, _, tail = text.rpartition(")")
    return head.partition("(")[2], _STATES.get(tail.split()[0], "running")


_guards: weakref.WeakSet[Guard] = weakref.WeakSet()


def _after_fork() -> None:
    # A child that merely kept the descriptor would keep the guard locked after its parent was killed inside it.
    for guard in list(_guards):
        guard.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
