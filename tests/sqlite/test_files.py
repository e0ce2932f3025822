import grp
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tenure import errors, mounts
from tenure.engines.sqlite import files
from tenure.engines.sqlite.files import SOCKET_PATH_MAX, Home, open_home
from tenure.errors import IncompatibleStore, UnsafeSetup, UsageError

SRC = os.path.dirname(os.path.dirname(errors.__file__))
OWN_GROUP = grp.getgrgid(os.getegid()).gr_name
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def run(code: str, *args: str, check: bool = True) -> str:
    """Run code in a process of its own; what it prints."""
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        env={**os.environ, "PYTHONPATH": SRC},
        stdout=subprocess.PIPE,
        text=True,
        check=check,
        timeout=60,
    ).stdout


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.fixture
def shared_folder(tmp_path: Path) -> Path:
    os.chown(tmp_path, -1, os.getegid())
    tmp_path.chmod(0o2770)
    return tmp_path


@pytest.fixture(params=[0o000, 0o077, 0o027])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_one_users_files_are_for_that_user_only(tmp_path: Path, umask: int) -> None:
    home = open_home(str(tmp_path / "x.db"))
    assert home.path == str(tmp_path / "x.db")
    assert mode(home.path) == 0o600
    assert mode(home.folder) == 0o700
    assert mode(home.guard_path) == 0o600
    assert mode(home.guard_path + ".bell") == 0o600
    assert open_home(str(tmp_path / "x.db")).inode() == home.inode()


def test_shared_files_are_for_the_group_whatever_the_umask(shared_folder: Path, umask: int) -> None:
    home = open_home(str(shared_folder / "x.db"), OWN_GROUP)
    assert mode(home.path) == 0o660
    assert mode(home.folder) == 0o2770
    assert mode(home.guard_path) == 0o660
    assert mode(home.guard_path + ".bell") == 0o660
    assert {os.stat(p).st_gid for p in (home.path, home.folder, home.guard_path)} == {os.getegid()}
    open_home(str(shared_folder / "x.db"), OWN_GROUP)


