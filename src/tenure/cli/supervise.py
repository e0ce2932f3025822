"""Run a command's process group while something is held, and end the whole group before it is not.

Promises: nothing of the group runs when `Supervisor.run` returns. The group is ended at `stop_margin` before the
deadline by this machine's boot-time clock, which runs on through suspend, or as soon as a loss is known: TERM, then
after the grace, but never later than the deadline, KILL. Past the deadline there is no grace: a group that was stopped
over its deadline is killed before it is continued.

Does not promise: anything while this process itself is stopped; then the command runs on past its lease, and only a
fence refuses what it writes. Nor anything about processes that left the group.

This module knows nothing of tenure; it needs the main thread, for signals.
"""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from tenure.cli.exits import SIGNAL_BASE

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Self

    from tenure.cli.spawn import Child, ExecFailure
    from tenure.cli.terminal import Terminal

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that end the waiting for a name."""

FORWARDED: Final = (*ENDING, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCONT)
"""Signals that are passed to the command's group."""

_WATCH_SECONDS: Final = 1.0
"""Timers sleep through suspend; nothing here sleeps longer than this without asking the clock."""
_POLL_SECONDS_MIN: Final = 0.001
_POLL_SECONDS_MAX: Final = 0.05
_REPEAT_SECONDS: Final = 1.0


class Watched(Protocol):
    """What must be held while the command runs: a lease, or a test's stand-in."""

    @property
    def lost(self) -> object | None:
        """Why it is lost, or None."""
        ...

    def remaining(self) -> float:
        """Seconds until its deadline, by this machine's clock."""
        ...


class Limits(NamedTuple):
    """When the group is stopped, in seconds.

    Attributes:
        stop_margin: how long before the deadline the group is told to stop.
        grace: how long it may take after SIGTERM, before SIGKILL.
    """

    stop_margin: float
    grace: float


class Outcome(NamedTuple):
    """How the command ended.

    Attributes:
        status: its exit status, as a shell gives it: 128+N if signal N killed it.
        signal: the signal that killed it, or 0.
        stopped: whether it was stopped because its time was over or its lease lost.
        failure: why it could not be started, or None.
    """

    status: int
    signal: int
    stopped: bool
    failure: ExecFailure | None


