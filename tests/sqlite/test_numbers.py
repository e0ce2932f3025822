"""Numbers (B7) and clocks (C1): they rise over releases, processes, deletions, restores, set clocks, power failures."""

# ruff: noqa: S608 - the statements tamper with files of the tests themselves

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tenure import Client
from tenure.engines.sqlite.clock import boot_us, clock_id
from tenure.engines.sqlite.files import Home
from tenure.errors import UnsafeSetup
from tenure.model import NUMBER_MAX, LossReason
from tenure.ports import Standing
from tests.sqlite.rig import PRELUDE, SRC, Store, process, sql, until
from tests.timing import Bound

if TYPE_CHECKING:
    from pathlib import Path

DAY_US = 86_400_000_000


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The wall clock, in nanoseconds; the tests set it."""
    now = [time.time_ns()]
    monkeypatch.setattr(time, "time_ns", lambda: now[0])
    return now


def copy(path: Path, to: Path) -> None:
    """The file and its log, as they would be found after a power failure."""
    to.mkdir()
    for suffix in ("", "-wal"):
        if os.path.exists(f"{path}{suffix}"):
            shutil.copy2(f"{path}{suffix}", to / f"{path.name}{suffix}")


def on_another_boot(path: Path) -> None:
    sql(path, "UPDATE genesis SET clock = 'another-boot/' || substr(clock, instr(clock, '/') + 1)")


# -- rising -----------------------------------------------------------------------------------------------------------


def test_numbers_rise_over_releases_names_and_connections(path: Path, wall: list[int]) -> None:
    numbers = []
    for turn in range(5):
        with Store(path) as store:
            numbers += [store.cycle(name, f"s{turn}") for name in ("a", "b", "a")]
    assert numbers == sorted(set(numbers))
    # The clock stands still: then the counter counts.
    assert numbers[1:] == list(range(numbers[0] + 1, numbers[0] + 15))
    assert numbers[0] == wall[0] // 1000


CYCLES = """
with tenure.Client(url, ttl=30) as client:
    for _ in range(40):
        with client.lock("n") as lease:
            with open(sys.argv[2], "a") as log:
                log.write(f"{lease.token}\\n")
"""


def test_numbers_rise_over_processes(path: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    environment = {**os.environ, "PYTHONPATH": SRC}
    command = [sys.executable, "-c", PRELUDE + CYCLES, str(path), str(log)]
    both = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [each.wait(60) for each in both] == [0, 0]
    subprocess.run(command, env=environment, check=True, timeout=60)
    numbers = [int(line) for line in log.read_text().split()]
    assert len(numbers) == 120
    assert numbers == sorted(set(numbers))


def test_a_wall_clock_set_back_counts_on_from_the_last_number(path: Path, wall: list[int]) -> None:
    with Store(path) as store:
        first = store.cycle()
        wall[0] -= 3_600 * 10**9
        assert store.cycle(session="b") == first + 1
        wall[0] += 7_200 * 10**9
        assert store.cycle(session="c") == wall[0] // 1000


SET_BACK = """
import tenure.engines.sqlite.database as database
real = time.time_ns
database.time.time_ns = lambda: real() - 3_600_000_000_000
with tenure.Client(url) as client:
    with client.lock("n") as lease:
        say(lease.token)
    with client.lock("n") as lease:
        say(lease.token)
"""


def test_a_process_whose_wall_clock_is_set_back_goes_on_from_the_last_number(path: Path) -> None:
    with Client(f"sqlite://{path}") as client:
        with client.lock("n") as lease:
            first = lease.token
        with process(SET_BACK, str(path)) as other:
            assert [other.hear(), other.hear()] == [[str(first + 1)], [str(first + 2)]]


# -- deleted and restored ---------------------------------------------------------------------------------------------

HOLD = """
lost = []
client = tenure.Client(url, ttl=1.5).open()
lease = client.lock("theirs").acquire()
say(lease.token)
told()
deadline = time.monotonic() + 20
while lease.held and time.monotonic() < deadline:
    time.sleep(0.005)
