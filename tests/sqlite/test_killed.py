"""Processes that are killed, with real processes on real files.

A kill must cost the next in the queue a moment, not a ttl: the ttl is far longer than the second that is allowed.
"""

from __future__ import annotations

import signal
import time
from statistics import median
from typing import TYPE_CHECKING

from tests.sqlite.holders import DIES_IN_ITS_STEP, HOLD, HOLDER, Waiter, queue_of
from tests.sqlite.rig import PATIENCE, process, sql
from tests.timing import Bound

if TYPE_CHECKING:
    from pathlib import Path

    from tenure import Client

SOON = 1.0
"""Seconds within which the next in the queue holds the name after a kill."""


def test_a_release_wakes_the_next_at_once(path: Path, client: Client) -> None:
    with process(HOLDER, str(path)) as holder:
        holder.hear()
        waiter = Waiter(client)
        queue_of(path, 2)
        began = time.monotonic()
        holder.tell("release")
        assert waiter.done() - began < Bound(SOON)
        assert holder.hear() == ["released"]


def test_after_a_kill_the_next_in_the_queue_holds_within_a_second(path: Path, client: Client) -> None:
    waits = []
    for _ in range(8):
        with process(HOLD + "told()", str(path)) as holder:
            token = int(holder.hear()[1])
            waiter = Waiter(client)
            queue_of(path, 2)
            killed = holder.kill()
            waits.append(waiter.done() - killed)
            assert waiter.token > token
    print(f"kill -9 to the next holder, in ms: {[round(wait * 1e3, 2) for wait in sorted(waits)]}")
    assert median(waits) < 0.1
    assert max(waits) < SOON


DIES_BY_PARTS = """
client = tenure.Client(url, ttl=60).open()
lease = client.lock("n").acquire()
say("granted")
told()
# What the kernel may do to a process that is killed: its sockets are closed, and its presence file a moment later.
client._core.engine._endpoint._close_sockets()
time.sleep(0.02)
say("dead")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_holder_whose_pulse_ends_before_its_presence_costs_no_quarter_of_a_second(path: Path, client: Client) -> None:
    waits = []
    for _ in range(3):
        with process(DIES_BY_PARTS, str(path)) as holder:
            holder.hear()
            waiter = Waiter(client)
            queue_of(path, 2)
            assert holder.ask("die") == ["dead"]
            began = time.monotonic()
            waits.append(waiter.done() - began)
    # The best of three, for the machine may be busy. The next look was a quarter of a second away once.
    assert min(waits) < 0.15, waits


def test_a_waiter_that_is_killed_holds_nobody_up(path: Path, client: Client) -> None:
    lease = client.lock("n").acquire()
    with process(HOLD + "told()", str(path)) as first, process(HOLD + "told()", str(path)) as second:
        queue_of(path, 3)
        behind = Waiter(client)
        queue_of(path, 4)
        first.kill()
        second.kill()
        began = time.monotonic()
        lease.release()
        assert behind.done() - began < Bound(SOON)


def test_a_try_finds_the_dead_at_once(path: Path, client: Client) -> None:
    with process(HOLD + "told()", str(path)) as holder:
        holder.hear()
        assert client.lock("n").try_acquire() is None
        holder.kill()
        holder.popen.wait()
        lease = client.lock("n").try_acquire()
        assert lease is not None
        lease.release()


DIES_BEFORE_ITS_MAIL = """
from tenure.engines.sqlite.endpoint import Sender
client = tenure.Client(url, ttl=60).open()
lease = client.lock("n").acquire()
say("granted", lease.token)
told()
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
Sender.send = die
lease.release()
"""


def test_a_kill_between_commit_and_mail_holds_nobody_up(path: Path, client: Client) -> None:
    with process(DIES_BEFORE_ITS_MAIL, str(path)) as holder:
        holder.hear()
        waiter = Waiter(client)
        queue_of(path, 2)
        began = time.monotonic()
        holder.tell("die")
        assert waiter.done() - began < Bound(SOON)
        assert holder.popen.wait(PATIENCE) == -signal.SIGKILL


def test_a_kill_inside_the_transaction_undoes_it_and_frees_the_name(path: Path, client: Client) -> None:
    with process(DIES_IN_ITS_STEP, str(path)) as holder:
        holder.hear()
        waiter = Waiter(client)
        queue_of(path, 2)
        began = time.monotonic()
        holder.tell("SIGKILL")
        assert waiter.done() - began < Bound(SOON)
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
