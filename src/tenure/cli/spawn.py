"""Fork a command behind a gate, before the process has threads, and start it when the gate opens.

Promises: the command's process is the leader of a group of its own. It starts only after `Child.open`; if the wrapper
dies before, it sees the end of the gate and exits. If the wrapper dies later, by `kill -9` too, the whole group is
killed: the leader by the kernel (Linux), every other member by the guard, a tiny process that only waits for the end
of its pipe. Why an exec failed comes back through the gate, so that 126 and 127 are exact.

Does not promise: anything about a process that leaves the group (`setsid`), or about a set-user-ID command, which the
wrapper may not signal.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import stat
import struct
import sys
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from tenure.cli.exits import CANNOT_EXECUTE, NOT_FOUND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_LENGTH: Final = struct.Struct("!I")
_FAILURE: Final = struct.Struct("!ii")
_DESCRIPTORS_MAX: Final = 64
_DESCRIPTOR_LOW: Final = 200
"""Scripts say `exec 3>log`: a presence descriptor at 3 would be overwritten, so it is moved up here."""

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


class ExecFailure(NamedTuple):
    """Why the command could not be started."""

    status: int
    error: int


class Child:
    """The process that is, or will be, the command.

    Attributes:
        pid: its process id, and the id of its group.
        started: whether exec has happened, as far as `look` has seen.
        failure: why exec failed, once `look` has seen it.
    """

    def __init__(self, pid: int, gate: socket.socket, guard: int, pipe: int) -> None:
        self.pid = pid
        self.started = False
        self.failure: ExecFailure | None = None
        self._gate: socket.socket | None = gate
        self._guard = guard
        self._pipe = pipe
        self._opened = False

    def open(self, environment: Mapping[str, str], descriptors: Sequence[int]) -> None:
        """Let the command start, with these additions to its environment and these descriptors inherited.

        A child that is dead already is no error here: waiting for it tells its status.
        """
        gate = self._gate
        if gate is None:
            return
        self._opened = True
        body = b"\0".join(os.fsencode(f"{key}={value}") for key, value in environment.items())
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(gate, [_LENGTH.pack(len(body)) + body], list(descriptors))
            gate.shutdown(socket.SHUT_WR)

    def fileno(self) -> int:
        """The gate's descriptor, readable once exec has happened or failed; -1 after that."""
        return -1 if self._gate is None else self._gate.fileno()

    def look(self) -> None:
        """Read what came back through the gate; it is readable, so this does not wait."""
        if self._gate is None:
            return
        try:
            answer = self._gate.recv(_FAILURE.size)
        except ConnectionResetError:
            answer = b""
        if len(answer) == _FAILURE.size:
            self.failure = ExecFailure(*_FAILURE.unpack(answer))
        else:
            # End of file: the gate closed on exec, or with the process; both are past the start.
            self.started = True
        self._gate.close()
        self._gate = None

    def dismiss(self) -> None:
        """Close the gate, send the guard home and reap both; harmless if they are gone.

        Call it when the group is gone or was never started: the guard kills nobody after this.
        """
        if self._gate is not None:
            self._gate.close()
            self._gate = None
        if self._pipe >= 0:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._pipe, b".")
            os.close(self._pipe)
            self._pipe = -1
        if not self._opened:
            # It ends by itself, unless somebody has stopped it. Nobody has reaped it, so the pid is still its own.
            os.kill(self.pid, signal.SIGKILL)
        for pid in (self.pid, self._guard):
            # ChildProcessError: the supervisor has reaped it.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def become_subreaper() -> None:
    """Have orphaned grandchildren re-parented to this process, so that it can reap them (Linux; else nothing)."""
    prctl = _prctl()
    if prctl is not None:
        prctl(_PR_SET_CHILD_SUBREAPER, 1)


def spawn(command: Sequence[str]) -> Child:
    """Fork the command's process and its guard. Call it from the main thread, before any other thread exists.

    Raises:
        OSError: a process or descriptor could not be made; nothing is left behind.
    """
    # Loaded before the fork: between fork and exec the child does as little as it can.
    prctl = _prctl()
    ours, theirs = socket.socketpair()
    wrapper = os.getpid()
    # A signal between fork and the child's first lines would run the wrapper's handlers in the child.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            ours.close()
            _be_child(command, theirs, mask, wrapper, prctl)
        theirs.close()
        with contextlib.suppress(OSError):
            # Also done by the child; whoever is first, the group exists before anyone signals it.
            os.setpgid(pid, pid)
        guard, pipe = _start_guard(pid)
        return Child(pid, ours, guard, pipe)
    except OSError:
        # Closing the gate ends the child, if there is one.
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _prctl() -> Callable[[int, int], object] | None:
    if sys.platform != "linux":
        return None
    try:
        import ctypes

        function = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None

    def prctl(option: int, value: int) -> object:
        # Variadic in C and read as unsigned longs: a plain int would leave the upper half undefined.
        return function(option, *(ctypes.c_ulong(argument) for argument in (value, 0, 0, 0)))

    return prctl


