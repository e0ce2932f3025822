"""What the guard of files rests on: a rename under a lock, synced before and after, whatever ends in between."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tenure import fencing
from tenure.errors import OutcomeUnknown, StaleToken, UsageError
from tenure.fencing.files import place as at
from tenure.fencing.rule import Fence
from tests.fencing.filed import fence_of, names, write

if TYPE_CHECKING:
    from collections.abc import Callable

CRASHES = """
import json, os, sys
from tenure import fencing
from tenure.fencing.files import guard

path = sys.argv[1]
folder = os.path.dirname(path)

def write(token, text):
    with fencing.file(path, token) as file:
        file.write_text(text)

def killed_after(calls):
    # The child of a fork begins with `calls` calls to the system to live.
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    def counted(call):
        def instead(*args, **named):
            nonlocal calls
            calls -= 1
            if calls < 0:
                os.kill(os.getpid(), 9)
            return call(*args, **named)
        return instead
    for name in ("open", "write", "fsync", "rename", "close", "fchmod", "fchown", "dup"):
        setattr(os, name, counted(getattr(os, name)))
    write(9, "new")
    os._exit(0)

for calls in range(200):
    write(7, "old")
    status = killed_after(calls)
    text = open(path).read()
    fence = json.load(open(f"{folder}/.report.csv.tenure-fence"))["token"]
    write(11, "next")
    print(json.dumps([text, fence, status, open(path).read(), sorted(os.listdir(folder))]))
    if status == 0:
        break
    for name in os.listdir(folder):
        os.unlink(f"{folder}/{name}")
"""


PATIENCE = 0.5
"""How long a holder is given to go on without the lock."""


# -- crashes --------------------------------------------------------------------------------------------------------


def test_killed_at_any_call_the_content_is_old_or_new_and_the_fence_has_not_fallen(path: str) -> None:
    ran = subprocess.run([sys.executable, "-c", CRASHES, path], capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(lines) > 20, ran.stderr
    seen = {(text, fence, status) for text, fence, status, _, _ in lines}
    # Among them is no new content under the old fence.
    assert seen == {("old", 7, -9), ("old", 9, -9), ("new", 9, -9), ("new", 9, 0)}
    for *_, after, left in lines:
        # Whoever comes next works, and clears away what the dead has left.
        assert (after, left) == ("next", [".report.csv.tenure-fence", "report.csv"])


def test_content_is_synced_before_it_gets_its_name_and_the_folder_after(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    sync, rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def renamed(old: str, new: str) -> None:
        calls.append(f"rename {os.path.basename(new)}")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", renamed)
    with fencing.file(path, 7) as file:
        assert calls == ["file", "rename .report.csv.tenure-fence", "folder"]  # before anything can be read
        calls.clear()
        file.write_text("x")
    assert calls == ["file", "rename report.csv", "folder"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_disk_that_is_full_changes_nothing(path: str, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    write(path, 7, "old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with pytest.raises(OSError, match="no space"), fencing.file(path, 7) as file:
        file.write_text("new")
        monkeypatch.setattr(os, call, full)
    monkeypatch.undo()
    assert (Path(path).read_text(), names(path)) == ("old", {"report.csv", ".report.csv.tenure-fence"})
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="no space"), fencing.file(path, 9):
        pass
    monkeypatch.undo()
    assert (fence_of(path), names(path)) == (7, {"report.csv", ".report.csv.tenure-fence"})


def test_half_a_write_replaces_nothing_even_if_its_error_is_swallowed(path: str) -> None:
    write(path, 7, "old")
    with fencing.file(path, 7) as file, suppress(UnicodeEncodeError, TypeError):
        file.write_bytes("no bytes")  # type: ignore[arg-type]
    assert (Path(path).read_text(), names(path)) == ("old", {"report.csv", ".report.csv.tenure-fence"})


def test_a_disk_that_fails_after_the_rename_leaves_the_outcome_unknown(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, 7, "old")

    def broken(_: str) -> None:
        raise OSError(errno.EIO, "bad disk")

    monkeypatch.setattr(at, "_sync_folder", broken)
    with pytest.raises(OutcomeUnknown, match="bad disk"):
        write(path, 7, "new")
    assert Path(path).read_text() == "new"


# -- the lock -------------------------------------------------------------------------------------------------------


def asked(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when another thread asks for a lock."""
    found, flock = threading.Event(), fcntl.flock

    def noted(descriptor: int, how: int) -> None:
        if threading.current_thread() is not threading.main_thread() and how == fcntl.LOCK_EX:
            found.set()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", noted)
    return found


