"""Several users of one host, `?shared=GROUP`: real users, by number; nobody's account is needed."""

from __future__ import annotations

import grp
import os
import shutil
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.sqlite.rig import BECOME, Child, process, skip_unless_others_get_to, until
from tests.timing import Bound

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become two other users")

ANNE, BOB, STRANGER = 64_001, 64_002, 64_003
"""Users that nobody has given an account."""


@pytest.fixture
def group() -> grp.struct_group:
    for name in ("games", "users", "nogroup"):
        try:
            return grp.getgrnam(name)
        except KeyError:
            continue
    pytest.skip("this host has none of the groups games, users and nogroup")


@pytest.fixture
def path(group: grp.struct_group) -> Iterator[Path]:
    # Not in tmp_path, which only root may enter.
    skip_unless_others_get_to("/tmp")  # noqa: S108
    folder = Path(f"/tmp/tenure-shared-{os.getpid()}-{time.monotonic_ns()}")  # noqa: S108
    folder.mkdir()
    os.chown(folder, 0, group.gr_gid)
    folder.chmod(0o2770)
    yield folder / "locks.db"
    shutil.rmtree(folder)


AS = (
    BECOME
    + """
uid, gid, extra, umask = map(int, told().split())
become(uid, gid, [extra] if extra else [])
os.umask(umask)
group = told()
client = tenure.Client(f"{url}?shared={group}", ttl=60)
leases = {}
while True:
    what, _, name = told().partition(" ")
    try:
        if what == "acquire":
            leases[name] = client.lock(name, wait=20).acquire()
            say("granted", leases[name].token)
        elif what == "try":
            leases[name] = client.lock(name).try_acquire()
            say("granted" if leases[name] else "busy")
        elif what == "release":
            leases.pop(name).release()
            say("released")
        elif what == "close":
            client.close()
            say("closed")
    except TenureError as error:
        say(type(error).__name__, str(error))
"""
)


def become(child: Child, uid: int, gid: int, extra: int, group: str, umask: int = 0o077) -> Child:
    child.tell(str(uid), str(gid), str(extra), str(umask))
    child.tell(group)
    return child


def test_two_users_of_a_group_take_turns_in_one_file(path: Path, group: grp.struct_group) -> None:
    gid = group.gr_gid
    with process(AS, str(path)) as one, process(AS, str(path)) as two:
        anne = become(one, ANNE, ANNE, gid, group.gr_name)
        bob = become(two, BOB, BOB, gid, group.gr_name, 0o022)
        first = anne.ask("acquire n")
        assert first[0] == "granted", first
        assert bob.ask("try n") == ["busy"]
        bob.tell("acquire n")
        until(lambda: len(os.listdir(f"{path}-tenure")) >= 8)
        time.sleep(0.1)  # let the claim enter; if it does not, the hand-over below is only easier
        began = time.monotonic()
        assert anne.ask("release n") == ["released"]
        second = bob.hear()
        assert second[0] == "granted"
        assert int(second[1]) > int(first[1])
        assert time.monotonic() - began < Bound(1)
        # Each made some of the files; all are the group's.
        for file in [path, *path.parent.glob("locks.db-*"), *Path(f"{path}-tenure").iterdir()]:
            found = file.stat()
            assert found.st_gid == gid, file
            want = 0o2770 if stat.S_ISDIR(found.st_mode) else 0o660
            assert stat.S_IMODE(found.st_mode) == want, (file, oct(found.st_mode))
        # A kill frees the name across users too: the presence file can be probed, the pulse be heard.
        anne.tell("acquire n")
        until(lambda: _waits(path))
        two.kill()
        assert anne.hear()[0] == "granted"
        assert anne.ask("release n") == ["released"]
        assert anne.ask("close") == ["closed"]


def _waits(path: Path) -> bool:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return bool(connection.execute("SELECT count(*) = 2 FROM claims").fetchone()[0])


def test_a_stranger_to_the_group_is_refused_in_words(path: Path, group: grp.struct_group) -> None:
    with process(AS, str(path)) as one, process(AS, str(path)) as two:
        assert become(one, ANNE, ANNE, group.gr_gid, group.gr_name).ask("acquire n")[0] == "granted"
        kind, *words = become(two, STRANGER, STRANGER, 0, group.gr_name).ask("acquire n")
        assert kind == "UnsafeSetup"
        assert f"user {STRANGER} is no member of group {group.gr_name!r}" in " ".join(words)


def test_an_unknown_group_is_refused_in_words(path: Path, group: grp.struct_group) -> None:
    with process(AS, str(path)) as one:
        kind, *words = become(one, ANNE, ANNE, group.gr_gid, "no-such-group").ask("acquire n")
        assert kind == "UsageError"
        assert "no group 'no-such-group'" in " ".join(words)


def test_a_folder_that_is_not_the_groups_is_refused_with_what_to_do(path: Path, group: grp.struct_group) -> None:
    path.parent.chmod(0o755)
    with process(AS, str(path)) as one:
        kind, *words = become(one, ANNE, ANNE, group.gr_gid, group.gr_name).ask("acquire n")
        assert kind == "UnsafeSetup"
        assert str(path.parent) in " ".join(words)
    assert os.listdir(path.parent) == []
