"""Server programs for tests: each in a folder and on loopback ports of its own, and gone when the test run is.

Promised: a server that a test started ends with its `with` block, with the interpreter, and with the test process
however that dies. Only processes that were started here are signalled, by pid.

Not promised: that a crash loses what the kernel still holds. SIGKILL keeps the page cache; only power loss drops it.

Linux only: it rests on setpriv's `--pdeathsig`, on /proc and on how Linux shares a bound port.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

HOST = "127.0.0.1"

PATIENCE = float(os.environ.get("TENURE_TESTS_PATIENCE", "60"))
"""Seconds to wait for what must happen soon; only a failing test waits that long."""

STARTING = 60.0
"""Seconds in which a server starts; some begin with a virtual machine, on a host that has other things to do."""

GUARD = 'trap "" XFSZ; [ "$PPID" = "$0" ] && exec "$@"'
"""Shell: become the server, unless the test process died before the kernel was told to kill us with it.

A file that may not grow (RLIMIT_FSIZE, which is how a test fills a disk) is an error of write(2), and not a death."""


class ServerFailed(Exception):
    """A server did not start, or not end; its log's last lines are in the message."""


def until(happened: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Poll until something is true, and return it; a server that does not answer yet (`OSError`) is not true yet."""
    end = time.monotonic() + seconds
    while True:
        error: OSError | None = None
        try:
            if result := happened():
                return result
        except OSError as caught:
            error = caught
        assert time.monotonic() < end, f"did not happen within {seconds:g} s: {what} ({error})"
        time.sleep(0.002)


def reserve_port() -> socket.socket:
    """A socket that is bound and never listens: its port is ours, server up or down, until it is closed.

    A port that was only looked up can be taken before the server binds it. Worse, it can be taken while the server is
    down: a client that keeps connecting to a free port of the ephemeral range will be given that very port to connect
    from, and then talks to itself (TCP's simultaneous open). Linux never hands out a port that is bound, and still
    lets a server bind it, since both sockets say SO_REUSEADDR and this one does not listen.
    """
    holder = socket.socket()
    try:
        holder.bind((HOST, 0))
        # Only now: with it, the kernel may choose a port that another holder has.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except BaseException:
        holder.close()
        raise
    return holder


def port_of(holder: socket.socket) -> int:
    port: int = holder.getsockname()[1]
    return port


@functools.cache
def missing() -> str | None:
    """Why no server can be started on this host, or None."""
    if sys.platform != "linux":
        return "servers are started on Linux only"
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return "setpriv is not installed (Debian: util-linux)"
    told = subprocess.run([setpriv, "--help"], capture_output=True, text=True, check=False, timeout=PATIENCE)
    # Busybox has a setpriv of its own, without it.
    return None if "--pdeathsig" in told.stdout else "this setpriv knows no --pdeathsig"


class Server(ABC):
    """One server program: made with its folder and ports, started by `with` or `start`, thrown away by `close`.

    A subclass writes its configuration in `__init__`, and says `command` and `is_ready`. A restart finds the same
    folder and ports. Ready or not, a server that ends by itself while it starts is an error at once.

    Attributes:
        folder: a private temporary folder; the server's working directory.
        log_path: what the server printed, of all its starts.
    """

    shut_signal = signal.SIGTERM
    """What asks it to end in good order."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        # Short, as a Unix socket's path may have 107 bytes; pytest's own folders are longer.
        self.folder = tempfile.mkdtemp(prefix=f"tenure-{kind}-")
        self.log_path = os.path.join(self.folder, "log")
        self._maker = os.getpid()
        self._ports: list[socket.socket] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False
        _servers.add(self)

    @abstractmethod
    def command(self) -> list[str]:
        """The program and its arguments; it must stay in the foreground."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it serves; `OSError` means no."""

    def environment(self) -> dict[str, str]:
        """The server's whole environment."""
        return {**os.environ, "LC_ALL": "C.UTF-8"}

    def new_port(self) -> int:
        """A loopback port that is this server's until `close`."""
        holder = reserve_port()
        self._ports.append(holder)
        return port_of(holder)

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.kind} was not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process lives; a stopped one does."""
        return self._process is not None and self._process.poll() is None

    @property
    def is_up(self) -> bool:
        """Whether it runs and was not stopped here: whether it can be asked."""
        return self.is_running and not self._is_stopped

    def start(self) -> None:
        """Start it and wait until it serves.

        Raises:
            ServerFailed: it ended or was not ready in time; it does not run.
        """
        self.spawn()
        self.wait_ready()

    def spawn(self) -> None:
        """Start it without waiting, so that several come up side by side."""
        # The kernel's "parent" is a thread: started from another one, the server would die with that thread.
        assert threading.current_thread() is threading.main_thread(), "start servers from the main thread"
        assert not self.is_running, f"{self.kind} runs already"
        wrapped = ["setpriv", "--pdeathsig", "KILL", "/bin/sh", "-c", GUARD, str(os.getpid()), *self.command()]
        with open(self.log_path, "ab") as log:
            # A session of its own: the Ctrl-C that ends pytest must not end the server before its test.
            self._process = subprocess.Popen(
                wrapped,
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Wait until it serves; raises as `start` does."""
        assert self._process is not None
        end = time.monotonic() + STARTING
        while True:
            with suppress(OSError):
                if self.is_ready():
                    return
            if (status := self._process.poll()) is not None:
                raise self._failed(f"ended with status {status} while it started")
            if time.monotonic() > end:
                self.kill()
                raise self._failed(f"was not ready within {STARTING:g} s")
            time.sleep(0.002)

    def stop(self) -> None:
        """Stop it with all that it started (SIGSTOP), and return when all stand still.

        Connections stay open and even new ones are accepted, by the kernel; nothing is answered.
        """
        assert self.is_running
        self._freeze()
        # /proc speaks of the first thread; this waits for them all.
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)
        self._is_stopped = True

    def cont(self) -> None:
        """Let it go on (SIGCONT)."""
        assert self.is_running
        self._signal([pid for pid, _ in self._family()], signal.SIGCONT)
        self._is_stopped = False

    def kill(self) -> None:
        """Kill it with all that it started (SIGKILL); also when it is stopped. It may have ended before."""
        if self._process is not None and self.is_running:
            # A stopped parent starts nothing and reaps nobody: no pid changes hands between the look and the signal.
            self._freeze()
            self._signal([pid for pid, _ in self._family()], signal.SIGKILL)
            self._process.wait()
        self._is_stopped = False

    def shut(self) -> None:
        """Ask it to end in good order, and wait until it has.

        Raises:
            ServerFailed: it did not; it is killed.
        """
        # A pid that was waited for may be anybody's by now: signal none but a running one.
        assert self._process is not None
        assert self.is_running
        self.cont()
        self._signal([self.pid], self.shut_signal)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self._failed(f"did not end within {PATIENCE:g} s") from None

    def restart(self) -> None:
        """Kill it if it runs, and start it on the same ports and folder."""
        self.kill()
        self.start()

    def log(self) -> str:
        """All that it printed."""
        return Path(self.log_path).read_text("utf-8", errors="replace")

    def close(self) -> None:
        """Kill it, and give back its ports and its folder."""
        # A forked child has copies of all this, and must not end its parent's server.
        if os.getpid() == self._maker:
            self.kill()
            shutil.rmtree(self.folder, ignore_errors=True)
        for holder in self._ports:
            holder.close()
        _servers.discard(self)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _failed(self, what: str) -> ServerFailed:
        tail = "\n".join(self.log().splitlines()[-20:])
        return ServerFailed(f"{self.kind} {what}; its log ends:\n{tail}")

    def _freeze(self) -> None:
        # Again and again, as one that was not reached yet may still have started another.
        while moving := [pid for pid, state in self._family() if state not in "TtZX"]:
            self._signal(moving, signal.SIGSTOP)

    def _signal(self, pids: list[int], number: int) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _family(self) -> list[tuple[int, str]]:
        """The server and all that descend from it, with their states; PostgreSQL's backends leave the group."""
        states: dict[int, str] = {}
        children: defaultdict[int, list[int]] = defaultdict(list)
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with suppress(FileNotFoundError, ProcessLookupError):
                stat = Path("/proc", entry, "stat").read_text(errors="replace")
                # The program's name stands before, and may hold anything.
                state, parent = stat.rpartition(")")[2].split()[:2]
                states[int(entry)] = state
                children[int(parent)].append(int(entry))
        family = [self.pid]
        for pid in family:
            family += children[pid]
        return [(pid, states[pid]) for pid in family if pid in states]


class Group(ABC):
    """Servers that start side by side and end together."""

    def __init__(self) -> None:
        self._members: list[Server] = []

    def start_all(self, members: Sequence[Server]) -> None:
        """Start servers that end with the group, and wait until each is ready."""
        for member in members:
            self._members.append(member)
            member.spawn()
        for member in members:
            member.wait_ready()

    @abstractmethod
    def set_up(self) -> None:
        """Start the servers, and wait until they serve as one."""

    def close(self) -> None:
        """Kill them all."""
        with ExitStack() as stack:
            for member in self._members:
                stack.callback(member.close)

    def __enter__(self) -> Self:
        try:
            self.set_up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_servers: set[Server] = set()
"""All that were not closed yet."""


@atexit.register
def _close_all() -> None:
    for server in list(_servers):
        server.close()
