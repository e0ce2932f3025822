"""What tests of the embedded engine share: its steps without a client, and processes that are killed and stopped."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

import pytest

from tenure import errors
from tenure.engines.queue import NOBODY
from tenure.engines.sqlite.database import Database
from tenure.engines.sqlite.endpoint import Sender
from tenure.engines.sqlite.files import open_home
from tenure.model import EXCLUSIVE
from tenure.ports import ClaimRef, Closing, Entry, Place, SessionCard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

    from tenure.engines.queue import At, Steps
    from tenure.model import Mode

SRC = os.path.dirname(os.path.dirname(errors.__file__))

PATIENCE = float(os.environ.get("TENURE_TESTS_PATIENCE", "60"))
"""Seconds that a test waits for what must happen soon; only a failing test waits that long (and mutants fail them)."""

LONG = 60.0
"""A ttl that no test outlasts: whatever is noticed sooner was not noticed by it."""

PRELUDE = """
import faulthandler, os, sys, signal, threading, time
faulthandler.register(signal.SIGUSR2)
import tenure
from tenure.errors import *
path = sys.argv[1]
url = "sqlite://" + path
def say(*words):
    print(*words, flush=True)
def told():
    line = sys.stdin.readline()
    if not line:
        os._exit(0)
    return line.strip()
"""


BECOME = """
import tempfile
def become(uid, gid, extra):
    # Every module is imported before: the interpreter may lie where only root may look.
    with tempfile.TemporaryDirectory() as folder, tenure.Client(f"sqlite://{folder}/locks.db") as client:
        client.lock("n").acquire().release()
    os.setgroups(extra)
    os.setgid(gid)
    os.setuid(uid)
"""
"""After `PRELUDE`: turns a process of root's into one of another user."""


def skip_unless_others_get_to(folder: str) -> None:
    """Skip where no other user gets to a folder, as where `/` itself is root's alone."""
    enter = ["/bin/sh", "-c", 'cd "$1"', "sh", folder]
    try:
        entered = subprocess.run(enter, user=65534, group=65534, extra_groups=[], check=False, timeout=PATIENCE)
    except PermissionError:
        entered = None
    if entered is None or entered.returncode != 0:
        pytest.skip(f"no user but root gets to {folder} on this host")


class Store:
    """The engine's steps on a file, without a client."""

    def __init__(self, path: Path | str) -> None:
        self.home = open_home(str(path))
        self.sender = Sender(self.home)
        self.database = Database(self.home, self.sender)

    def do(self, step: Callable[[Steps, At], Any], timeout: float = 5.0) -> Any:
        return self.database.step(step, timeout)

    def enter(
        self,
        session: str,
        claim: int = 1,
        name: str = "n",
        *,
        ttl: float = 30.0,
        mode: Mode = EXCLUSIVE,
        delay: float = 0.0,
        at_once: bool = False,
        address: str = "",
        dead: frozenset[str] = NOBODY,
    ) -> Place:
        card = SessionCard(session, ttl, address, "", "host", 1)
        entry = Entry(card, True, False, claim, name, mode, delay, "", at_once, False)
        place: Place = self.do(lambda steps, at: steps.enter(at, entry, dead))
        return place

    def release(self, session: str, claim: int, number: int, name: str = "n") -> bool:
        ref = ClaimRef(session, claim, name, number)
        closing_ = Closing(ref, tombstone=False, clean=True, held=True, ttl=30.0)
        done: list[bool] = self.do(lambda steps, at: steps.close(at, [closing_]))
        return done[0]

    def cycle(self, name: str = "n", session: str = "cycle") -> int:
        """Enter and release; the number."""
        place = self.enter(session, 1, name)
        assert self.release(session, 1, place.number, name)
        return place.number

    def close(self) -> None:
        self.database.shut()
        self.sender.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def sql(path: Path | str, *statements: str) -> list[Any]:
    """Run statements as a stranger would; the rows of the last."""
    rows: list[Any] = []
    with closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
    return rows


class Child:
    """A process that speaks line by line."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        self.pid = popen.pid
        self._heard = b""

    def hear(self, seconds: float = PATIENCE) -> list[str]:
        """Its next line, in words."""
        assert self.popen.stdout is not None
        fd = self.popen.stdout.fileno()
        end = time.monotonic() + seconds
        while b"\n" not in self._heard:
            ready, _, _ = select.select([fd], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"process {self.pid} said nothing for {seconds:g} s"
            more = os.read(fd, 65536)
            assert more, f"process {self.pid} has ended without a word"
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode().split()

    def tell(self, *words: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(" ".join(words) + "\n")
        self.popen.stdin.flush()

    def ask(self, *words: str) -> list[str]:
        self.tell(*words)
        return self.hear()

    def stop(self, store: Path) -> None:
        """Stop it, and wait until it is; not within a step on its store, which would keep everybody else out."""
        with open(f"{store}-tenure/guard", "rb") as guard:
            while True:
                os.kill(self.pid, signal.SIGSTOP)
                self.wait_stopped()
                with suppress(BlockingIOError):
                    fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                self.go_on()
                time.sleep(0.001)

    def wait_stopped(self) -> None:
        assert os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT) is not None

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> float:
        """Kill it; when."""
        when = time.monotonic()
        self.popen.kill()
        return when


@contextmanager
def process(code: str, *args: str, prelude: str = PRELUDE, **options: Any) -> Iterator[Child]:
    """Start a process; it is killed in the end, also if it was stopped."""
    popen = subprocess.Popen(
        [sys.executable, "-c", prelude + code, *args],
        env={**os.environ, "PYTHONPATH": SRC},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )
    try:
        yield Child(popen)
    except BaseException:
        _say_what_it_does(popen)
        raise
    finally:
        popen.kill()
        popen.communicate()


def _say_what_it_does(popen: subprocess.Popen[str]) -> None:
    """The state and the stacks of a process whose test fails, on stderr: it may hang once in a thousand runs."""
    with suppress(OSError), open(f"/proc/{popen.pid}/status") as status:
        print(f"process {popen.pid}:", *(line.strip() for line in status if line.startswith("State")), file=sys.stderr)
    popen.send_signal(signal.SIGUSR2)
    popen.send_signal(signal.SIGCONT)
    time.sleep(1.0)


def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Look until something is true; what it was."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.005)
    return found