def test_the_fence_that_is_at_the_path_is_locked_and_not_one_that_it_has_replaced(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, is_asked, found = at.find(path), asked(monkeypatch), list[int]()
    waiter = threading.Thread(target=lambda: found.append(fence_of(path)))
    with at.locked(place):
        waiter.start()
        is_asked.wait()
        at.write_fence(place, Fence(9))
    waiter.join()
    assert found == [9]


def test_a_holder_waits_for_the_lock_and_is_then_judged(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, 7, "old")
    place, go, outcome = at.find(path), threading.Event(), list[str]()

    def late() -> None:
        try:
            with fencing.file(path, 7) as file:
                file.write_text("late")
                ready.set()
                go.wait()
        except StaleToken:
            outcome.append("refused")

    thread, ready = threading.Thread(target=late), threading.Event()
    thread.start()
    ready.wait()
    is_asked = asked(monkeypatch)
    with at.locked(place):
        go.set()
        is_asked.wait()
        thread.join(PATIENCE)
        at.write_fence(place, Fence(9))
    thread.join()
    assert (outcome, Path(path).read_text()) == (["refused"], "old")


def test_many_who_raise_at_once_leave_the_largest_and_never_let_it_fall(path: str) -> None:
    def raise_all(tokens: range) -> None:
        for token in tokens:
            with suppress(StaleToken):
                fencing.open(path, token)
            assert fence_of(path) >= token

    failed: list[object] = []
    monitor = threading.excepthook
    threading.excepthook = lambda args: failed.append(args.exc_value)
    try:
        threads = [threading.Thread(target=raise_all, args=(range(start, 60, 4),)) for start in range(1, 5)]
        for thread in threads:
            thread.start()
        last = 0
        while any(thread.is_alive() for thread in threads):
            now = fence_of(path)
            assert now >= last
            last = now
    finally:
        for thread in threads:
            thread.join()
        threading.excepthook = monitor
    assert (failed, fence_of(path)) == ([], 59)


def test_what_a_living_writer_has_written_is_not_cleared_away(path: str) -> None:
    def left() -> int:
        return sum(name.endswith(at.NEW) for name in names(path))

    with pytest.raises(StaleToken), fencing.file(path, 7) as file:
        with file.open() as out:
            out.write("late")  # and closed, as users do
        fencing.open(path, 9)
        assert left() == 1
    assert left() == 0


# -- the block ------------------------------------------------------------------------------------------------------


def test_a_block_that_writes_nothing_replaces_nothing(path: str) -> None:
    guard = fencing.file(path, 7)
    with guard as file, pytest.raises(FileNotFoundError):
        file.read_text()
    assert not os.path.exists(path)
    with guard as file:
        assert file.path == os.path.realpath(path)
        with pytest.raises(UsageError, match="entered already"):
            guard.__enter__()


def test_what_is_written_last_counts_and_may_be_written_in_pieces(path: str) -> None:
    with fencing.file(Path(path), 7) as file:
        file.write_bytes(b"\xff")
        out = file.open(newline="")
        out.write("a\r\n")
        out.write("ü")
        with pytest.raises(UsageError, match="mode"):
            file.open("a")
    assert Path(path).read_bytes() == "a\r\nü".encode()


def test_a_lost_lease_replaces_nothing(path: str) -> None:
    import tenure

    write(path, 1, "old")
    with tenure.Client("memory://") as client:
        lease = client.lock("report").acquire()
        with pytest.raises(tenure.LeaseLost), fencing.file(path, lease) as file:
            file.write_text("new")
            lease.release()
    assert Path(path).read_text() == "old"


def test_the_fence_can_be_read_by_eye(path: str) -> None:
    write(path, 7, "x")
    assert json.loads(Path(at.find(path).fence).read_text()) == {"tenure": 1, "token": 7, "authority": ""}


# -- each rule taken out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "name", "instead", "test"),
    [
        (fcntl, "flock", lambda *_: None, test_a_holder_waits_for_the_lock_and_is_then_judged),
        (at, "_is_at", lambda *_: True, test_the_fence_that_is_at_the_path_is_locked_and_not_one_that_it_has_replaced),
        (at, "sync", lambda _: None, test_content_is_synced_before_it_gets_its_name_and_the_folder_after),
        (at, "_sync_folder", lambda _: None, test_content_is_synced_before_it_gets_its_name_and_the_folder_after),
    ],
    ids=["no lock", "a lock of what was replaced", "content is not synced", "the folder is not synced"],
)
def test_a_rule_taken_out_is_noticed(
    path: str, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, instead: Any, test: Callable[..., None]
) -> None:
    monkeypatch.setattr(module, name, instead)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test(path, monkeypatch)
