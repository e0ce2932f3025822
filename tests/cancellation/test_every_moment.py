"""Ctrl-C wherever the interpreter looks for it while a blocking acquire or release runs: nothing is held afterwards.

CPython runs a signal handler when a function begins and when a call has returned, not at every line: `with mutex` is
safe, `mutex.acquire()` before a `try` is not. A profiler is told of exactly these moments and raises KeyboardInterrupt
at the k-th of them within src/tenure, for every k, in the calling thread; the keeper's thread is left alone.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest

import tenure
from tenure import Client
from tenure.model import LeaseState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType

OURS = os.path.dirname(tenure.__file__)


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


@pytest.mark.filterwarnings("ignore")  # a generator that is collected in the middle of a step, and as below
def test_ctrl_c_at_any_moment_of_a_wait_leaves_the_mailbox_to_the_next_who_waits() -> None:
    seen: list[str] = []
    with Client("memory://moments-of-waits", ttl=2) as client, Client("memory://moments-of-waits") as other:
        held = other.lock("name").acquire()

        def wait() -> None:
            with contextlib.suppress(tenure.AcquireTimeout):
                client.lock("name").acquire(wait=0.005)

        wait()
        while (where := interrupted_at(len(seen) + 1, wait)) is not None:
            seen.append(where)
            ledger = client._core.ledger
            assert (ledger.reader, ledger.waiting) == (None, {}), f"after Ctrl-C at {where}"
        held.release()
        client.lock("name", wait=3).acquire().release()
    assert any("claim.py" in where for where in seen)


@pytest.mark.parametrize("scene", [acquire_of, release_of])
@pytest.mark.parametrize("scheme", ["memory", "sqlite"])
def test_ctrl_c_at_any_moment(scheme: str, scene: Callable[[Client], Any], tmp_path: Path) -> None:
    seen: list[str] = []
    with warnings.catch_warnings():
        # A lease that nobody got is collected, and so is a coroutine that was made and not begun.
        warnings.simplefilter("ignore")
        while True:
            url = f"memory://moment-{scene.__name__}-{len(seen)}"
            if scheme == "sqlite":
                url = f"sqlite://{tmp_path}/{len(seen)}.db"
            with Client(url, ttl=2) as client, Client(url) as other:
                do, then = scene(client)
                other.names()
                where = interrupted_at(len(seen) + 1, do)
                if where is None:
                    break
                seen.append(where)
                then()
                end = time.monotonic() + 10
                while left := other.names():
                    assert time.monotonic() < end, f"Ctrl-C at {where} left {left}"
                    time.sleep(0.0005)
                # Nothing of the client is stuck either: a mutex, the guard, a transaction, a statement.
                for one in (client, other):
                    one.lock("name", wait=3).acquire().release()
    assert len(seen) > 15
