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
from tenure.errors import IncompatibleStore, NotRaised, OutcomeUnknown, StaleToken, UnsafeSetup, UsageError
from tenure.fencing.files import place as at
from tenure.fencing.rule import Fence
from tenure.mounts import Mount

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


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "report.csv")


def fence_of(path: str) -> int:
    place = at.find(path)
    with at.locked(place) as descriptor:
        return at.read_fence(descriptor, place.fence).token


def write(path: str, token: int, text: str) -> None:
    with fencing.file(path, token) as file:
        file.write_text(text)


def names(path: str) -> set[str]:
    return set(os.listdir(os.path.dirname(path)))


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


# -- what is kept, and what is refused ------------------------------------------------------------------------------


def test_permissions_and_links_are_kept(path: str) -> None:
    write(path, 7, "old")
    os.chmod(path, 0o640)
    link = f"{path}.link"
    os.symlink("report.csv", link)
    write(link, 8, "new")
    assert os.path.islink(link)
    assert Path(path).read_text() == "new"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
    with pytest.raises(StaleToken):  # one file, one fence, by whichever name
        write(path, 7, "late")


def test_a_new_file_is_as_the_umask_says_and_its_fence_is_for_everyone(path: str) -> None:
    before = os.umask(0o077)
    try:
        write(path, 7, "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(at.find(path).fence).st_mode) == 0o644


def test_extended_attributes_are_kept(path: str) -> None:
    write(path, 7, "old")
    try:
        os.setxattr(path, "user.colour", b"blue")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    write(path, 7, "new")
    assert os.getxattr(path, "user.colour") == b"blue"


def test_what_cannot_be_replaced_as_a_whole_is_refused_before_anything_is_made(path: str, tmp_path: Path) -> None:
    for bad, why in (
        (str(tmp_path / "none" / "x"), "is no folder"),
        (str(tmp_path), "not a regular file"),
        (str(tmp_path / ("x" * 221)), "bytes"),
    ):
        with pytest.raises(UsageError, match=why), fencing.file(bad, 7):
            pass
    assert os.listdir(tmp_path) == []
    wrong: list[Any] = ["", "a\0b", b"bytes", 7]
    for path_like in wrong:
        with pytest.raises((UsageError, TypeError)):
            fencing.file(path_like, 7)
    Path(path).write_text("x")
    os.link(path, f"{path}.other")
    with pytest.raises(UsageError, match="hard links"):
        write(path, 7, "y")
    with pytest.raises(UsageError, match="resource"):
        fencing.open(path, 7, resource="r")


def test_a_folder_that_is_not_writable_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write everywhere.
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    with pytest.raises(UnsafeSetup, match="not writable"):
        write(path, 7, "x")


@pytest.mark.parametrize(
    ("mount", "why"),
    [(Mount("/mnt/team", "nfs4"), "of type nfs4"), (Mount("{path}", "ext4"), "mounted as a single file")],
)
def test_a_place_that_cannot_keep_the_promises_is_refused(
    path: str, monkeypatch: pytest.MonkeyPatch, mount: Mount, why: str
) -> None:
    found = mount._replace(point=mount.point.format(path=path))
    monkeypatch.setattr(at, "mount_of", lambda _: found)
    with pytest.raises(UnsafeSetup, match=why):
        write(path, 7, "x")
    assert names(path) == set()


def test_a_machines_shared_folder_is_warned_about(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(at, "mount_of", lambda _: Mount("/", "virtiofs"))
    write(path, 7, "x")
    assert "within this machine only" in caplog.text


@pytest.mark.parametrize(
    "text",
    ["what?", "{}", "[]", '{"tenure": 2, "token": 1, "authority": ""}', '{"tenure": 1, "token": "1", "authority": ""}'],
)
def test_what_is_no_fence_is_not_read_as_no_fencing(path: str, text: str) -> None:
    write(path, 7, "old")
    Path(at.find(path).fence).write_text(text)
    with pytest.raises(IncompatibleStore):
        write(path, 9, "new")
    assert Path(path).read_text() == "old"


def test_a_fence_that_was_removed_in_the_block_is_noticed(path: str) -> None:
    guard = fencing.file(path, 7)
    with pytest.raises(NotRaised, match="read again"), guard as file:
        file.write_text("x")
        os.unlink(at.find(path).fence)
    assert not os.path.exists(path)
    with guard as file:
        file.write_text("x")
    assert Path(path).read_text() == "x"


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
