"""Ctrl-C wherever the interpreter looks for it while a blocking acquire or release runs: nothing is held afterwards.

CPython runs a signal handler when a function begins and when a call has returned, not at every line: `with mutex` is
safe, `mutex.acquire()` before a `try` is not. A profiler is told of exactly these moments and raises KeyboardInterrupt
at the k-th of them within src/tenure, for every k, in the calling thread; the keeper's thread is left alone.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING, Final

import tenure
from tenure import Client
from tenure.model import LeaseState
from tests.servers.processes import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    Scene = Callable[[Client], tuple[Callable[[], object], Callable[[], object]]]
    """What is interrupted, and what its user does afterwards, of a client."""

OURS: Final = os.path.dirname(tenure.__file__)


def interrupted_at(count: int, do: Callable[[], object]) -> str | None:
    """Run it and raise KeyboardInterrupt at its k-th moment; where that was, or None if it ended before."""
    left = count
    where: str | None = None

    def profiler(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left, where
        if event not in ("call", "c_return") or not frame.f_code.co_filename.startswith(OURS):
            return
        if frame.f_code.co_name == "__del__":
            return
        left -= 1
        if left == 0:
            where = f"{os.path.relpath(frame.f_code.co_filename, OURS)}:{frame.f_lineno} ({event})"
            raise KeyboardInterrupt

    sys.setprofile(profiler)
    try:
        do()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return where


def acquire_of(client: Client) -> tuple[Callable[[], object], Callable[[], object]]:
    lock = client.lock("name")
    lock.acquire().release()

    def acquire() -> None:
        lease = lock.acquire()
        sys.setprofile(None)
        lease.release()

    return acquire, lambda: gc.collect(0)


def release_of(client: Client) -> tuple[Callable[[], object], Callable[[], object]]:
    lease = client.lock("name").acquire()

    def again() -> None:
        if lease.state is LeaseState.HELD:
            lease.release()  # it struck before the release had begun

    return lease.release, again


SCENES: Final[tuple[Scene, ...]] = (acquire_of, release_of)


def at_every_moment(url: str, scene: Scene) -> None:
    """Interrupt a scene at each of its moments, each time with another client of one store."""
    seen: list[str] = []
    with Client(url) as other:
        while True:
            with Client(url, ttl=2) as victim:
                do, then = scene(victim)
                where = interrupted_at(len(seen) + 1, do)
                if where is None:
                    break
                seen.append(where)
                then()
                until(lambda: not other.names(), f"nothing is left after Ctrl-C at {where}")
                # Nothing of the client is stuck either: a mutex, the guard, a transaction, a statement.
                for one in (victim, other):
                    one.lock("name", wait=3).acquire().release()
    print(len(seen), "moments")
    assert len(seen) > 15
