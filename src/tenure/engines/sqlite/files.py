"""The files of one database: where they lie, whose they are, and whether this place can keep the promises.

Promises: `open_home` either finds a place where flock(2), shared memory and sockets work between all who open it, or
refuses with an error that names the path and what to do. Existing files are never changed.
Does not promise: to see a network file system behind a layer that hides it (a virtual machine's shared folder).

The danger that shapes this file: *closing any descriptor of the database drops every POSIX lock that this process has
on it*, those of another SQLite connection included. So the database is never opened here, only made and asked about;
its header is read by SQLite, which knows of its own connections.
"""

from __future__ import annotations

import grp
import os
import sqlite3
import stat
import sys
import time
import weakref
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from tenure.engines.sqlite.guard import BELL_SUFFIX
from tenure.engines.sqlite.url import default_path
from tenure.errors import IncompatibleStore, StoreUnavailable, UnsafeSetup, UsageError
from tenure.mounts import REMOTE, mount_of
from tenure.observe.log import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tenure.mounts import Mount

FOLDER_SUFFIX: Final = "-tenure"
SOCKET_PATH_MAX: Final = 107 if sys.platform == "linux" else 103
"""Bytes of a Unix socket's path, without the closing NUL."""

_SHARED_FOLDER: Final = 0o2770
_SETTLE_S: Final = 0.25


