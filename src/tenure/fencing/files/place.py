"""Where a file, its fence and its next content lie: beside each other, under one lock.

    report.csv                        the content
    .report.csv.tenure-fence          the fence: {"tenure": 1, "token": 7, "authority": "redis/app"}
    .report.csv.CHANCE.tenure-new     content, or a fence, that is being written

The lock is the flock(2) of the fence.

Promises: whatever gets its name here was synced before, and its folder is synced after.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import stat
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from tenure.errors import IncompatibleStore, OutcomeUnknown, UnsafeSetup, UsageError
from tenure.fencing.rule import TOKEN_MAX, Fence
from tenure.mounts import REMOTE, mount_of
from tenure.observe.log import logger

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT: Final = 1
FENCE: Final = ".tenure-fence"
NEW: Final = ".tenure-new"

NAME_MAX: Final = 220
"""Bytes of a file's name, so that those beside it fit into the 255 that file systems take."""


class Place(NamedTuple):
    """One file that is guarded.

    Attributes:
        folder: its real folder.
        name: its name there; symbolic links are followed, for the file behind them is what the fence protects.
    """

    folder: str
    name: str

    @property
    def target(self) -> str:
        """The path of the file."""
        return os.path.join(self.folder, self.name)

    @property
    def fence(self) -> str:
        """The path of its fence."""
        return os.path.join(self.folder, f".{self.name}{FENCE}")

    def new(self) -> str:
        """A path for what is being written."""
        return os.path.join(self.folder, f".{self.name}.{secrets.token_hex(6)}{NEW}")


def find(path: str) -> Place:
    """Follow a path, and look whether a guard can do its work there. Changes nothing.

    Raises:
        UsageError: it cannot be the path of a file that is replaced as a whole.
        UnsafeSetup: the place cannot keep the promises; the message says what to do.
    """
    place = Place(*os.path.split(os.path.realpath(path)))
    if not place.name or len(os.fsencode(place.name)) > NAME_MAX:
        raise UsageError(f"path: a file's name of 1 to {NAME_MAX} bytes is needed, so that its fence fits beside it")
    if not os.path.isdir(place.folder):
        raise UsageError(f"path: {place.folder} is no folder; make it first, as the user who shall own it")
    with suppress(FileNotFoundError):
        found = os.stat(place.target)
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"path: {place.target} is not a regular file")
        if found.st_nlink > 1:
            raise UsageError(
                f"path: {place.target} has {found.st_nlink} names (hard links), and replacing it would leave the old "
                "content to the others; keep one"
            )
    if not os.access(place.folder, os.W_OK | os.X_OK):
        raise UnsafeSetup(
            f"{place.folder} is not writable for user {os.geteuid()}, and a file is replaced by one written beside it; "
            "use another folder, or change its permissions"
        )
    _check_mount(place)
    return place


def _check_mount(place: Place) -> None:
    mount = mount_of(place.target)
    if mount is None:
        return
    if mount.kind in REMOTE:
        raise UnsafeSetup(
            f"{place.target} lies on {mount.point}, a file system of type {mount.kind}: locks of one host are not seen "
            "by another there. Use a local disk, or keep the content in a store with a server"
        )
    if mount.point == place.target:
        raise UnsafeSetup(f"{place.target} is mounted as a single file, which cannot be replaced; mount its folder")
    if mount.kind == "virtiofs":
        logger().warning("%s lies on virtiofs: locks hold within this machine only, not towards its host", place.target)


@contextmanager
def locked(place: Place) -> Iterator[int]:
    """Hold the lock of a fence, and have the fence open for reading.

    The danger: the fence is replaced as a whole, and then the lock that one waited for is that of a file without a
    name. So who has got it looks whether it is still the one at the path.
    """
    while True:
        descriptor = _opened(place.fence)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, place.fence):
                yield descriptor
                return
        finally:
            # By hand: a process that was forked meanwhile has the same lock, and would keep it.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _opened(path: str) -> int:
    while True:
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            os.fchmod(descriptor, 0o644)
            return descriptor


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def read_fence(descriptor: int, path: str) -> Fence:
    """The fence, under its lock. An empty file is one that nobody has raised.

    Raises:
        IncompatibleStore: the file is no fence, or one of another release.
    """
    text = os.pread(descriptor, 4096, 0)
    if not text:
        return Fence()
    try:
        found = json.loads(text)
        form, token, authority = found["tenure"], found["token"], found["authority"]
    except (ValueError, KeyError, TypeError):
        raise IncompatibleStore(f"{path} is no fence; if it was damaged, see `tenure fence adopt`") from None
    if form != FORMAT:
        raise IncompatibleStore(f"{path} has format {form!r}", in_force=None, spoken=(FORMAT,))
    if not isinstance(token, int) or not 0 <= token <= TOKEN_MAX or not isinstance(authority, str):
        raise IncompatibleStore(f"{path} is no fence; if it was damaged, see `tenure fence adopt`")
    return Fence(token, 0, 0, authority)


def write_fence(place: Place, fence: Fence) -> None:
    """Put a fence in the place of the one there; durable when this returns. Under its lock, and its last act."""
    path = place.new()
    text = json.dumps({"tenure": FORMAT, "token": fence.token, "authority": fence.authority}) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        try:
            # Whatever the umask: every user who may replace the file must be able to lock and read its fence.
            os.fchmod(descriptor, 0o644)
            os.write(descriptor, text.encode())
            sync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(path, place.fence)
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
    _sync_folder(place.folder)


def create(place: Place) -> tuple[int, str]:
    """A file for the next content. Under the lock of the fence, so that `sweep` does not take it for a dead one's."""
    path = place.new()
    # Until it gets the permissions of the file that is there, nobody else reads it; a new one is as the umask says.
    mode = 0o600 if os.path.lexists(place.target) else 0o666
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor, path


def keep_permissions(place: Place, descriptor: int) -> None:
    """Give the next content the owner, access lists and permissions of the file that it replaces.

    An owner that this user may not give away becomes this user, as with every program that replaces files.
    """
    try:
        found = os.stat(place.target)
    except FileNotFoundError:
        return
    if not os.access(place.target, os.W_OK):
        raise PermissionError(errno.EACCES, "not writable for this user", place.target)
    with suppress(PermissionError):
        os.fchown(descriptor, found.st_uid, found.st_gid)
    if sys.platform == "linux":
        for name in os.listxattr(place.target):
            with suppress(OSError):
                os.setxattr(descriptor, name, os.getxattr(place.target, name))
    os.fchmod(descriptor, stat.S_IMODE(found.st_mode))


def replace(place: Place, path: str) -> None:
    """Put the next content, which is synced, in the place of the one there. Under the lock of the fence.

    Raises:
        OSError: the system refused; the file is as it was.
        OutcomeUnknown: it was replaced, and the disk did not say that it will remember.
    """
    os.rename(path, place.target)
    try:
        _sync_folder(place.folder)
    except OSError as error:
        raise OutcomeUnknown(f"{place.target} was replaced, and its disk fails to confirm: {error}") from error


def sweep(place: Place) -> None:
    """Remove what was being written by processes that are dead: their locks are gone. Under the lock of the fence."""
    with os.scandir(place.folder) as entries:
        paths = [e.path for e in entries if e.name.startswith(f".{place.name}.") and e.name.endswith(NEW)]
    for path in paths:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            finally:
                os.close(descriptor)


def sync(descriptor: int) -> None:
    """Let the disk have it."""
    if sys.platform == "darwin":
        # fsync(2) there leaves it in the drive's own memory.
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