say(lease.lost.name)
try:
    lease.check()
except LeaseLost as error:
    say(str(error))
with client.lock("theirs") as lease:
    say(lease.token)
told()
"""


def test_a_deleted_file_ends_every_lease_with_a_reason_and_numbers_go_on(path: Path) -> None:
    with Client(f"sqlite://{path}", ttl=1.5) as client, process(HOLD, str(path)) as other:
        mine = client.lock("mine").acquire()
        theirs = int(other.hear()[0])
        path.unlink()
        began = time.monotonic()
        other.tell("go")
        until(lambda: mine.lost)
        # At the next heartbeat, a third of the ttl away; not only at the deadline.
        assert time.monotonic() - began < Bound(1.2)
        assert mine.lost is LossReason.STORE_LOST
        assert other.hear()[0] == "STORE_LOST"
        assert "was lost: the store lost it" in " ".join(other.hear())
        assert int(other.hear()[0]) > theirs
        with client.lock("mine") as again:
            assert again.token > theirs
        assert sql(path, "PRAGMA integrity_check") == [("ok",)]


def test_numbers_rise_over_a_restored_copy(path: Path, tmp_path: Path) -> None:
    with Client(f"sqlite://{path}", ttl=30) as client:
        with client.lock("n") as lease:
            early = lease.token
        copy(path, tmp_path / "copy")
        with client.lock("n") as lease:
            late = lease.token
    for suffix in ("", "-wal"):
        shutil.copy2(tmp_path / "copy" / f"{path.name}{suffix}", f"{path}{suffix}")
    assert sql(path, "SELECT last FROM genesis") == [(early,)]
    with Client(f"sqlite://{path}", ttl=30) as client, client.lock("n") as lease:
        assert lease.token > late


def test_a_copy_put_in_place_of_the_file_is_reconciled(path: Path, tmp_path: Path) -> None:
    """The restored file lacks one lease and has one that was released; both are put right at the next heartbeat."""
    with Client(f"sqlite://{path}", ttl=1.5) as client:
        kept = client.lock("kept").acquire()
        released = client.lock("released").acquire()
        with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(tmp_path / "copy.db")) as target:
            live.backup(target)
        released.release()
        late = client.lock("late").acquire()
        (tmp_path / "copy.db").chmod(0o600)
        (tmp_path / "copy.db").replace(path)
        until(lambda: late.lost)
        assert late.lost is LossReason.STORE_LOST
        with client.lock("released", wait=20) as again:
            assert again.token > late.token
        kept.check()
        kept.release()
        assert client.names() == []


# -- power failures ---------------------------------------------------------------------------------------------------


def test_after_a_power_failure_numbers_are_above_all_that_were_given(
    path: Path, tmp_path: Path, wall: list[int]
) -> None:
    with Store(path) as store:
        first = store.cycle()
        # What is on the disk for certain: everything up to the ceiling, which was committed with fsync.
        copy(path, tmp_path / "disk")
        last = max(store.cycle(session=f"s{turn}") for turn in range(1000))
    assert last == first + 1000
    found = tmp_path / "disk" / path.name
    on_another_boot(found)
    wall[0] -= 10**9
    with Store(found) as store:
        assert store.cycle() > last


def test_without_the_ceiling_numbers_would_repeat(path: Path, tmp_path: Path, wall: list[int]) -> None:
    """The positive control of the test above: the same run, and the ceiling forgotten."""
    with Store(path) as store:
        store.cycle()
        copy(path, tmp_path / "disk")
        last = max(store.cycle(session=f"s{turn}") for turn in range(1000))
    found = tmp_path / "disk" / path.name
    sql(found, "UPDATE genesis SET ceiling = last")
    on_another_boot(found)
    wall[0] -= 10**9
    with Store(found) as store:
        assert store.cycle() <= last


def test_no_number_is_given_above_the_ceiling_on_the_disk(path: Path, tmp_path: Path, wall: list[int]) -> None:
    with Store(path) as store:
        for turn in range(20):
            number = store.cycle(session=f"s{turn}")
            copy(path, tmp_path / f"disk{turn}")
            ceiling = sql(tmp_path / f"disk{turn}" / path.name, "SELECT ceiling FROM genesis")[0][0]
            assert number <= ceiling
            wall[0] += 45 * 10**9


def trace(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that this process runs from now on."""
    said: list[str] = []
    connect = sqlite3.connect

    def traced(*args: object, **options: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **options)  # type: ignore[call-overload]
        connection.set_trace_callback(said.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", traced)
    return said


def test_the_ceiling_is_committed_under_full_synchronisation_and_nothing_else_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(path).close()
    with Store(path) as store:
        store.enter("warm", name="up")
    sql(path, "UPDATE genesis SET ceiling = last")
    said = trace(path, monkeypatch)
    with Store(path) as store:
        store.enter("a")
        store.enter("b")
    wanted = ("BEGIN", "COMMIT", "UPDATE genesis", "PRAGMA sync")
    writes = [line.split("\n")[0] for line in said if line.startswith(wanted)]
    raised = next(index for index, line in enumerate(writes) if line.startswith("UPDATE genesis SET ceiling"))
    assert writes[raised - 1] == "PRAGMA synchronous = FULL"
    assert writes[raised + 1] == "PRAGMA synchronous = NORMAL"
    assert [line for line in writes if line.startswith("UPDATE genesis SET ceiling")] == [writes[raised]]
    assert not any(line.startswith("UPDATE genesis SET last") for line in writes[:raised])


SYNCS = """
with tenure.Client(url) as client:
    with client.lock("n"):
        pass
    os.write(2, b"MARK first\\n")
    for _ in range(50):
        with client.lock("n"):
            pass
    os.write(2, b"MARK second\\n")
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_first_number_is_synced_and_the_next_fifty_are_not(path: Path, tmp_path: Path) -> None:
    Store(path).close()
    log = tmp_path / "trace"
    command = ["strace", "-f", "-o", str(log), "-e", "trace=fsync,fdatasync,write", sys.executable, "-c"]
    environment = {**os.environ, "PYTHONPATH": SRC}
    done = subprocess.run(
        [*command, PRELUDE + SYNCS, str(path)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    if "ptrace" in done.stderr.lower() and done.returncode != 0:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()[-100:]}")
    assert done.returncode == 0, done.stderr
    head, _, rest = log.read_text().partition("MARK first")
    between, _, _ = rest.partition("MARK second")
    assert "sync(" in head
    assert "sync(" not in between


# -- limits -----------------------------------------------------------------------------------------------------------


def test_a_last_number_more_than_a_day_ahead_of_the_clock_is_refused_at_open(path: Path) -> None:
    with Store(path) as store:
        store.enter("a")
    for ahead, refused in ((DAY_US + 60_000_000, True), (DAY_US - 60_000_000, False)):
        sql(path, f"UPDATE genesis SET last = {time.time_ns() // 1000 + ahead}, ceiling = {NUMBER_MAX}")
        before = path.read_bytes()
        if refused:
            with Store(path) as store, pytest.raises(UnsafeSetup, match="ahead of this host's clock"):
                store.enter("b")
            assert path.read_bytes() == before
        else:
            with Store(path) as store:
                assert store.enter("b").number > time.time_ns() // 1000 + ahead - 1_000_000


def test_no_number_is_given_past_what_is_exact_elsewhere(path: Path, wall: list[int]) -> None:
    with Store(path) as store:
        store.cycle()
        sql(path, f"UPDATE genesis SET last = {NUMBER_MAX - 1}")
        assert store.cycle(session="b") == NUMBER_MAX
        with pytest.raises(UnsafeSetup, match="would exceed"):
            store.enter("c")
        wall[0] = (NUMBER_MAX + 1) * 1000
        sql(path, "UPDATE genesis SET last = 5")
        with pytest.raises(UnsafeSetup, match="would exceed"):
            store.enter("c")
        assert sql(path, "SELECT count(*) FROM claims") == [(0,)]


# -- clocks (C1) ------------------------------------------------------------------------------------------------------


def test_after_a_reboot_nobody_is_alive(path: Path) -> None:
    with Store(path) as store:
        store.enter("a")
        store.enter("b")
        number = store.enter("c", name="other").number
    on_another_boot(path)
    with Store(path) as store:
        place = store.enter("d", at_once=True)
        assert place.standing is Standing.HOLDS
        assert place.number > number
        assert sql(path, "SELECT id FROM sessions") == [("d",)]
        assert sql(path, "SELECT clock FROM genesis") == [(clock_id(),)]


def test_after_a_reboot_the_lock_delay_of_a_holder_counts_from_now(path: Path) -> None:
    with Store(path) as store:
        store.enter("holder", delay=0.4)
        store.enter("waiter", delay=99)
    on_another_boot(path)
    sql(path, "UPDATE sessions SET until_us = 1")
    with Store(path) as store:
        began = boot_us()
        assert store.enter("d", at_once=True).standing is Standing.BUSY
        freed = sql(path, "SELECT session, freed_us FROM claims")
        assert [session for session, _ in freed] == ["holder"]
        assert 0.39e6 < freed[0][1] - began < 5e6
        until(lambda: store.enter("d", 2, at_once=True).standing is Standing.HOLDS)
        assert boot_us() >= freed[0][1]


def test_a_client_at_work_under_another_boot_id_is_not_taken_for_dead(path: Path) -> None:
    """Container managers give containers boot ids of their own: the held presence file outweighs the id."""
    with Client(f"sqlite://{path}", ttl=30) as client, client.lock("n") as lease:
        on_another_boot(path)
        with Store(path) as store, pytest.raises(UnsafeSetup, match="boot id of its own"):
            store.enter("b")
        sql(path, f"UPDATE genesis SET clock = '{clock_id()}'")
        lease.check()


ELSEWHERE = """
import tenure.engines.sqlite.database as database
mine = told()
database.clock_id = lambda: mine
try:
    with tenure.Client(url) as client:
        say("granted" if client.lock("n").try_acquire() else "busy")
except UnsafeSetup as error:
    say("unsafe", "namespace" if "time namespace of this boot" in str(error) else str(error))
told()
"""


def test_another_time_namespace_of_the_same_boot_is_refused_while_anybody_may_live(path: Path) -> None:
    boot, namespace = clock_id().split("/")
    with Store(path) as store:
        store.enter("a")  # without an address: nobody can tell whether it lives
        with process(ELSEWHERE, str(path)) as other:
            assert other.ask(f"{boot}/{int(namespace) + 1}") == ["unsafe", "namespace"]


CRASH = """
client = tenure.Client(url, ttl=30).open()
lease = client.lock("n").acquire()
say("held")
told()
"""


def test_another_time_namespace_takes_over_from_those_whom_the_kernel_calls_dead(path: Path) -> None:
    boot, namespace = clock_id().split("/")
    with process(CRASH, str(path)) as holder, process(ELSEWHERE, str(path)) as other:
        assert holder.hear() == ["held"]
        holder.kill()
        holder.popen.wait()
        assert other.ask(f"{boot}/{int(namespace) + 1}") == ["granted"]


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare(1)")
def test_a_real_time_namespace_is_told_apart(path: Path) -> None:
    code = PRELUDE + "from tenure.engines.sqlite.clock import clock_id\nsay(clock_id())"
    done = subprocess.run(
        ["unshare", "--time", "--fork", "--boottime", "1000", sys.executable, "-c", code, str(path)],
        env={**os.environ, "PYTHONPATH": SRC},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode != 0 and "unshare" in done.stderr:
        pytest.skip(f"no time namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    boot, namespace = done.stdout.strip().split("/")
    assert boot == clock_id().split("/")[0]
    assert namespace != clock_id().split("/")[1]


def test_the_home_of_a_client_remembers_what_it_has_seen(path: Path) -> None:
    with Store(path) as store:
        number = store.cycle()
        assert isinstance(store.home, Home)
        assert (store.home.seen, store.home.setbacks) == (number, 0)
