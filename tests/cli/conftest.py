"""Real processes for the tests of the command line: started here, seen by pid, and all ended here."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PATIENCE = 60.0
"""How long a test waits for what must happen soon; only a failing test waits that long."""


def until(happened: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Poll until something is true, and return it; fail the test if it never is."""
    end = time.monotonic() + seconds
    while not (result := happened()):
        assert time.monotonic() < end, f"did not happen within {seconds:g} s: {what}"
        time.sleep(0.005)
    return result


def is_alive(pid: int) -> bool:
    """Whether a process runs or is stopped; a zombie is dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


class Cli:
    """Starts `tenure` with a marked environment, so that everything it leaves behind can be found."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.mark = f"mark-{uuid.uuid4().hex}"
        self.url = url
        self.running: list[subprocess.Popen[str]] = []

    def environment(self, **more: str) -> dict[str, str]:
        plain = {key: value for key, value in os.environ.items() if not key.startswith(("TENURE_", "NO_COLOR"))}
        url = {"TENURE_URL": self.url} if self.url else {}
        # A home of its own: the fallback of the command line must not touch the developer's locks.
        homes = {key: str(self.folder) for key in ("HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_DATA_HOME")}
        return {**plain, **homes, **url, "CLI_TEST_MARK": self.mark, **more}

    def start(self, *words: str, env: dict[str, str] | None = None, **named: Any) -> subprocess.Popen[str]:
        """Start `tenure WORDS` in a session of its own, its output piped."""
        return self.start_program([sys.executable, "-m", "tenure", *words], env=env, **named)

    def start_program(
        self,
        command: Sequence[str],
        env: dict[str, str] | None = None,
        *,
        bare: dict[str, str] | None = None,
        **named: Any,
    ) -> subprocess.Popen[str]:
        """Start any program in the same way; `bare` is its whole environment."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(
            command,
            env=self.environment(**(env or {})) if bare is None else bare,
            cwd=self.folder,
            text=True,
            start_new_session=True,
            **{**streams, **named},
        )
        self.running.append(process)
        return process

    def __call__(self, *words: str, **named: Any) -> subprocess.CompletedProcess[str]:
        """Run `tenure WORDS` to its end."""
        process = self.start(*words, **named)
        out, err = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def marked(self) -> list[int]:
        """Living processes that descend from what was started here."""
        wanted = f"CLI_TEST_MARK={self.mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if wanted in (entry / "environ").read_bytes() and is_alive(int(entry.name)):
                        found.append(int(entry.name))
        return found

    def end_all(self) -> None:
        """Kill what is left: only processes that carry this test's mark, each by its pid."""
        for _ in range(50):
            left = self.marked()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
                    os.kill(pid, signal.SIGKILL)
            if not left:
                break
            time.sleep(0.02)
        for process in self.running:
            process.wait(PATIENCE)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


def events(text: str) -> list[dict[str, Any]]:
    """The events of --json."""
    return [json.loads(line) for line in text.splitlines()]


def lines(path: Path) -> list[str]:
    """The complete lines of a file that is being written, none if it is not there yet."""
    try:
        return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    except FileNotFoundError:
        return []


def words(path: Path) -> list[str]:
    """The complete lines of a file, stripped."""
    return [line.strip() for line in lines(path)]


def pid_in(path: Path) -> int:
    """The pid that a command has written, as soon as it has."""
    return int(until(lambda: words(path), f"a pid in {path.name}")[0])


def status(process: subprocess.Popen[str], seconds: float = PATIENCE) -> int:
    """The exit status, which must come within some seconds."""
    return process.wait(seconds)


def sh(*script: str) -> Sequence[str]:
    """The words of a shell command."""
    return ("--", "sh", "-c", "\n".join(script))


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Cli]:
    """`tenure` where nobody else asks for a name."""
    cli = Cli(tmp_path, f"sqlite:///{tmp_path}/alone.db")
    yield cli
    cli.end_all()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Cli]:
    """`tenure` with an engine that several processes share."""
    cli = Cli(tmp_path, f"sqlite:///{tmp_path}/locks.db")
    yield cli
    cli.end_all()
