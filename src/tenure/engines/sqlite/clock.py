"""The clock that all clients of one SQLite file share: boot time, and which boot it counts from.

Promises: readings of two processes on one kernel and in one time namespace can be compared.
Does not promise: that they can be compared across boots, hosts or time namespaces; `clock_id` tells these apart.
A container manager may give its containers boot ids of their own (systemd-nspawn and LXD do), so "another boot" alone
is no proof of death where the presence file is still held.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_GUESSED: Final = "~"
_GUESS_SLACK_S: Final = 3600


boot_ns: Final[Callable[[], int]] = functools.partial(time.clock_gettime_ns, _CLOCK)
"""Read the boot-time clock, in nanoseconds. It runs on through suspend and nobody can set it."""


def boot_us() -> int:
    """As `boot_ns`, in microseconds."""
    return boot_ns() // 1000


@functools.cache
def clock_id() -> str:
    """Name the clock that `boot_us` reads: `BOOT/NAMESPACE`, read once per process.

    Linux: the kernel's boot id and the inode of the time namespace (0 where the kernel has none). macOS: the boot
    session's UUID. Elsewhere the second of the boot by the wall clock, marked with `~` as the guess that it is.
    """
    return f"{_boot()}/{_namespace()}"


def same_boot(a: str, b: str) -> bool:
    """Tell whether two clock ids are of one boot. Guessed ids an hour apart or less count as the same.

    The danger is in saying "another boot", for that means "dead": a wall clock that was set must not bury the living.
    """
    boot_a, boot_b = a.partition("/")[0], b.partition("/")[0]
    if boot_a.startswith(_GUESSED) and boot_b.startswith(_GUESSED):
        try:
            return abs(int(boot_a[1:]) - int(boot_b[1:])) <= _GUESS_SLACK_S
        except ValueError:
            return False
    return boot_a == boot_b


def same_namespace(a: str, b: str) -> bool:
    """Tell whether two clock ids of one boot read the same clock."""
    return a.partition("/")[2] == b.partition("/")[2]


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return (_boot_session() if sys.platform == "darwin" else "") or _guess()


def _boot_session() -> str:
    import subprocess

    try:
        answer = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def _guess() -> str:
    return f"{_GUESSED}{int(time.time()) - boot_us() // 1_000_000}"


def _namespace() -> int:
    try:
        return os.stat("/proc/self/ns/time").st_ino
    except OSError:
        return 0
