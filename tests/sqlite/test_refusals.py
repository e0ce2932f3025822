"""What the host refuses, room and files of somebody else: errors are typed, and what is held stays held."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tenure import Client
from tenure.errors import OutcomeUnknown, StoreUnavailable, UnsafeSetup
from tenure.model import LeaseState
from tests.sqlite.rig import BECOME, PATIENCE, process, skip_unless_others_get_to, sql, until

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def small_disk(point: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    point.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=768k", "tenure-test", point], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"cannot mount here: {done.stderr.decode().strip()}")
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", point], check=True)


def fill(ballast: Path) -> None:
    """Write until nothing fits."""
    with ballast.open("ab", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                pass


def test_on_a_full_disk_errors_are_typed_and_held_leases_recover(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "locks.db"
        with Client(f"sqlite://{path}", ttl=6) as client:
            held = client.lock("held").acquire()
            released = client.lock("released").acquire()
            fill(disk / "ballast")
            # The log still has room where it was written before; use that up.
            errors: list[Exception] = []

            def refused() -> bool:
                try:
                    client.lock("more" * 100, info="x" * 1000, wait=0.2).acquire().release()
                except (StoreUnavailable, OutcomeUnknown) as error:
                    errors.append(error)
                return bool(errors)

            until(refused)
            assert "full" in str(errors[0]) or "failed" in str(errors[0])
            released.release()  # repeated by the keeper until there is room
            until(lambda: held.state is LeaseState.SUSPECT)
            assert held.held
            (disk / "ballast").unlink()
            until(lambda: held.state is LeaseState.HELD)
            with client.lock("released", wait=PATIENCE) as again:
                assert again.token > released.token
            until(lambda: client.names() == ["held"])
            held.release()
            assert sql(path, "PRAGMA integrity_check") == [("ok",)]


NO_ROOM = """
import resource
client = tenure.Client(url, ttl=30).open()
lease = client.lock("n").acquire()
size = os.stat(path + "-wal").st_size
say("held")
told()
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 600, resource.RLIM_INFINITY))
try:
    while True:
        client.lock("m", wait=0.1).acquire().release()
except TenureError as error:
    say(type(error).__name__)
lease.release()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
with client.lock("n", wait=20) as again:
    say("again", again.token > lease.token)
told()
"""


def test_a_file_size_limit_is_a_typed_error_and_what_was_owed_is_paid(path: Path) -> None:
    with process(NO_ROOM, str(path)) as child:
        assert child.ask("go") == ["held"]
        assert child.hear()[0] in ("StoreUnavailable", "OutcomeUnknown")
        assert child.hear() == ["again", "True"]


AS_NOBODY = (
    BECOME
    + """
become(65534, 65534, [])
try:
    with tenure.Client(url) as client:
        client.lock("n").try_acquire()
        say("granted")
except TenureError as error:
    say(type(error).__name__, str(error))
told()
"""
)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(
    ("folder", "file", "words"),
    [(0o755, None, "is not writable"), (0o777, 0o644, "belongs to user 0"), (0o777, 0o666, "belongs to user 0")],
)
def test_a_folder_or_file_of_somebody_else_is_refused_in_words(folder: int, file: int | None, words: str) -> None:
    # Not in tmp_path, which only its owner may enter.
    skip_unless_others_get_to("/tmp")  # noqa: S108
    place = Path(f"/tmp/tenure-test-{os.getpid()}-{time.monotonic_ns()}")  # noqa: S108
    place.mkdir()
    try:
        path = place / "locks.db"
        if file is not None:
            Client(f"sqlite://{path}").open().close()
            path.chmod(file)
        place.chmod(folder)
        with process(AS_NOBODY, str(path)) as child:
            kind, *rest = child.hear()
        assert kind == UnsafeSetup.__name__
        assert words in " ".join(rest)
    finally:
        shutil.rmtree(place)
