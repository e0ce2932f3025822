"""`tenure` where several processes want a name: busy, waiting, sharing, looking and stealing."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import Cli, events, is_alive, pid_in, sh, status, until, words
from tests.timing import Bound

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path


@pytest.fixture
def holder(fleet: Cli, tmp_path: Path) -> subprocess.Popen[str]:
    """Somebody who holds `a` until a file `end` appears."""
    process = fleet.start("run", "a", "--json", "--info", "the holder", *sh(
        "echo $TENURE_TOKEN > held; while [ ! -e end ]; do sleep 0.02; done"
    ))  # fmt: skip
    pid_in(tmp_path / "held")
    return process


def token_of(tmp_path: Path) -> int:
    return int(words(tmp_path / "held")[0])


def queue(fleet: Cli, name: str = "a") -> dict[str, list[dict[str, object]]]:
    found = json.loads(fleet("inspect", name, "--json").stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--wait", "0"], 75),
        (["--wait", "0.1"], 75),
        (["--wait", "0", "-E", "9"], 9),
        (["--wait", "0", "--busy-ok"], 0),
        (["--wait", "0", "--shared"], 75),
        (["--wait", "0", "--limit", "2"], 75),
    ],
)
def test_busy_has_its_status_and_the_command_does_not_run(
    fleet: Cli, holder: subprocess.Popen[str], tmp_path: Path, options: list[str], expected: int
) -> None:
    done = fleet("run", "a", *options, "--", "touch", "ran")

    assert done.returncode == expected
    assert not (tmp_path / "ran").exists()
    assert len(queue(fleet)["waiters"]) == 0


def test_busy_says_who_holds_it_since_when_with_which_token_and_how_many_wait(
    fleet: Cli, holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    said = fleet("run", "a", "--wait", "0.1", "--", "true").stderr

    assert said.startswith("tenure: a is busy after 0.1s: held by ")
    assert said.count("\n") == 1
    for fact in (f"pid {holder.pid} (the holder)", os.uname().nodename, " since ", f"token {token_of(tmp_path)}"):
        assert fact in said
    assert said.endswith("; 0 waiting\n")
    assert fleet("run", "a", "--wait", "0", "--busy-ok", "--", "true").stderr == ""
    assert fleet("run", "a", "--wait", "0", "--quiet", "--", "true").stderr == ""


def test_busy_as_an_event(fleet: Cli, holder: subprocess.Popen[str], tmp_path: Path) -> None:
    (told,) = events(fleet("run", "a", "--wait", "0", "--json", "--", "true").stderr)

    assert (told["event"], told["name"], told["waiters"]) == ("busy", "a", [])
    assert [(one["token"], one["pid"], one["info"]) for one in told["holders"]] == [
        (token_of(tmp_path), holder.pid, "the holder")
    ]


@pytest.mark.parametrize(("name", "expected"), [("INT", 130), ("TERM", 143), ("HUP", 129)])
def test_a_signal_ends_the_waiting_and_leaves_nothing(
    fleet: Cli, holder: subprocess.Popen[str], tmp_path: Path, name: str, expected: int
) -> None:
    waiting = fleet.start("run", "a", "--", "touch", "ran")
    until(lambda: len(queue(fleet)["waiters"]) == 1, "it waits")

    began = time.monotonic()
    waiting.send_signal(signal.Signals[f"SIG{name}"])

    assert status(waiting) == expected
    assert time.monotonic() - began < Bound(3)
    assert waiting.communicate()[1] == ""
    assert queue(fleet)["waiters"] == []
    (tmp_path / "end").touch()
    assert status(holder) == 0
    assert fleet.marked() == []
    assert not (tmp_path / "ran").exists()


def test_signals_for_a_command_that_does_not_run_yet_are_ignored(
    fleet: Cli, holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    waiting = fleet.start("run", "a", *sh("exit 3"))
    until(lambda: len(queue(fleet)["waiters"]) == 1, "it waits")
    for name in ("USR1", "USR2", "WINCH", "CONT"):
        waiting.send_signal(signal.Signals[f"SIG{name}"])

    (tmp_path / "end").touch()

    assert status(waiting) == 3


def test_killing_a_waiting_wrapper_leaves_nothing(fleet: Cli, holder: subprocess.Popen[str], tmp_path: Path) -> None:
    waiting = fleet.start("run", "a", "--", "touch", "ran")
    until(lambda: len(queue(fleet)["waiters"]) == 1, "it waits")

    waiting.kill()
    status(waiting)
    (tmp_path / "end").touch()

    assert status(holder) == 0
    until(lambda: not fleet.marked(), "nothing is left")
    assert fleet("run", "a", "--wait", "5", "--", "true").returncode == 0
    assert not (tmp_path / "ran").exists()


def test_a_waiter_tells_of_its_waiting_and_starts_when_the_name_is_free(
    fleet: Cli, holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    waiting = fleet.start("run", "a", "--json", "--wait", "60", *sh("echo $TENURE_TOKEN > next"))
    until(lambda: len(queue(fleet)["waiters"]) == 1, "it waits")
    (tmp_path / "end").touch()

    told = events(waiting.communicate(timeout=20)[1])
    assert [event["event"] for event in told] == ["waiting", "acquired", "started", "exited", "released"]
    assert (told[0]["wait"], told[0]["pid"], told[0]["token"]) == (60, waiting.pid, told[1]["token"])
    assert int(words(tmp_path / "next")[0]) == told[1]["token"] > token_of(tmp_path)


def test_a_command_that_cannot_start_gives_the_name_back(fleet: Cli) -> None:
    assert fleet("run", "a", "--", "no-such-command").returncode == 127
    assert fleet("run", "a", "--wait", "0", "--", "true").returncode == 0


def test_readers_share_and_a_writer_waits(fleet: Cli, tmp_path: Path) -> None:
    first = fleet.start("run", "a", "--shared", *sh("echo 1 > first; while [ ! -e end ]; do sleep 0.02; done"))
    pid_in(tmp_path / "first")

    assert fleet("run", "a", "--shared", "--wait", "0", "--", "true").returncode == 0
    assert fleet("run", "a", "--wait", "0", "--", "true").returncode == 75
    (tmp_path / "end").touch()
    assert status(first) == 0


def test_a_semaphore_admits_its_limit(fleet: Cli, tmp_path: Path) -> None:
    first = fleet.start("run", "a", "--limit", "3", "--permits", "2", *sh(
        "echo 1 > first; while [ ! -e end ]; do sleep 0.02; done"
    ))  # fmt: skip
    pid_in(tmp_path / "first")

    assert fleet("run", "a", "--limit", "3", "--wait", "0", "--", "true").returncode == 0
    assert fleet("run", "a", "--limit", "3", "--permits", "2", "--wait", "0", "--", "true").returncode == 75
    (tmp_path / "end").touch()
    assert status(first) == 0


def test_ls_shows_the_names_in_use(fleet: Cli, holder: subprocess.Popen[str], tmp_path: Path) -> None:
    head, row = fleet("ls").stdout.splitlines()
    assert head.split() == ["NAME", "HOLDER", "TOKEN", "FOR", "WAITING"]
    assert row.split()[0] == "a"
    assert str(token_of(tmp_path)) in row
    assert f"pid {holder.pid} (the holder)" in row

    assert [json.loads(line)["name"] for line in fleet("ls", "--json").stdout.splitlines()] == ["a"]
    assert fleet("ls", "other", "--json").stdout == ""
    assert fleet("ls", "other").stdout == "no names are held\n"


def test_inspect_shows_holders_and_waiters(fleet: Cli, holder: subprocess.Popen[str], tmp_path: Path) -> None:
    waiting = fleet.start("run", "a", "--info", "next\x1b[31m?", "--", "true")
    assert status(waiting) == 64
    waiting = fleet.start("run", "a", "--info", "next", "--", "true")
    until(lambda: len(queue(fleet)["waiters"]) == 1, "it waits")

    title, _, held, waits = fleet("inspect", "a").stdout.splitlines()
    assert title == "a: 1 holder, 1 waiter"
    assert held.startswith("holds")
    assert str(token_of(tmp_path)) in held
    assert waits.startswith("waits 1")
    assert "(next)" in waits
    (one,) = queue(fleet)["holders"]
    assert set(one) == {"token", "mode", "permits", "limit", "client", "host", "pid", "info", "since"}
    assert fleet("inspect", "other").stdout == "other is free\n"


def test_steal_ends_one_claim_and_its_command(fleet: Cli, holder: subprocess.Popen[str], tmp_path: Path) -> None:
    token = token_of(tmp_path)
    absent = fleet("steal", "a", str(token + 1))
    assert (absent.returncode, absent.stdout) == (
        1, f"a has no claim with token {token + 1}; nothing was changed\n"
    )  # fmt: skip
    assert holder.poll() is None

    stolen = fleet("steal", "a", str(token))
    assert stolen.returncode == 0
    assert stolen.stdout.startswith(f"removed token {token} from a: ")
    assert f"pid {holder.pid}" in stolen.stdout
    again = fleet("steal", "a", str(token), "--json")
    assert (again.returncode, json.loads(again.stdout)["removed"]) == (1, False)


def test_a_robbed_holder_stops_its_command_and_exits_79(fleet: Cli, tmp_path: Path) -> None:
    process = fleet.start("run", "a", "--json", "--ttl", "3", *sh("echo $TENURE_TOKEN > held; sleep 1000"))
    pid_in(tmp_path / "held")

    assert fleet("steal", "a", str(token_of(tmp_path))).returncode == 0

    assert status(process) == 79
    told = {event["event"]: event for event in events(process.communicate()[1])}
    assert told["lost"]["reason"] == told["stopping"]["reason"] == "stolen"
    assert fleet.marked() == []


def test_a_lease_lost_under_a_command_that_ends_well_is_79(fleet: Cli, tmp_path: Path) -> None:
    process = fleet.start("run", "a", *sh("echo $TENURE_TOKEN > held; trap '' TERM; while [ ! -e end ]; do :; done"))
    pid_in(tmp_path / "held")
    fleet("steal", "a", str(token_of(tmp_path)))

    # Before the next heartbeat tells: the release is refused, and that is a loss.
    (tmp_path / "end").touch()

    assert status(process) == 79
    assert "an operator stole it; the command had ended with 0" in process.communicate()[1]


def test_an_engine_that_is_none_is_78(fleet: Cli, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("no folder")

    done = fleet("run", "a", "--url", f"sqlite:///{tmp_path}/plain/locks.db", "--", "true")

    assert done.returncode == 78
    assert done.stderr.startswith("tenure: ")
    assert done.stderr.count("\n") == 1
    (tmp_path / "other.db").write_text("this is no database of SQLite, nor of tenure" * 100)
    assert fleet("run", "a", "--url", f"sqlite:///{tmp_path}/other.db", "--", "true").returncode == 78


def test_the_command_keeps_the_name_closed_until_it_is_dead(fleet: Cli, tmp_path: Path) -> None:
    done = fleet("run", "a", "--", "ls", "/proc/self/fd")

    assert max(map(int, done.stdout.split())) >= 200


def test_a_command_is_gone_before_the_name_is_free(fleet: Cli, tmp_path: Path) -> None:
    process = fleet.start(
        "run", "a", "--ttl", "6", "--grace", "1",
        *sh("trap '' TERM", "sh -c 'trap \"\" TERM; sleep 1000' & echo $! > inner; echo $$ > outer; wait; wait"),
    )  # fmt: skip
    inner, outer = pid_in(tmp_path / "inner"), pid_in(tmp_path / "outer")
    check = fleet.start("run", "a", *sh(f"kill -0 {inner} 2>/dev/null && echo overlap", "exit 0"))
    until(lambda: len(queue(fleet)["waiters"]) == 1, "it waits")

    os.kill(outer, signal.SIGKILL)

    assert check.communicate(timeout=20)[0] == ""
    assert status(process) == 137
    assert not is_alive(inner)