def _start_guard(group: int) -> tuple[int, int]:
    """Fork the process that kills the group when the wrapper is no more; return its pid and the pipe to it."""
    reading, writing = os.pipe()
    try:
        pid = os.fork()
    except OSError:
        os.close(reading)
        os.close(writing)
        raise
    if pid == 0:
        _be_guard(group, reading)
    os.close(reading)
    return pid, writing


def _be_guard(group: int, pipe: int) -> NoReturn:
    """Wait for the wrapper's word or its end. PDEATHSIG is not inherited by grandchildren; this reaches them."""
    try:
        # All signals are still blocked here, and stay so: whoever stops the job must not disarm its guard.
        os.setsid()
        # It must hold nothing open: neither the gate nor the other end of somebody's pipeline.
        os.closerange(0, pipe)
        os.closerange(pipe + 1, os.sysconf("SC_OPEN_MAX"))
        if not os.read(pipe, 1):
            os.killpg(group, signal.SIGKILL)
    finally:
        os._exit(0)


def _be_child(
    command: Sequence[str],
    gate: socket.socket,
    mask: set[int | signal.Signals],
    wrapper: int,
    prctl: Callable[[int, int], object] | None,
) -> NoReturn:
    """Wait at the gate, then become the command. Never returns and never raises."""
    status = CANNOT_EXECUTE
    try:
        os.setpgid(0, 0)
        _reset_signals(mask)
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == wrapper:
            # Asked after prctl: a wrapper that died before it would never be noticed by the kernel.
            environment, descriptors = _wait_at(gate)
            _undo_coercion()
            os.environb.update(environment)
            for descriptor in descriptors:
                _pass_on(descriptor)
            failure = _execute(command)
            status = failure.status
            gate.sendall(_FAILURE.pack(*failure))
    except EOFError:
        # The wrapper closed the gate or died: the command never starts and nothing is to be said.
        status = 0
    finally:
        os._exit(status)


def _reset_signals(mask: set[int | signal.Signals]) -> None:
    """Give the command the signals that the wrapper was started with; what was ignored (nohup) stays ignored."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    # Python ignores these two for itself; `yes | head` in the command needs them.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _undo_coercion() -> None:
    """Take back what Python did to the environment at its own start: under cron it sets LC_CTYPE (PEP 538)."""
    if "LC_CTYPE" not in os.environ:
        return
    # The kernel keeps the environment as it was given to this program; elsewhere than on Linux nothing tells.
    with contextlib.suppress(OSError), open("/proc/self/environ", "rb") as file:
        if not any(item.startswith(b"LC_CTYPE=") for item in file.read().split(b"\0")):
            del os.environ["LC_CTYPE"]


def _wait_at(gate: socket.socket) -> tuple[dict[bytes, bytes], list[int]]:
    data, descriptors, _, _ = socket.recv_fds(gate, 1 << 16, _DESCRIPTORS_MAX)
    while len(data) < _LENGTH.size or len(data) < _LENGTH.size + _LENGTH.unpack_from(data)[0]:
        more = gate.recv(1 << 16)
        if not more:
            raise EOFError
        data += more
    pairs = (item.partition(b"=") for item in data[_LENGTH.size :].split(b"\0") if item)
    return {key: value for key, _, value in pairs}, descriptors


def _pass_on(descriptor: int) -> None:
    """Make a descriptor survive exec, at a number that scripts do not use."""
    try:
        # F_DUPFD gives a duplicate without the close-on-exec flag.
        fcntl.fcntl(descriptor, fcntl.F_DUPFD, _DESCRIPTOR_LOW)
    except OSError:
        os.set_inheritable(descriptor, True)
    else:
        os.close(descriptor)


def _execute(command: Sequence[str]) -> ExecFailure:
    """Become the command as a shell would; return only if that fails."""
    failure = ExecFailure(NOT_FOUND, errno.ENOENT)
    for path in _candidates(command[0]):
        try:
            os.execv(path, [*command])
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                # A script without a first line: a shell runs it itself.
                with contextlib.suppress(OSError):
                    os.execv("/bin/sh", ["sh", path, *command[1:]])
            if os.path.lexists(path):
                # Found, but not to be run; a missing interpreter (ENOENT) is that too.
                failure = ExecFailure(CANNOT_EXECUTE, error.errno or errno.EACCES)
        except ValueError:
            # An empty name.
            break
    return failure


def _candidates(file: str) -> Iterator[str]:
    if "/" in file:
        yield file
        return
    for folder in os.get_exec_path() if file else ():
        path = os.path.join(folder or ".", file)
        try:
            is_folder = stat.S_ISDIR(os.stat(path).st_mode)
        except OSError:
            is_folder = False
        # As in a shell, a folder on PATH is passed over and does not hide "not found".
        if not is_folder:
            yield path
