"""What makes a client visible to its neighbours: a presence file, a mailbox and a pulse.

Promises: a presence file that is *found and free* belongs to a process that is dead for good; the end of a process is
heard by whoever is connected to its pulse, without polling.
Does not promise: anything from absence. A missing file or socket proves nothing, a stopped process looks alive, and a
message may be lost. There the ttl decides (rule C1).

* presence: a file under flock(2), locked under a temporary name and then renamed, so that it is never seen unlocked
  while its owner lives. Probes lock it *shared*: an exclusive probe makes a second prober see the dead alive.
* mailbox: a Unix datagram socket (`<id>.mail`), which holds 11 messages.
* pulse: a listening Unix stream socket (`<id>.pulse`). Nobody talks there: a neighbour connects, and when the last copy
  of the socket is closed, its connection ends.

A descriptor that a child process inherits keeps presence and pulse alive; that is meant for `tenure run`, and is why
every other forked child closes them at once, *without unlocking*: its LOCK_UN would make a living parent look dead.
"""

from __future__ import annotations

import _socket
import enum
import fcntl
import os
import re
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from tenure.engines.mail import encode
from tenure.errors import StoreUnavailable, UsageError
from tenure.observe.log import logger

if TYPE_CHECKING:
    from collections.abc import Container

    from tenure.engines.sqlite.files import Home
    from tenure.ports import Message

PRESENCE: Final = ".presence"
MAIL: Final = ".mail"
PULSE: Final = ".pulse"

_ADDRESS: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BACKLOG: Final = 128
_KEPT_MAX: Final = 256
_PATHS_MAX: Final = 1024


class Presence(enum.Enum):
    """What a probe of a presence file found."""

    HELD = "held"
    """By its owner, or by a child that inherited it; running or stopped."""
    FREE = "free"
    """The owner is dead, for good."""
    UNKNOWN = "unknown"
    """No such file, or it cannot be probed: proves nothing."""


class Silence(enum.Enum):
    """Why a pulse cannot be heard."""

    NOBODY = "nobody"
    """Missing or refused: nobody listens there (any more)."""
    CROWDED = "crowded"
    """Somebody listens, but takes no more neighbours, or this process has no descriptors left."""


def nonblocking(kind: int, fileno: int | None = None) -> _socket.socket:
    """Make a Unix socket of the C class, which gevent does not patch: nonblocking, not inherited through exec."""
    sock = _socket.socket(_socket.AF_UNIX, kind, 0, fileno)
    sock.setblocking(False)
    return sock


class Endpoint:
    """One client's presence, mailbox and pulse. The creator is a process: a forked child's copy disowns itself.

    Attributes:
        home: the files of its database.
        address: its id; also where sockets could not be made.
        mail: the bound datagram socket; None where the system has no sockets here (look by polling then).
        pulse: the listening socket; None together with `mail`.
    """

    __slots__ = ("__weakref__", "_kept", "_pid", "_presence", "address", "home", "mail", "pulse")

    def __init__(self, home: Home, address: str, presence: int) -> None:
        self.home = home
        self._pid = os.getpid()
        self._presence = presence
        self._kept: list[_socket.socket] = []
        self.address = address
        self.mail: _socket.socket | None = None
        self.pulse: _socket.socket | None = None
        _endpoints.add(self)

    @classmethod
    def create(cls, home: Home, runtime_id: str) -> Endpoint:
        """Make the files and sockets of a new id.

        Raises:
            UsageError: the id is not 1 to 64 letters, digits, `-` or `_`, or was used before.
            StoreUnavailable: the presence file cannot be made or locked. Nothing is left behind.
        """
        if _ADDRESS.fullmatch(runtime_id) is None:
            raise UsageError(f"runtime_id: {runtime_id!r} is not 1 to 64 letters, digits, '-' or '_'")
        if os.path.lexists(home.within(runtime_id + PRESENCE)):
            raise UsageError(f"runtime_id: {runtime_id} was used before; an id is used once")
        self = cls(home, runtime_id, _make_presence(home, runtime_id))
        try:
            self.mail = self._bind(MAIL, _socket.SOCK_DGRAM)
            self.pulse = self._bind(PULSE, _socket.SOCK_STREAM)
            self.pulse.listen(_BACKLOG)
        except OSError as error:
            logger().info("no Unix sockets in %s (%s): waiting there polls", home.folder, error.strerror)
            self._close_sockets()
            self._unlink(MAIL, PULSE)
        return self

    def descriptors(self) -> tuple[int, ...]:
        """What a child must inherit so that neither presence nor pulse ends before it does: presence, then pulse."""
        return (self._presence,) if self.pulse is None else (self._presence, self.pulse.fileno())

    def sweep(self) -> None:
        """Take in the neighbours that have connected, and drop those that have gone. Never waits, never raises.

        The backlog holds 128; called with each heartbeat, this keeps room in it. At most 256 are kept.
        """
        if self.pulse is None or self._pid != os.getpid():
            return
        # The C class has no accept() of its own; its _accept() gives the descriptor.
        pulse: Any = self.pulse
        kept: list[_socket.socket] = []
        for sock in self._kept:
            if _is_open(sock):
                kept.append(sock)
            else:
                sock.close()
        with suppress(OSError):
            while len(kept) < _KEPT_MAX:
                sock = nonblocking(_socket.SOCK_STREAM, pulse._accept()[0])  # noqa: SLF001 - see above
                if _is_open(sock):
                    kept.append(sock)
                else:
                    sock.close()
        self._kept = kept

    def close(self) -> None:
        """Remove the files, then close. In a forked child: only `disown`. Never raises; may be repeated."""
        if self._pid == os.getpid() and self._presence >= 0:
            self._unlink(MAIL, PULSE, PRESENCE)
        self.disown()

    def disown(self) -> None:
        """Close every descriptor, unlock and remove nothing: what a forked child does. Never raises."""
        fd, self._presence = self._presence, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)
        self._close_sockets()

    def _bind(self, suffix: str, kind: int) -> _socket.socket:
        name = self.address + suffix
        path = self.home.reach(name)
        if path is None:
            raise OSError(0, "the path is too long")
        sock = nonblocking(kind)
        try:
            sock.bind(os.fsencode(path))
            self.home.give(self.home.within(name))
        except OSError:
            sock.close()
            raise
        return sock

    def _unlink(self, *suffixes: str) -> None:
        for suffix in suffixes:
            with suppress(OSError):
                os.unlink(self.home.within(self.address + suffix))

    def _close_sockets(self) -> None:
        sockets = [sock for sock in (self.mail, self.pulse, *self._kept) if sock is not None]
        self.mail, self.pulse, self._kept = None, None, []
        for sock in sockets:
            # Only close(2): shutdown(2) would end the parent's copy too.
            with suppress(OSError):
                sock.close()


