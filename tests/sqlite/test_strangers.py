"""Strangers that lock the file, with SQLite and without tenure."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tenure import Client
from tenure.errors import LeaseLost, StoreUnavailable
from tenure.model import LeaseState, LossReason
from tests.sqlite.rig import until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_stranger_that_locks_the_file_is_waited_for_then_reported_and_forgotten(path: Path, how: str) -> None:
    with Client(f"sqlite://{path}", ttl=3) as client, closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        held = client.lock("held").acquire()
        stranger.execute(f"BEGIN {how}")
        with pytest.raises(StoreUnavailable, match="not tenure"):
            client.lock("n", wait=0.2).acquire()
        until(lambda: held.state is LeaseState.SUSPECT)
        stranger.execute("ROLLBACK")
        until(lambda: held.state is LeaseState.HELD)
        client.lock("n").acquire().release()
        held.release()


def test_a_stranger_that_never_goes_costs_the_lease_at_its_deadline(path: Path) -> None:
    with (
        Client(f"sqlite://{path}", ttl=0.6) as client,
        closing(sqlite3.connect(path, isolation_level=None)) as stranger,
    ):
        held = client.lock("held").acquire()
        stranger.execute("BEGIN IMMEDIATE")
        until(lambda: held.lost)
        assert held.lost is LossReason.DEADLINE
        stranger.execute("ROLLBACK")
        with pytest.raises(LeaseLost):
            held.release()
        client.lock("held").acquire().release()
