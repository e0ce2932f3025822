import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tenure import errors
from tenure.engines.sqlite.guard import Guard
from tenure.errors import StoreUnavailable
from tests.timing import Bound

SRC = os.path.dirname(os.path.dirname(errors.__file__))
HOLD = """
import sys
from tenure.engines.sqlite.guard import Guard
guard = Guard(sys.argv[1])
guard.acquire(5)
print("held", flush=True)
sys.stdin.read()
guard.release()
"""


@contextmanager
def process(code: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has said its first line; ended afterwards, also if it was stopped."""
    started = subprocess.Popen(
        [sys.executable, "-c", code, *args],
        env={**os.environ, "PYTHONPATH": SRC},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() != ""
            yield started
        finally:
            started.kill()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "guard")


@pytest.fixture
def guard(path: str) -> Iterator[Guard]:
    made = Guard(path)
    yield made
    made.close()


def is_free(path: str) -> bool:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def wait_until_stopped(pid: int) -> None:
    assert os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT) is not None


def test_one_at_a_time(path: str, guard: Guard) -> None:
    guard.acquire(0)
    other = Guard(path)
    with pytest.raises(StoreUnavailable, match=f"process {os.getpid()} "):
        other.acquire(0)
    guard.release()
    other.acquire(0)
    assert not is_free(path)
    other.close()
    assert is_free(path)


def test_a_release_wakes_the_waiter(path: str, guard: Guard) -> None:
    guard.acquire(0)
    other = Guard(path)
    thread = threading.Thread(target=lambda: other.acquire(30))
    thread.start()
    guard.release()
    thread.join(20)
    assert not thread.is_alive()
    assert not is_free(path)
    other.close()


def test_a_release_rings_for_those_who_wait(path: str, guard: Guard) -> None:
    guard.acquire(0)
    bell = os.open(path + ".bell", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(BlockingIOError):
        os.read(bell, 1)
    guard.release()
    with pytest.raises(BlockingIOError):  # for nobody it does not ring
        os.read(bell, 1)
    guard.acquire(0)
    other = Guard(path)
    with pytest.raises(StoreUnavailable):
        other.acquire(0.01)
    other.close()
    guard.release()
    assert os.read(bell, 10) == b"\a"
    for _ in range(100):
        guard.acquire(0)
        guard.release()
    assert len(os.read(bell, 200)) < 50  # and not for ever, once somebody has waited
    os.close(bell)


def test_a_bell_that_nobody_hears_never_makes_a_release_wait(path: str, guard: Guard) -> None:
    for _ in range(5000):
        guard.acquire(0)
        guard.release()
    assert is_free(path)


def test_a_release_whose_bell_is_lost_is_noticed_all_the_same(path: str, guard: Guard) -> None:
    silent = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(silent, fcntl.LOCK_EX)
    thread = threading.Thread(target=lambda: guard.acquire(30))
    thread.start()
    os.close(silent)
    thread.join(20)
    assert not thread.is_alive()


def test_where_there_are_no_named_pipes_it_polls(path: str) -> None:
    Path(path + ".bell").touch()
    first, second = Guard(path), Guard(path)
    first.acquire(0)
    thread = threading.Thread(target=lambda: second.acquire(30))
    thread.start()
    first.release()
    thread.join(20)
    assert not thread.is_alive()
    first.close()
    second.close()


def test_a_holder_that_is_killed_holds_nobody_up(path: str, guard: Guard) -> None:
    with process(HOLD, path) as holder:
        with pytest.raises(StoreUnavailable, match=f"process {holder.pid} "):
            guard.acquire(0)
        holder.kill()
        guard.acquire(20)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who holds a lock")
def test_a_stopped_holder_costs_the_timeout_and_is_named_as_stopped(path: str, guard: Guard) -> None:
    with process(HOLD, path) as holder:
        holder.send_signal(signal.SIGSTOP)
        wait_until_stopped(holder.pid)
        began = time.monotonic()
        with pytest.raises(
            StoreUnavailable, match=rf"process {holder.pid} \(.+\) holds it and is stopped; continue it"
        ):
            guard.acquire(0.1)
        assert 0.1 <= time.monotonic() - began < Bound(10)
        holder.send_signal(signal.SIGCONT)
        assert holder.stdin is not None
        holder.stdin.close()
        guard.acquire(20)


def test_a_forked_child_neither_holds_nor_unlocks_what_its_parent_holds(path: str, guard: Guard) -> None:
    guard.acquire(0)
    child = os.fork()
    if child == 0:
        try:
            guard.release()
            status = 0 if not is_free(path) else 1
            try:
                guard.acquire(0)
                status = 2
            except StoreUnavailable:
                pass
            guard.close()
            os._exit(status)
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not is_free(path)


HOLD_AND_FORK = """
import os, sys
from tenure.engines.sqlite.guard import Guard
guard = Guard(sys.argv[1])
guard.acquire(5)
ready, say = os.pipe()
if os.fork() == 0:
    os.write(say, b"x")
    sys.stdin.read()
    os._exit(0)
os.read(ready, 1)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_child_that_outlives_a_killed_holder_does_not_keep_the_guard(path: str, guard: Guard) -> None:
    with process(HOLD_AND_FORK, path) as holder:
        holder.kill()
        guard.acquire(20)


COUNT = """
import os, sys
from tenure.engines.sqlite.guard import Guard
guard = Guard(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(300):
    guard.acquire(60)
    with open(sys.argv[2], "r+") as file:
        count = int(file.read())
        file.seek(0)
        file.write(str(count + 1))
    guard.release()
"""


def test_no_two_are_inside_at_once(path: str, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    with process(COUNT, path, str(counter)) as a, process(COUNT, path, str(counter)) as b:
        for each in (a, b):
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.close()
        assert (a.wait(60), b.wait(60)) == (0, 0)
    assert counter.read_text() == "600"


UNDER_GEVENT = """
import sys
from gevent import monkey
monkey.patch_all()
import gevent
from tenure.engines.sqlite.guard import Guard
from tenure.errors import StoreUnavailable
first, second = Guard(sys.argv[1]), Guard(sys.argv[1])
first.acquire(0)
ran = []
gevent.spawn(ran.append, 1)
try:
    second.acquire(0.05)
except StoreUnavailable:
    print("timeout", ran, second._path != "")
first.release()
second.acquire(5)
print("held")
"""


def test_no_other_greenlet_runs_while_the_guard_is_waited_for(path: str) -> None:
    pytest.importorskip("gevent")
    with process(UNDER_GEVENT.replace("\nfirst,", "\nprint('ready', flush=True)\nfirst,"), path) as started:
        said, _ = started.communicate(timeout=60)
    assert said.splitlines() == ["timeout [] True", "held"]


def test_a_missing_folder_is_an_unavailable_store(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        Guard(str(tmp_path / "missing" / "guard")).acquire(0)


def test_closing_and_releasing_may_be_repeated(guard: Guard) -> None:
    guard.release()
    guard.acquire(0)
    guard.release()
    guard.release()
    guard.close()
    guard.close()
    guard.release()
    guard.acquire(0)