class Home:
    """The files of one database.

    Attributes:
        path: the real path of the database; symbolic links are followed once, at opening.
        folder: the companion folder beside it, with presence files, sockets and the guard.
        gid: the group that shares the files; None for one user.
        seen: the largest number that this client has seen committed, over all its connections.
        setbacks: how often the file then had less: it was restored from an older state (rule A2).
    """

    __slots__ = ("__weakref__", "_alias", "_folder_bytes", "folder", "gid", "path", "seen", "setbacks")

    def __init__(self, path: str, gid: int | None = None) -> None:
        self.path = path
        self.folder = path + FOLDER_SUFFIX
        self.gid = gid
        self._folder_bytes = len(os.fsencode(self.folder))
        self._alias: str | None = None
        self.seen = 0
        self.setbacks = 0

    @property
    def guard_path(self) -> str:
        """The file for `Guard`."""
        return self.folder + "/guard"

    @property
    def file_mode(self) -> int:
        """The permissions of every file here."""
        return 0o600 if self.gid is None else 0o660

    def inode(self) -> tuple[int, int] | None:
        """Device and inode of what lies at the path now; None if nothing does or it cannot be seen."""
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def is_empty(self) -> bool:
        """Tell whether the database is yet to be made."""
        return os.stat(self.path).st_size == 0

    def logs(self) -> tuple[tuple[str, int], ...]:
        """SQLite's two files beside the database, those that are there, each with its inode."""
        found = []
        for path in (self.path + "-wal", self.path + "-shm"):
            with suppress(OSError):
                found.append((path, os.stat(path).st_ino))
        return tuple(found)

    def within(self, name: str) -> str:
        """The path of a file of the companion folder."""
        return f"{self.folder}/{name}"

    def reach(self, name: str) -> str | None:
        """A path for binding or connecting a socket, short enough for the kernel; None if there is none."""
        if self._folder_bytes + 1 + len(name) <= SOCKET_PATH_MAX:
            return f"{self.folder}/{name}"
        if self._alias is None:
            self._alias = self._make_alias()
        return f"{self._alias}/{name}" if self._alias else None

    def give(self, path: str) -> None:
        """Give a file that this process has just made its permissions and group, whatever the umask is."""
        if self.gid is not None and os.stat(path).st_gid != self.gid:
            os.chown(path, -1, self.gid)
        os.chmod(path, self.file_mode)

    def _make_alias(self) -> str:
        # The folder stays open for the life of this object: its number in /proc/self/fd is the short name.
        try:
            fd = os.open(self.folder, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return ""
        alias = f"/proc/self/fd/{fd}"
        if not os.path.isdir(alias):
            os.close(fd)
            return ""
        weakref.finalize(self, os.close, fd)
        return alias


def open_home(path: str | None, shared: str | None = None) -> Home:
    """Find or make the files of a database.

    Args:
        path: the database; None for this user's own file, whose folder is made too.
        shared: the group whose members share it; None for one user.

    Raises:
        UsageError: the path cannot be a database's, or the group does not exist.
        UnsafeSetup: the place cannot keep the promises; the message says what to do.
        IncompatibleStore: the file is no SQLite database.
        StoreUnavailable: the system refused (disk full, ...). In each case nothing that was there has been changed.
    """
    gid = None if shared is None else _gid(shared)
    try:
        if path is None:
            path = default_path()
            _make_own_folder(os.path.dirname(path))
        home = Home(os.path.realpath(path), gid)
        _check_place(home)
        _make_database(home)
        _settled(lambda: _database_objection(home))
        if not _is_database(home.path):
            raise IncompatibleStore(f"{home.path} is no SQLite database; name another path, or move that file away")
        _make_folder(home)
        _settled(lambda: _folder_objection(home))
        _make_guard(home)
        _settled(lambda: _access_objection(home.guard_path))
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(f"the files of {path} cannot be made or read: {error}") from error
    return home


def restore(home: Home) -> None:
    """Make anew what was deleted while a client was at work. The place itself was checked when it was opened.

    Raises:
        StoreUnavailable: the system refused; what could be made is there.
    """
    try:
        _make_database(home)
        _make_folder(home)
        _make_guard(home)
    except OSError as error:
        raise StoreUnavailable(f"the files of {home.path} cannot be made: {error}") from error


def restore_guard(home: Home) -> None:
    """Make the companion folder and the guard anew, so that whoever makes the database holds the guard of all."""
    try:
        _make_folder(home)
        _make_guard(home)
    except OSError as error:
        raise StoreUnavailable(f"the files of {home.path} cannot be made: {error}") from error


def forget_log(logs: Iterable[tuple[str, int]]) -> None:
    """Remove the log and its index of a database that is gone, if they still lie there. Under the guard.

    The danger: SQLite finds them by name, and would read them as those of the database that has taken its place.
    """
    for path, inode in logs:
        with suppress(OSError):
            if os.stat(path).st_ino == inode:
                os.unlink(path)


def _gid(group: str) -> int:
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        raise UsageError(f"shared: this host knows no group {group!r}") from None
    if os.geteuid() != 0 and gid != os.getegid() and gid not in os.getgroups():
        raise UnsafeSetup(f"shared: user {os.geteuid()} is no member of group {group!r}; add it, or use another group")
    return gid


def _make_own_folder(folder: str) -> None:
    try:
        os.makedirs(os.path.dirname(folder), 0o700, exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
    except OSError as error:
        raise UnsafeSetup(
            f"{folder} cannot be made ({error.strerror}); name a file in a folder of this user's: sqlite:///path"
        ) from error
    if os.stat(folder).st_uid != os.geteuid():
        # As after `sudo`, which may leave HOME as it was: root's files would lock the user out of the user's own.
        raise UnsafeSetup(f"{folder} belongs to another user than {os.geteuid()}; name a file: sqlite:///path")


def _check_place(home: Home) -> None:
    """Refuse a path or a folder that cannot do."""
    parent = os.path.dirname(home.path)
    if not os.path.isdir(parent):
        raise UsageError(f"{parent} is no folder; make it first, as the user who shall own it")
    if os.path.lexists(home.path) and not os.path.isfile(home.path):
        raise UsageError(f"{home.path} is not a regular file; name the database file itself")
    if not _may(parent, os.W_OK | os.X_OK):
        raise UnsafeSetup(
            f"{parent} is not writable for user {os.geteuid()}, and SQLite makes files beside the database; "
            "use another folder, or change its permissions"
        )
    mount = mount_of(home.path)
    if mount is not None:
        _check_mount(home, mount)
    if home.gid is not None:
        _check_shared_parent(parent, home.gid)


def _check_mount(home: Home, mount: Mount) -> None:
    if mount.kind in REMOTE:
        raise UnsafeSetup(
            f"{home.path} lies on {mount.point}, a file system of type {mount.kind}: locks of one host are not seen by "
            "another there. Use a local disk, or an engine with a server for several hosts"
        )
    if mount.point == home.path:
        raise UnsafeSetup(
            f"{home.path} is mounted as a single file, so that the files beside it are not shared; mount its folder"
        )
    if mount.kind == "virtiofs":
        logger().warning("%s lies on virtiofs: locks hold within this machine only, not towards its host", home.path)


def _check_shared_parent(parent: str, gid: int) -> None:
    found = os.stat(parent)
    group = _group_name(gid)
    todo = f"do: chgrp {group} {parent}; chmod g+ws {parent}"
    # SQLite's -wal and -shm copy the database's permissions, but not its group: that comes from the folder, if it is
    # setgid, else from whoever opens first.
    if not (found.st_mode & stat.S_ISGID and found.st_gid == gid) and os.getegid() != gid:
        raise UnsafeSetup(f"files that SQLite makes in {parent} would not belong to group {group}; {todo}")
    if found.st_gid != gid or not found.st_mode & stat.S_IWGRP:
        raise UnsafeSetup(f"members of group {group} cannot make files in {parent}; {todo}")
    if found.st_mode & stat.S_ISVTX:
        raise UnsafeSetup(
            f"{parent} has the sticky bit, so that one member cannot remove another's -wal file; "
            f"use a folder without it, or do: chmod -t {parent}"
        )


# What is missing is made. Whoever comes second finds it, for a moment perhaps without its permissions (`_settled`).


def _make_database(home: Home) -> None:
    def make() -> None:
        if sys.platform == "linux":
            # Not by open: closing that descriptor would drop the locks of a connection that came in between.
            os.mknod(home.path, stat.S_IFREG | home.file_mode)
        else:
            os.close(os.open(home.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, home.file_mode))
        home.give(home.path)

    _unless_there(home.path, make)


def _make_folder(home: Home) -> None:
    def make() -> None:
        os.mkdir(home.folder, 0o700)
        if home.gid is not None:
            os.chown(home.folder, -1, home.gid)
            os.chmod(home.folder, _SHARED_FOLDER)

    _unless_there(home.folder, make)


def _make_guard(home: Home) -> None:
    def guard() -> None:
        os.close(os.open(home.guard_path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, home.file_mode))
        home.give(home.guard_path)

    def bell() -> None:
        path = home.guard_path + BELL_SUFFIX
        # Not every file system has named pipes; the guard then polls.
        with suppress(PermissionError, NotImplementedError):
            os.mkfifo(path, home.file_mode)
            home.give(path)

    _unless_there(home.guard_path, guard)
    _unless_there(home.guard_path + BELL_SUFFIX, bell)


def _unless_there(path: str, make: Callable[[], None]) -> None:
    if not os.path.lexists(path):
        with suppress(FileExistsError):
            make()


def _settled(objection: Callable[[], str | None]) -> None:
    """Refuse if an objection lasts: another process may be between making a file and giving it to the group."""
    end = time.monotonic() + _SETTLE_S
    while (found := objection()) is not None:
        if time.monotonic() >= end:
            raise UnsafeSetup(found)
        time.sleep(0.005)


def _access_objection(path: str) -> str | None:
    if _may(path, os.R_OK | os.W_OK):
        return None
    return f"{path} is not readable and writable for user {os.geteuid()}; change its permissions"


def _database_objection(home: Home) -> str | None:
    """What is wrong with the database file, or None."""
    found = os.stat(home.path)
    if found.st_nlink > 1:
        return f"{home.path} has {found.st_nlink} names (hard links), each with files of its own beside it; keep one"
    if home.gid is None and found.st_uid != os.geteuid():
        return (
            f"{home.path} belongs to user {found.st_uid}, not to {os.geteuid()}; run as that user, name another, or "
            "share it between the members of a group: ?shared=GROUP"
        )
    if home.gid is not None and (found.st_gid != home.gid or found.st_mode & 0o660 != 0o660):
        group = _group_name(home.gid)
        return f"{home.path} is not shared with group {group}; do: chgrp {group} {home.path}; chmod 660 {home.path}"
    return _access_objection(home.path)


def _folder_objection(home: Home) -> str | None:
    found = os.lstat(home.folder)
    if not stat.S_ISDIR(found.st_mode):
        return f"{home.folder} is not a folder; remove it while no client runs"
    if home.gid is None:
        if found.st_uid != os.geteuid():
            return f"{home.folder} belongs to user {found.st_uid}; remove it while no client runs, or run as that user"
        if found.st_mode & 0o077:
            return (
                f"{home.folder} is open to others: it was made for sharing, so open it with ?shared=GROUP; "
                f"else do: chmod 700 {home.folder}"
            )
    elif found.st_gid != home.gid or found.st_mode & _SHARED_FOLDER != _SHARED_FOLDER:
        group = _group_name(home.gid)
        todo = f"do: chgrp {group} {home.folder}; chmod 2770 {home.folder}"
        return f"{home.folder} is not shared with group {group}; {todo}"
    return None


def _is_database(path: str) -> bool:
    """Tell whether SQLite takes the file for a database; an empty one is. A busy one is too."""
    if os.stat(path).st_size == 0:
        return True
    uri = "file:" + quote(os.fsencode(path)) + "?mode=rw"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=0)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.DatabaseError as error:
        return getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_NOTADB
    return True


def _may(path: str, how: int) -> bool:
    return os.access(path, how, effective_ids=os.access in os.supports_effective_ids)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