class Interrupted(BaseException):
    """A signal came while the name was waited for. Like KeyboardInterrupt, no `except Exception` catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def clock() -> float:
    """Seconds of the boot-time clock, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Signals:
    """Catches signals and wakes the main thread for each; as a context manager, puts everything back.

    At first a signal of ENDING raises `Interrupted` in the main thread, once. After `collect` all are only collected.
    """

    def __init__(self) -> None:
        self.pending: list[int] = []
        self._collecting = False
        self._interrupted_at: float | None = None
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        self._wakeup_before = -1

    def __enter__(self) -> Self:
        self._wakeup_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in (*FORWARDED, signal.SIGCHLD):
            # What was ignored (nohup, a script's background job) stays ignored, here and in the command.
            # SIGCHLD is taken anyhow: ignored, the kernel would throw the command's status away.
            if number == signal.SIGCHLD or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._catch)
        return self

    def collect(self) -> None:
        """From now on there is a command: interrupt nothing, keep what comes for it.

        Also SIGTSTP, which reaches only the wrapper where the command is not in the foreground: obeying it alone
        would stop the renewals and leave the command running.
        """
        self._collecting = True
        if signal.getsignal(signal.SIGTSTP) is not signal.SIG_IGN:
            self._before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._catch)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._wakeup_before)
        reading, writing = self._reading, self._writing
        # Forgotten first: a late `poke` must not write into whatever gets the number next.
        self._reading = self._writing = -1
        os.close(reading)
        os.close(writing)

    def poke(self) -> None:
        """End the wait in progress, or the next one. Any thread may call it, also after the end."""
        with suppress(OSError):
            os.write(self._writing, b"\0")

    def wait(self, seconds: float, other: int) -> bool:
        """Sleep until a signal, a `poke`, the time, or until descriptor `other` (unless -1) can be read: then True."""
        reading = [self._reading] if other < 0 else [self._reading, other]
        ready, _, _ = select.select(reading, (), (), max(0.0, seconds))
        with suppress(BlockingIOError):
            os.read(self._reading, 4096)
        return other in ready

    def take(self) -> list[int]:
        """The signals that have come, in order."""
        taken = list(self.pending)
        # Not `clear`: a handler may append between these two lines.
        del self.pending[: len(taken)]
        return taken

    def _catch(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGCHLD:
            return
        if self._collecting:
            self.pending.append(number)
        elif number not in ENDING:
            # There is no command yet that could want it.
            return
        elif self._interrupted_at is None:
            # Once only, so that a doubled signal does not break the cleaning-up.
            self._interrupted_at = clock()
            raise Interrupted(number)
        elif clock() - self._interrupted_at > _REPEAT_SECONDS:
            # Asked again while the cleaning-up hangs. The kernel frees what it can; the ttl frees the rest.
            os._exit(SIGNAL_BASE + number)


class Supervisor:
    """Watches one command from the moment it may start until its group is gone."""

    def __init__(
        self,
        child: Child,
        watched: Watched,
        limits: Limits,
        signals: Signals,
        terminal: Terminal,
        on_stop: Callable[[], None],
    ) -> None:
        """Take a child at its gate; `on_stop` is called once, when the lease's end stops the group."""
        self._child = child
        self._watched = watched
        self._limits = limits
        self._signals = signals
        self._terminal = terminal
        self._on_stop = on_stop
        self._status: int | None = None
        self._stopped_by = 0
        self._lease_over = False
        self._deadline = clock()
        self._kill_at: float | None = None
        self._killed_at: float | None = None
        self._poll_seconds = _POLL_SECONDS_MIN

    def run(self, start: Callable[[], None]) -> Outcome:
        """Start the command, forward signals, stop what must stop; return or raise when the whole group is gone."""
        try:
            start()
            return self._watch()
        except BaseException:
            # Whatever went wrong here: what is held may be given back only when nobody works under it any more.
            while not self._is_gone():
                self._send(signal.SIGKILL)
                time.sleep(_POLL_SECONDS_MIN)
                self._reap()
            raise

    def _watch(self) -> Outcome:
        while True:
            self._reap()
            if self._is_gone():
                return self._outcome()
            # The lease before the signals: a SIGCONT must not wake a group whose time is over.
            self._judge()
            self._press()
            self._follow_stop()
            self._forward()
            if self._signals.wait(self._pause(), self._child.fileno()):
                self._child.look()

    def _outcome(self) -> Outcome:
        if self._child.fileno() >= 0:
            self._child.look()
        self._terminal.take_back(self._child.pid)
        raw = self._status or 0
        status, number = (SIGNAL_BASE - raw, -raw) if raw < 0 else (raw, 0)
        return Outcome(status, number, self._lease_over, self._child.failure)

    def _reap(self) -> None:
        """Take the status of the command and bury orphans that were re-parented to us."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._child.pid:
                if os.WIFSTOPPED(status):
                    self._stopped_by = os.WSTOPSIG(status)
                else:
                    self._status = os.waitstatus_to_exitcode(status)

    def _is_gone(self) -> bool:
        if self._status is None:
            return False
        try:
            os.killpg(self._child.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            # There is somebody, who may not be signalled (sudo): wait.
            return False
        # A dead member whose parent left the group and never asks for its status would keep the group for ever.
        return self._killed_at is not None and clock() - self._killed_at > 0.2 and _all_dead(self._child.pid)

    def _judge(self) -> None:
        """Begin to stop the group if its time is over, or if the command has left something behind."""
        now = clock()
        if not self._lease_over:
            remaining = self._watched.remaining()
            lost = self._watched.lost is not None
            if not lost:
                # A lost lease has nothing remaining, whatever the cause; the last good deadline tells how much grace
                # there is, since nobody else may hold the name before it unless the lease was taken away.
                self._deadline = now + remaining
            if lost or remaining <= self._limits.stop_margin:
                self._lease_over = True
                self._on_stop()
                self._stop(now)
        if self._status is not None and self._kill_at is None:
            self._stop(now)

    def _stop(self, now: float) -> None:
        """Tell the group to end; when it must have ended is never later than the deadline."""
        if self._kill_at is None and now < self._deadline:
            self._send(signal.SIGTERM)
            # A stopped process takes its TERM only when it is continued.
            self._send(signal.SIGCONT)
        kill_at = min(now + self._limits.grace, self._deadline)
        self._kill_at = kill_at if self._kill_at is None else min(self._kill_at, kill_at)
        self._poll_seconds = _POLL_SECONDS_MIN

    def _press(self) -> None:
        """Once the grace is over, kill; again at every look, until nobody is left."""
        if self._kill_at is None:
            return
        now = clock()
        if now >= min(self._kill_at, self._deadline):
            self._send(signal.SIGKILL)
            if self._killed_at is None:
                self._killed_at = now
                self._poll_seconds = _POLL_SECONDS_MIN

    def _follow_stop(self) -> None:
        """If the terminal stopped the command, stop too, so that the user's shell gets its prompt back."""
        number, self._stopped_by = self._stopped_by, 0
        if not number or self._kill_at is not None:
            return
        if number != signal.SIGTSTP and self._terminal.is_ours:
            # It was in the background and wants the terminal, which is ours to give.
            self._terminal.give(self._child.pid)
            self._send(signal.SIGCONT)
            return
        self._terminal.take_back(self._child.pid)
        if self._terminal.stop_with(number):
            # Continued, or not stopped at all where no shell could continue us: the command goes on with us. First the
            # lease is looked at again, since no renewal was sent in the meantime.
            self._signals.pending.append(signal.SIGCONT)
            self._signals.poke()
            self._judge()
            self._press()

    def _forward(self) -> None:
        for number in self._signals.take():
            if self._is_killed() or (number == signal.SIGTSTP and self._kill_at is not None):
                continue
            if number == signal.SIGCONT:
                # A signal may have come after the last look at the lease.
                self._judge()
                self._press()
                if not self._is_killed() and self._terminal.wants_foreground():
                    self._terminal.give(self._child.pid)
            self._send(number)

    def _is_killed(self) -> bool:
        return self._killed_at is not None

    def _pause(self) -> float:
        """How long nothing needs to be looked at."""
        now = clock()
        pause = _WATCH_SECONDS
        if not self._lease_over:
            pause = min(pause, self._watched.remaining() - self._limits.stop_margin)
        if self._kill_at is not None and self._killed_at is None:
            pause = min(pause, self._kill_at - now)
        if self._status is not None or self._killed_at is not None:
            # Nobody tells when the last member of a group that are not our children has died.
            pause = min(pause, self._poll_seconds)
            self._poll_seconds = min(2 * self._poll_seconds, _POLL_SECONDS_MAX)
        return pause

    def _send(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, number)


def _all_dead(group: int) -> bool:
    """Whether every member of a group is a zombie, as far as /proc tells."""
    try:
        processes = [entry for entry in os.listdir("/proc") if entry.isdigit()]
    except OSError:
        return False
    seen = False
    for process in processes:
        try:
            with open(f"/proc/{process}/stat", "rb") as file:
                # The second field is a name in parentheses that may contain anything, so count from its end.
                state, _, member_of, *_ = file.read().rpartition(b")")[2].split()
        except (OSError, ValueError):
            continue
        if int(member_of) == group:
            seen = True
            if state not in (b"Z", b"X"):
                return False
    return seen
