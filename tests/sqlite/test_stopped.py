"""Processes that are stopped, while they hold a name or in the middle of a step."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tenure import Client
from tenure.errors import StoreUnavailable
from tenure.model import LeaseState
from tests.sqlite.holders import DIES_IN_ITS_STEP, HOLDER, Waiter, queue_of
from tests.sqlite.rig import process, until
from tests.timing import Bound, in_time

if TYPE_CHECKING:
    from pathlib import Path


def test_a_stopped_holder_keeps_the_name_for_its_ttl_and_finds_its_lease_lost(path: Path, client: Client) -> None:
    with process(HOLDER, str(path), "1.5") as holder:
        token = int(holder.hear()[1])
        waiter = Waiter(client)
        queue_of(path, 2)
        stopped = time.monotonic()
        holder.stop(path)
        try:
            got = waiter.done() - stopped
        finally:
            holder.go_on()
        # Its last heartbeat was at most a third of the ttl before it was stopped.
        assert 0.9 < got < 3.5
        assert waiter.token > token
        assert holder.ask("state") == ["LOST"]
        assert holder.ask("release") == ["lost"]


def test_a_process_stopped_in_its_transaction_is_named_and_service_resumes(path: Path) -> None:
    with Client(f"sqlite://{path}", ttl=3) as client, process(DIES_IN_ITS_STEP, str(path)) as holder:
        holder.hear()
        kept = client.lock("mine").acquire()
        holder.tell("SIGSTOP")
        holder.wait_stopped()
        try:
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match=rf"process {holder.pid} .* is stopped; continue it"):
                client.lock("n", wait=0.3).acquire()
            # A request's patience is a sixth of the ttl, and never less than a second for a caller that waits.
            assert time.monotonic() - began < Bound(2.5)
            until(lambda: kept.state is LeaseState.SUSPECT)
            assert kept.held
        finally:
            holder.go_on()
        assert holder.hear() == ["released"]
        until(lambda: kept.state is LeaseState.HELD)
        client.lock("n").acquire().release()
        kept.release()


def test_what_a_process_does_is_shown_when_its_test_fails(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with process("def here(): say('ready'), told()\nhere()", str(path)) as child:
            child.hear()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    shown = capfd.readouterr().err
    assert "State" in shown
    in_time("in here" in shown, "it was not killed before it said so")
