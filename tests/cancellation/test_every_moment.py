"""Ctrl-C at any moment of a wait, of an acquire and of a release, on the engines without a server; see `moments`."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING

import pytest

import tenure
from tenure import Client
from tests.cancellation.moments import SCENES, at_every_moment, interrupted_at

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cancellation.moments import Scene


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
            assert (ledger.waiters.reader, ledger.waiters.waiting) == (None, {}), f"after Ctrl-C at {where}"
        held.release()
        client.lock("name", wait=3).acquire().release()
    assert any("news.py" in where for where in seen)


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("scheme", ["memory", "sqlite"])
def test_ctrl_c_at_any_moment(scheme: str, scene: Scene, tmp_path: Path) -> None:
    url = f"memory://moments-of-{scene.__name__}" if scheme == "memory" else f"sqlite://{tmp_path}/locks.db"
    with warnings.catch_warnings():
        # A lease that nobody got is collected, and so is a coroutine that was made and not begun.
        warnings.simplefilter("ignore")
        at_every_moment(url, scene)
