"""The exit statuses of the command line, and which error gives which.

They are the numbers of sysexits(3), and 79 for a lost lease: just above sysexits' range and below the shell's
124-127, so it collides with nothing. A command's own status passes through unchanged.
"""

from __future__ import annotations

from typing import Final

USAGE: Final = 64
UNAVAILABLE: Final = 69
INTERNAL: Final = 70
BUSY: Final = 75
CONFIG: Final = 78
LOST: Final = 79
CANNOT_EXECUTE: Final = 126
NOT_FOUND: Final = 127
SIGNAL_BASE: Final = 128


def status_of(error: Exception) -> int:
    """Return the exit status that tells a script what an error of the library means."""
    from tenure import errors

    if isinstance(error, errors.AcquireTimeout):
        return BUSY
    if isinstance(error, errors.Overtaken):
        return LOST
    if isinstance(error, errors.UsageError):
        return USAGE
    if isinstance(error, (errors.SetupError, ImportError)):
        # An ImportError is an engine whose extra is not installed: asking again without a change cannot help.
        return CONFIG
    if isinstance(error, errors.TenureError):
        return UNAVAILABLE
    return INTERNAL
