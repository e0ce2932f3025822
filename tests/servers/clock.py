"""The clocks of a running server, moved by a test; `clock.c` is preloaded into the server.

It reaches programs that ask the C library: Redis, PostgreSQL, the JVM. Go asks the kernel past it, so etcd is out of
reach. What the server waits for inside the kernel (sleeps, timeouts of epoll) goes on in true time.
"""

from __future__ import annotations

import atexit
import functools
import mmap
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.servers.processes import PATIENCE

SOURCE = Path(__file__).with_name("clock.c")
WALL, STEADY = 0, 1
SIZE = 16


@functools.cache
def missing() -> str | None:
    """Why no clock can be moved on this host, or None."""
    if shutil.which("cc") is None:
        return "cc is not installed (Debian: gcc libc6-dev)"
    # A compiler without the C library's headers is a usual sight in a container.
    probe = ["cc", "-fsyntax-only", str(SOURCE)]
    told = subprocess.run(probe, capture_output=True, text=True, check=False, timeout=PATIENCE)
    return None if told.returncode == 0 else f"cc does not compile clock.c: {told.stderr[:200]}"


@functools.cache
def _shim() -> str:
    """Compile it, once a run."""
    folder = tempfile.mkdtemp(prefix="tenure-clock-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = os.path.join(folder, "clock.so")
    warnings = ["-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", *warnings, "-o", path, str(SOURCE)], check=True, timeout=PATIENCE)
    return path


class Clock:
    """What a server is told of the time: the truth plus what was jumped. It survives the server's restart."""

    def __init__(self, path: str) -> None:
        self.path = path
        Path(path).write_bytes(bytes(SIZE))
        with open(path, "r+b") as file:
            self._page = mmap.mmap(file.fileno(), SIZE)
        # Numbers, not bytes: each is stored at one stroke, so that the server never reads half of one.
        self._offsets_ns = memoryview(self._page).cast("q")

    def environment(self) -> dict[str, str]:
        """What the server's environment must say."""
        return {"LD_PRELOAD": _shim(), "TEST_CLOCK": self.path}

    @property
    def ahead(self) -> float:
        """By how many seconds its wall clock is ahead of ours."""
        return self._offsets_ns[WALL] / 1e9

    def jump(self, seconds: float) -> None:
        """Step the wall clock by so much, either way, from the next look on."""
        self._offsets_ns[WALL] += round(seconds * 1e9)

    def skip(self, seconds: float) -> None:
        """Let the monotonic and boot-time clocks leap forward, as if the server had been away for so long."""
        assert seconds >= 0, "a monotonic clock never goes back"
        self._offsets_ns[STEADY] += round(seconds * 1e9)

    def close(self) -> None:
        self._offsets_ns.release()
        self._page.close()
