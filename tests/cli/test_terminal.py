"""`tenure run` on a terminal: the waiting line, the foreground, Ctrl-C, Ctrl-Z, colours."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.conftest import PATIENCE, Cli, is_alive, pid_in, sh, status, until, words

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

WORKER = """\
import os, sys, time
open("pid", "w").write(f"{os.getpid()}\\n")
print("begun", file=sys.stderr, flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
print("done", input(), flush=True)
"""
"""A command that forks nothing: a dash that is stopped between vfork and exec hangs in the kernel, and one that is
interrupted there forgets it; here as under any shell."""

CTRL_C, CTRL_Z = b"\x03", b"\x1a"


class Screen:
    """The master side of a terminal, on which a program runs as the leader of its session."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
        self.seen = ""

    def start(self, cli: Cli, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start `tenure` on this terminal."""
        return cli.start(*arguments, env={"TERM": "xterm", **(env or {})}, **self._streams())

    def shell(self, cli: Cli) -> None:
        """Start an interactive shell with job control, as a user has it; `tenure` is on its path."""
        (cli.folder / "tenure").write_text(f'#!/bin/sh\nexec {sys.executable} -m tenure "$@"\n')
        (cli.folder / "tenure").chmod(0o755)
        (cli.folder / "work").write_text(f"#!{sys.executable}\n{WORKER}")
        (cli.folder / "work").chmod(0o755)
        env = {"TERM": "xterm", "PS1": "PROMPT$ ", "PATH": f"{cli.folder}:{os.environ['PATH']}"}
        cli.start_program(["bash", "--norc", "--noprofile", "-i"], env=env, **self._streams())
        self.read_until("PROMPT$ ")

    def _streams(self) -> dict[str, Any]:
        def own_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        return {"stdin": self.slave, "stdout": self.slave, "stderr": self.slave, "preexec_fn": own_terminal}

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def read_until(self, wanted: str) -> str:
        """Read until a text has appeared; return and forget everything up to its end."""
        end = time.monotonic() + PATIENCE
        while wanted not in self.seen:
            left = end - time.monotonic()
            assert left > 0, f"{wanted!r} did not appear in {self.seen!r}"
            if select.select([self.master], [], [], left)[0]:
                self.seen += os.read(self.master, 4096).decode(errors="replace")
        text, _, self.seen = self.seen.partition(wanted)
        return text + wanted

    def close(self) -> None:
        for descriptor in (self.master, self.slave):
            with contextlib.suppress(OSError):
                os.close(descriptor)


@pytest.fixture
def screen(fleet: Cli) -> Iterator[Screen]:
    found = Screen()
    yield found
    # The processes before their terminal: a hang-up would end them in another way than the test thinks.
    fleet.end_all()
    found.close()


def hold(fleet: Cli, tmp_path: Path) -> subprocess.Popen[str]:
    process = fleet.start("run", "a", "--info", "the \u2603 holder", *sh(
        "echo $TENURE_TOKEN > held; while [ ! -e end ]; do sleep 0.02; done"
    ))  # fmt: skip
    pid_in(tmp_path / "held")
    return process


def test_the_waiting_line_tells_for_whom_and_is_rewritten_in_place(fleet: Cli, screen: Screen, tmp_path: Path) -> None:
    holder = hold(fleet, tmp_path)
    waiting = screen.start(fleet, "run", "a", "--", "echo", "started")

    first = screen.read_until("place 1 of 1")
    for fact in ("waiting for a: held by", f"pid {holder.pid}", "the \u2603 holder", words(tmp_path / "held")[0]):
        assert fact in first
    assert "\x1b[2m" in first
    second = screen.read_until("place 1 of 1")
    assert "\r" in second
    assert "\n" not in second
    (tmp_path / "end").touch()
    assert screen.read_until("started").endswith("\r\x1b[Kstarted")
    assert status(waiting) == 0


def test_no_color_is_obeyed(fleet: Cli, screen: Screen, tmp_path: Path) -> None:
    hold(fleet, tmp_path)
    screen.start(fleet, "run", "a", "--", "true", env={"NO_COLOR": "1"})

    assert "\x1b[2m" not in screen.read_until("place 1 of 1")


def test_quiet_shows_no_waiting_line(fleet: Cli, screen: Screen, tmp_path: Path) -> None:
    hold(fleet, tmp_path)
    waiting = screen.start(fleet, "run", "a", "--quiet", "--wait", "2", "--", "true")

    assert status(waiting) == 75
    assert not select.select([screen.master], [], [], 0)[0]


def test_ctrl_c_while_waiting_ends_it_with_130(fleet: Cli, screen: Screen, tmp_path: Path) -> None:
    hold(fleet, tmp_path)
    waiting = screen.start(fleet, "run", "a", "--", "touch", "ran")
    screen.read_until("place 1 of 1")

    screen.type(CTRL_C)

    assert status(waiting) == 130
    assert fleet("inspect", "a", "--json").stdout.count('"token"') == 1


def test_the_command_has_the_foreground_and_ctrl_c_reaches_it_once(fleet: Cli, screen: Screen) -> None:
    process = screen.start(fleet, "run", "a", *sh(
        "trap 'count=x$count' INT", "echo reading; read line; echo got $line $count; kill -INT $$; echo then $count",
        "exit 3",
    ))  # fmt: skip
    screen.read_until("reading")

    # Reading from the terminal at all takes the foreground.
    screen.type(b"words\n")
    assert "then x" in screen.read_until("then x")
    assert status(process) == 3


def test_ctrl_c_ends_the_command(fleet: Cli, screen: Screen) -> None:
    wait = "import signal as s, time; s.signal(s.SIGINT, s.SIG_DFL); print('ready', flush=True); time.sleep(99)"
    process = screen.start(fleet, "run", "a", "--", sys.executable, "-c", wait)
    screen.read_until("ready")

    screen.type(CTRL_C)

    assert status(process) == 130
    assert fleet("run", "a", "--wait", "0", "--", "true").returncode == 0


def test_ctrl_z_gives_the_shell_its_prompt_and_fg_goes_on(fleet: Cli, screen: Screen, tmp_path: Path) -> None:
    screen.shell(fleet)
    screen.type(b"tenure run a --quiet -- work\n")
    screen.read_until("begun\r\n")
    child = pid_in(tmp_path / "pid")

    screen.type(CTRL_Z)
    screen.read_until("Stopped")
    screen.read_until("PROMPT$ ")
    (tmp_path / "go").touch()
    screen.type(b"fg\n")
    # Written while the command runs again; only the foreground may read it.
    screen.type(b"line\n")
    screen.read_until("done line")
    screen.read_until("PROMPT$ ")

    assert not is_alive(child)


def test_a_stop_longer_than_the_ttl_ends_the_command_when_it_is_continued(
    fleet: Cli, screen: Screen, tmp_path: Path
) -> None:
    screen.shell(fleet)
    screen.type(b"tenure run a --quiet --ttl 1 -- work\n")
    screen.read_until("begun\r\n")
    child = pid_in(tmp_path / "pid")
    screen.type(CTRL_Z)
    screen.read_until("PROMPT$ ")

    # The name is free for others after the ttl.
    assert fleet("run", "a", "--wait", "10", "--", "true").returncode == 0
    screen.type(b"fg; echo status=$?\n")

    screen.read_until("status=79")
    assert not is_alive(child)


def test_in_a_pipeline_the_command_leaves_the_terminal_to_others(fleet: Cli, screen: Screen, tmp_path: Path) -> None:
    screen.shell(fleet)
    screen.type(b"tenure run a --quiet -- work | cat\n")
    screen.read_until("begun\r\n")
    child = pid_in(tmp_path / "pid")
    assert os.tcgetpgrp(screen.master) != child

    # Ctrl-Z reaches only the wrapper, which stops the command before itself.
    screen.type(CTRL_Z)
    screen.read_until("Stopped")
    until(lambda: _state(child) == "T", "the command is stopped")
    screen.type(b"fg\n")
    until(lambda: _state(child) != "T", "the command goes on")
    screen.type(CTRL_C)
    until(lambda: not is_alive(child), "the command has ended")


def test_colours_only_for_terminals(fleet: Cli, screen: Screen, tmp_path: Path) -> None:
    hold(fleet, tmp_path)

    assert "\x1b" not in fleet("inspect", "a").stdout
    screen.start(fleet, "inspect", "a")
    assert "\x1b[1m" in screen.read_until("holder)")


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
