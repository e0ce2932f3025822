"""Where a file can be guarded, what is refused before anything is made, and what of the file is kept."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tenure import fencing
from tenure.errors import IncompatibleStore, NotRaised, StaleToken, UnsafeSetup, UsageError
from tenure.fencing.files import place as at
from tenure.mounts import Mount
from tests.fencing.filed import names, write


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
