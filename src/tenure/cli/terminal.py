"""The controlling terminal: who is in its foreground, and stopping as a job does.

Promises: the foreground is given away only while it is ours, and taken back only from whom it was given to; without a
terminal every method does nothing. Does not restore terminal modes: shells do.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

_STOPPED_BY_TERMINAL = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


class Terminal:
    """This process's controlling terminal, if it has one."""

    def __init__(self) -> None:
        try:
            self._descriptor = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError:
            self._descriptor = -1

    @property
    def exists(self) -> bool:
        """Whether there is a controlling terminal."""
        return self._descriptor >= 0

    @property
    def is_ours(self) -> bool:
        """Whether this process's group is in the foreground."""
        return self._foreground() == os.getpgrp()

    def wants_foreground(self) -> bool:
        """Whether a command should get the foreground at its start.

        Not when its input or output is a pipe: `tenure run NAME -- job | less` would take the terminal from less.
        Such a command gets it when it asks (SIGTTIN, SIGTTOU).
        """
        return self.is_ours and os.isatty(0) and os.isatty(1)

    def give(self, group: int) -> None:
        """Put a group into the foreground, if it is ours to give."""
        if self.is_ours:
            self._set_foreground(group)

    def take_back(self, group: int) -> None:
        """Put this process's group into the foreground, if `group` is there (dead or alive)."""
        if self._foreground() == group:
            self._set_foreground(os.getpgrp())

    def stop_with(self, number: int) -> bool:
        """Stop this process's whole job, as the terminal would have; return when it is continued.

        Returns:
            False if nothing was done, because the signal does not come from a terminal or there is none.
        """
        if not self.exists or number not in _STOPPED_BY_TERMINAL:
            return False
        # The terminal stopped only the command's group. The rest of our job (a script around us) must stop too, or the
        # user's shell would not notice. The group first, while we ignore it; then this very thread, so that the stop
        # happens in this call and not a moment later. SIGTSTP and not SIGSTOP: where no shell could ever continue us
        # (an orphaned group) the kernel discards it.
        before = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        try:
            os.killpg(os.getpgrp(), signal.SIGTSTP)
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            signal.pthread_kill(threading.get_ident(), signal.SIGTSTP)
        finally:
            signal.signal(signal.SIGTSTP, before)
        return True

    def close(self) -> None:
        """Close the descriptor."""
        if self.exists:
            os.close(self._descriptor)
            self._descriptor = -1

    def _foreground(self) -> int:
        try:
            return os.tcgetpgrp(self._descriptor) if self.exists else -1
        except OSError:
            return -1

    def _set_foreground(self, group: int) -> None:
        # From the background, tcsetpgrp would stop us with SIGTTOU; blocked, the kernel lets it pass.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            with suppress(OSError):
                os.tcsetpgrp(self._descriptor, group)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