def test_sqlites_own_files_carry_the_group_too(shared_folder: Path) -> None:
    home = open_home(str(shared_folder / "x.db"), OWN_GROUP)
    with closing(sqlite3.connect(home.path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t(x)")
        for suffix in ("-wal", "-shm"):
            assert mode(home.path + suffix) == 0o660
            assert os.stat(home.path + suffix).st_gid == os.getegid()


def test_symbolic_links_lead_to_one_companion_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "name.db").symlink_to(tmp_path / "real" / "x.db")
    assert open_home(str(tmp_path / "name.db")).folder == str(tmp_path / "real" / "x.db-tenure")
    assert open_home(str(tmp_path / "link" / "x.db")).folder == str(tmp_path / "real" / "x.db-tenure")


def test_the_inode_tells_a_replaced_database(tmp_path: Path) -> None:
    home = open_home(str(tmp_path / "x.db"))
    before = home.inode()
    assert before is not None
    os.rename(home.path, home.path + ".old")
    assert home.inode() is None
    (tmp_path / "x.db").touch()
    assert home.inode() not in (None, before)


def test_a_file_that_is_no_database_is_left_as_it_was(tmp_path: Path) -> None:
    for size in (5, 20, 5000):
        path = tmp_path / f"{size}.txt"
        path.write_text("x" * size)
        with pytest.raises(IncompatibleStore, match=str(path)):
            open_home(str(path))
        assert path.read_text() == "x" * size
        assert not (tmp_path / f"{size}.txt-tenure").exists()


def test_a_database_in_use_is_taken_for_one(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t(x)")
        connection.execute("BEGIN EXCLUSIVE")
        open_home(str(tmp_path / "x.db"))


TRY_TO_WRITE = """
import sqlite3, sys
try:
    sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None).execute("BEGIN IMMEDIATE")
    print("written")
except sqlite3.OperationalError:
    print("busy")
"""


def test_opening_drops_no_lock_of_another_connection_of_this_process(tmp_path: Path) -> None:
    path = str(tmp_path / "x.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t(x)")
        connection.execute("BEGIN IMMEDIATE")
        open_home(path)
        assert run(TRY_TO_WRITE, path) == "busy\n"
        # The control: this is what reading the header ourselves would do.
        os.close(os.open(path, os.O_RDONLY))
        assert run(TRY_TO_WRITE, path) == "written\n"


def test_what_cannot_be_a_database_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a regular file"):
        open_home(str(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match="not a regular file"):
        open_home(str(tmp_path / "fifo"))
    with pytest.raises(UsageError, match="is no folder; make it"):
        open_home(str(tmp_path / "missing" / "x.db"))
    assert not (tmp_path / "missing").exists()


def test_a_database_with_two_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").touch(mode=0o600)
    os.link(tmp_path / "x.db", tmp_path / "y.db")
    with pytest.raises(UnsafeSetup, match="2 names"):
        open_home(str(tmp_path / "x.db"))


AS_ANOTHER_USER = """
import os, sys
# First the import: that user may not be able to read this interpreter's library.
from tenure.engines.sqlite.files import open_home
os.setgroups([]); os.setgid(int(sys.argv[3])); os.setuid(65534)
try:
    open_home(sys.argv[1], sys.argv[2] or None)
    print("opened")
except Exception as error:
    print(type(error).__name__, error)
"""


def open_to_all(folder: Path) -> None:
    """Let other users get to a folder of pytest's."""
    for each in (folder, *folder.parents):
        if "pytest" in str(each):
            each.chmod(0o755)


@as_root
def test_another_users_files_are_refused_in_words(tmp_path: Path) -> None:
    open_to_all(tmp_path)
    path = str(tmp_path / "x.db")
    said = run(AS_ANOTHER_USER, path, "", "65534")
    assert said.startswith(f"UnsafeSetup {tmp_path} is not writable for user 65534")
    tmp_path.chmod(0o777)
    open_home(path)
    said = run(AS_ANOTHER_USER, path, "", "65534")
    assert said.startswith(f"UnsafeSetup {path} belongs to user 0, not to 65534; run as that user")


@as_root
def test_two_users_of_one_group_share_a_file_and_an_outsider_does_not(tmp_path: Path) -> None:
    open_to_all(tmp_path)
    group = grp.getgrnam("daemon")
    os.chown(tmp_path, -1, group.gr_gid)
    tmp_path.chmod(0o2770)
    path = str(tmp_path / "x.db")
    open_home(path, "daemon")
    assert run(AS_ANOTHER_USER, path, "daemon", str(group.gr_gid)) == "opened\n"
    assert "no member of group 'daemon'" in run(AS_ANOTHER_USER, path, "daemon", "65534")


def test_a_folder_that_would_not_give_the_group_is_refused_with_the_commands(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = str(tmp_path / "x.db")
    with pytest.raises(UnsafeSetup, match=rf"chgrp {OWN_GROUP} {tmp_path}; chmod g\+ws {tmp_path}"):
        open_home(path, OWN_GROUP)
    tmp_path.chmod(0o3770)
    with pytest.raises(UnsafeSetup, match="sticky"):
        open_home(path, OWN_GROUP)
    assert os.listdir(tmp_path) == []


def test_the_two_ways_of_sharing_are_not_mixed(shared_folder: Path) -> None:
    open_home(str(shared_folder / "one.db"))
    with pytest.raises(UnsafeSetup, match="is not shared with group"):
        open_home(str(shared_folder / "one.db"), OWN_GROUP)
    open_home(str(shared_folder / "all.db"), OWN_GROUP)
    with pytest.raises(UnsafeSetup, match=r"\?shared=GROUP"):
        open_home(str(shared_folder / "all.db"))


def test_an_unknown_group_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="shared: this host knows no group 'no-such-group'"):
        open_home(str(tmp_path / "x.db"), "no-such-group")


@pytest.mark.skipif(sys.platform != "linux", reason="the XDG folders are Linux's")
def test_the_default_file_gets_a_private_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "deep" / "state"))
    home = open_home(None)
    assert home.path == str(tmp_path / "deep" / "state" / "tenure" / "locks.db")
    assert mode(tmp_path / "deep" / "state" / "tenure") == 0o700
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(UnsafeSetup, match="sqlite:///path"):
        open_home(None)


MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /mnt/with\\040space rw - nfs4 server:/x rw
31 22 0:41 / /mnt rw shared:2 master:1 - tmpfs none rw
32 22 0:42 / /srv rw - ext4 /dev/vdb rw
33 22 0:43 / /srv rw - cifs //server/x rw
34 22 254:0 /a/x.db /data/x.db rw - ext4 /dev/vda rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/x.db", "ext4"),
        ("/mnt/x.db", "tmpfs"),
        ("/mnt/with space/x.db", "nfs4"),
        ("/mnt/with spaces/x.db", "tmpfs"),
        ("/srv/x.db", "cifs"),
        ("/srvx/x.db", "ext4"),
    ],
)
def test_the_file_system_is_that_of_the_longest_and_last_mount(tmp_path: Path, path: str, kind: str) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS)
    found = mounts.mount_of(path, str(tmp_path / "mountinfo"))
    assert found is not None
    assert found.kind == kind


def test_a_network_file_system_is_refused_by_its_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "mount_of", lambda _: mounts.Mount("/mnt/team", "nfs4"))
    with pytest.raises(UnsafeSetup, match="/mnt/team, a file system of type nfs4"):
        open_home(str(tmp_path / "x.db"))
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_mounted_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "x.db")
    monkeypatch.setattr(files, "mount_of", lambda _: mounts.Mount(path, "ext4"))
    with pytest.raises(UnsafeSetup, match="mount its folder"):
        open_home(path)


def test_no_mount_table_is_no_reason_to_refuse(tmp_path: Path) -> None:
    assert mounts.mount_of("/x", str(tmp_path / "missing")) is None


def test_a_long_path_is_reached_by_a_short_one(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    home = open_home(str(deep / "x.db"))
    short = home.reach("some.mail")
    assert short is not None
    assert len(short) <= SOCKET_PATH_MAX
    assert os.path.samefile(os.path.dirname(short), home.folder)
    assert Home("/x.db").reach("some.mail") == "/x.db-tenure/some.mail"


def test_processes_that_open_at_once_find_the_same_files(shared_folder: Path) -> None:
    code = "import sys; from tenure.engines.sqlite.files import open_home; print(open_home(*sys.argv[1:]).inode())"
    for shared in ([], [OWN_GROUP]):
        path = str(shared_folder / f"{len(shared)}.db")
        started = [
            subprocess.Popen(
                [sys.executable, "-c", code, path, *shared],
                env={**os.environ, "PYTHONPATH": SRC},
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(4)
        ]
        said = {process.communicate(timeout=60)[0] for process in started}
        assert said == {f"{Home(path).inode()}\n"}