def _make_presence(home: Home, address: str) -> int:
    temporary = home.within(f".{address}.new")
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, home.file_mode)
    except OSError as error:
        raise StoreUnavailable(f"{temporary} cannot be made: {error.strerror}") from error
    try:
        home.give(temporary)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Only now: a presence file that is seen unlocked means death.
        os.rename(temporary, home.within(address + PRESENCE))
    except OSError as error:
        os.close(fd)
        with suppress(OSError):
            os.unlink(temporary)
        raise StoreUnavailable(f"{temporary} cannot be locked: {error.strerror}") from error
    return fd


def _is_open(sock: _socket.socket) -> bool:
    """Tell whether the other end of a connection is still there; it never sends anything."""
    try:
        return bool(sock.recv(1, _socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def presence(home: Home, address: str) -> Presence:
    """Probe a presence file. Takes about 6 µs, never waits, never raises."""
    if _ADDRESS.fullmatch(address) is None:
        return Presence.UNKNOWN
    try:
        fd = os.open(home.within(address + PRESENCE), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return Presence.UNKNOWN
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return Presence.HELD
    except OSError:
        return Presence.UNKNOWN
    finally:
        os.close(fd)
    return Presence.FREE


def is_dead(home: Home, address: str) -> bool:
    """True only if the presence file was found and free: then that client is dead for good. Never raises."""
    return presence(home, address) is Presence.FREE


def bury(home: Home, address: str) -> bool:
    """Remove the files that a dead client has left; True if it was dead. Never raises; may be repeated.

    Safe against every race, for an id is used once: what was found free never comes to life. Bury *after* the step that
    latched its death is committed: without its file, it can no longer be seen to be dead.
    """
    if presence(home, address) is not Presence.FREE:
        return False
    # The presence file goes last: an undertaker that is killed in between leaves the dead recognisable.
    for suffix in (MAIL, PULSE, PRESENCE):
        with suppress(OSError):
            os.unlink(home.within(address + suffix))
    return True


def tidy(home: Home, keep: Container[str], limit: int = 100) -> int:
    """Bury the dead whom no session names any more, such as clients killed before their first step. Never raises.

    Args:
        home: whose folder.
        keep: the addresses of all sessions, dead or alive; theirs are left to the steps.
        limit: how many presence files to probe at most.

    Returns:
        How many were buried.
    """
    try:
        names = os.listdir(home.folder)
    except OSError:
        return 0
    found = [name[: -len(PRESENCE)] for name in names if name.endswith(PRESENCE)]
    return sum(bury(home, address) for address in [a for a in found if a not in keep][:limit])


def connect(home: Home, address: str) -> _socket.socket | Silence:
    """Connect to a client's pulse, without waiting; the connection becomes readable when that client ends.

    Never raises. Takes about 7 µs.
    """
    path = home.reach(address + PULSE) if _ADDRESS.fullmatch(address) else None
    if path is None:
        return Silence.NOBODY
    try:
        sock = nonblocking(_socket.SOCK_STREAM)
    except OSError:
        return Silence.CROWDED
    try:
        sock.connect(os.fsencode(path))
    except BlockingIOError:
        silence = Silence.CROWDED
    except OSError:
        silence = Silence.NOBODY
    else:
        return sock
    sock.close()
    return silence


class Sender:
    """Sends messages to mailboxes, from any thread."""

    __slots__ = ("_home", "_paths", "_socket")

    def __init__(self, home: Home) -> None:
        self._home = home
        self._paths: dict[str, str] = {}
        self._socket = nonblocking(_socket.SOCK_DGRAM)

    def send(self, address: str, message: Message) -> bool:
        """Send a message once the step that made it is committed; False if it was not taken. Never waits or raises."""
        path = self._paths.get(address)
        if path is None:
            path = _mail_path(self._home, address)
            if path is None:
                return False
            if len(self._paths) >= _PATHS_MAX:
                self._paths.clear()
            self._paths[address] = path
        try:
            self._socket.sendto(encode(message), path)
        except (OSError, UnicodeError):
            return False
        return True

    def close(self) -> None:
        """Close the socket; sending then answers False."""
        with suppress(OSError):
            self._socket.close()


def _mail_path(home: Home, address: str) -> str | None:
    return home.reach(address + MAIL) if _ADDRESS.fullmatch(address) else None


_endpoints: weakref.WeakSet[Endpoint] = weakref.WeakSet()


def _after_fork() -> None:
    for endpoint in list(_endpoints):
        endpoint.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
