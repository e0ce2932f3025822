"""What `tenure run` does with its command, where nobody else wants the name."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import Cli, events, is_alive, pid_in, sh, status, until, words

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("number", [0, 1, 3, 75, 79, 127, 255])
def test_the_commands_status_is_passed_on(alone: Cli, number: int) -> None:
    done = alone("run", "a", *sh(f"exit {number}"))

    assert (done.returncode, done.stderr) == (number, "")


@pytest.mark.parametrize("name", ["TERM", "KILL", "INT", "USR1"])
def test_a_command_killed_by_a_signal_gives_128_and_the_signal(alone: Cli, name: str) -> None:
    number = signal.Signals[f"SIG{name}"]

    assert alone("run", "a", *sh(f"kill -{name} $$")).returncode == 128 + number


def test_a_missing_command_is_127(alone: Cli) -> None:
    done = alone("run", "a", "--", "no-such-command", "argument")

    assert (done.returncode, done.stderr) == (127, "tenure: no-such-command: command not found\n")
    assert alone("run", "a", "--", "./none/here").returncode == 127
    assert alone("run", "a", "--", "").returncode == 127


def test_a_file_that_cannot_be_executed_is_126(alone: Cli, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("text")
    (tmp_path / "orphan").write_text("#!/no/such/interpreter\n")
    (tmp_path / "orphan").chmod(0o755)

    done = alone("run", "a", "--", "./plain")
    assert (done.returncode, done.stderr) == (126, "tenure: ./plain: Permission denied\n")
    assert alone("run", "a", "--", str(tmp_path)).returncode == 126
    assert alone("run", "a", "--", "./orphan").returncode == 126


def test_a_script_without_a_first_line_is_run_by_the_shell(alone: Cli, tmp_path: Path) -> None:
    (tmp_path / "script").write_text('echo "$1 $2"\n')
    (tmp_path / "script").chmod(0o755)

    assert alone("run", "a", "--", "./script", "one", "two words").stdout == "one two words\n"
    found = alone("run", "a", "--", "script", "on", "PATH", env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert found.stdout == "on PATH\n"


def test_a_folder_on_the_path_does_not_hide_that_a_command_is_missing(alone: Cli, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    assert alone("run", "a", "--", "folder", env={"PATH": str(tmp_path)}).returncode == 127


def test_the_command_gets_the_grant_in_its_environment(alone: Cli) -> None:
    done = alone("run", "reports/ä 1", *sh('echo "$TENURE_NAME|$TENURE_TOKEN|$TENURE_FLOOR|$TENURE_AUTHORITY|$KEPT"'),
                 env={"KEPT": "yes", "TENURE_TOKEN": "inherited"})  # fmt: skip

    name, token, floor, authority, kept = done.stdout.strip().split("|")
    assert (name, kept) == ("reports/ä 1", "yes")
    assert int(token) == int(floor) > 0
    assert authority.startswith("sqlite:")


def test_options_of_the_command_are_its_own_and_its_input_is_ours(alone: Cli, tmp_path: Path) -> None:
    (tmp_path / "input").write_text("from outside\n")
    with (tmp_path / "input").open() as file:
        done = alone("run", "a", *sh('cat; echo "$0 $*"'), "--json", "--", "--wait", stdin=file)

    assert done.stdout == "from outside\n--json -- --wait\n"


def test_the_command_sees_the_environment_that_the_caller_gave(alone: Cli, tmp_path: Path) -> None:
    bare = {"PATH": os.environ["PATH"], "TENURE_URL": f"sqlite://{tmp_path}/x.db", "CLI_TEST_MARK": alone.mark}
    process = alone.start_program([sys.executable, "-m", "tenure", "run", "a", "--", "env", "-0"], bare=bare)

    seen = {line.partition("=")[0] for line in process.communicate()[0].split("\0") if line}
    assert seen == {*bare, "TENURE_NAME", "TENURE_TOKEN", "TENURE_FLOOR", "TENURE_AUTHORITY"}


def test_closed_streams_are_no_trouble(fleet: Cli, tmp_path: Path) -> None:
    script = f"{sys.executable} -m tenure run a -- sh -c 'echo ran > ran; exit 3' <&- >&- 2>&-"

    assert status(fleet.start_program(["sh", "-c", script])) == 3
    assert words(tmp_path / "ran") == ["ran"]
    assert fleet("run", "a", "--wait", "0", "--", "true").returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_command_ignores_no_signal_that_a_shell_would_not(alone: Cli) -> None:
    done = alone("run", "a", "--", "grep", "-E", "SigIgn|SigBlk", "/proc/self/status")

    # 32 and 33 are glibc's own; whoever was started by its posix_spawn ignores them, and so does all that it starts.
    shown = [int(line.split()[1], 16) & ~(0b11 << 31) for line in done.stdout.splitlines()]
    assert shown == [0, 0]


def test_events_tell_the_whole_story_in_json(alone: Cli) -> None:
    done = alone("run", "a", "--json", *sh("exit 3"))

    told = events(done.stderr)
    assert [event["event"] for event in told] == ["acquired", "started", "exited", "released"]
    assert {event["name"] for event in told} == {"a"}
    assert all(isinstance(event["time"], float) for event in told)
    acquired, started, exited, released = told
    assert acquired["token"] == acquired["floor"] == released["token"] > 0
    assert acquired["authority"].startswith("sqlite:")
    assert acquired["waited"] < 5
    assert started["pid"] > 0
    assert (exited["status"], exited["signal"]) == (3, 0)


def test_failures_are_events_too(alone: Cli) -> None:
    told = events(alone("run", "a", "--json", "--", "no-such-command").stderr)
    assert told[-2] == {**told[-2], "event": "error", "status": 127, "message": "no-such-command: command not found"}

    done = alone("run", "a", "--json", "--url", "nosuch://x", "--", "true")
    assert [(event["event"], event["status"]) for event in events(done.stderr)] == [("error", 78)]


@pytest.mark.parametrize(
    "options",
    [
        ["run"],
        ["run", "a"],
        ["run", "a", "--"],
        ["run", "", "--", "true"],
        ["run", "x" * 513, "--", "true"],
        ["run", "a\nb", "--", "true"],
        ["run", "a", "--ttl", "0", "--", "true"],
        ["run", "a", "--ttl", "nan", "--", "true"],
        ["run", "a", "--ttl", "inf", "--", "true"],
        ["run", "a", "--ttl", "-1", "--", "true"],
        ["run", "a", "--ttl", "0.05", "--", "true"],
        ["run", "a", "--ttl", "1e9", "--", "true"],
        ["run", "a", "--wait", "-1", "--", "true"],
        ["run", "a", "--wait", "nan", "--", "true"],
        ["run", "a", "--limit", "0", "--", "true"],
        ["run", "a", "--limit", "1.5", "--", "true"],
        ["run", "a", "--limit", "99999999", "--", "true"],
        ["run", "a", "--permits", "2", "--", "true"],
        ["run", "a", "--limit", "2", "--permits", "3", "--", "true"],
        ["run", "a", "--limit", "2", "--shared", "--", "true"],
        ["run", "a", "--lock-delay", "-1", "--", "true"],
        ["run", "a", "--info", "x" * 1025, "--", "true"],
        ["run", "a", "--stop-margin", "15", "--", "true"],
        ["run", "a", "--stop-margin", "3", "--grace", "3", "--", "true"],
        ["run", "a", "--max-hold", "5", "--", "true"],
        ["run", "a", "-E", "256", "--", "true"],
        ["run", "a", "--no-such-option", "--", "true"],
        ["run", "a", "true"],
        [],
        ["no-such-command"],
        ["ls", "--", "true"],
        ["steal", "a"],
        ["steal", "a", "token"],
        ["steal", "a", "0"],
        ["completion", "tcsh"],
    ],
)
def test_wrong_usage_is_64_and_one_line(alone: Cli, options: list[str]) -> None:
    done = alone(*options)

    assert done.returncode == 64
    assert done.stderr.startswith("tenure: ")
    assert done.stderr.count("\n") == 1


def test_a_command_without_its_dashes_is_told_where_they_go(alone: Cli) -> None:
    assert "write `tenure run NAME -- COMMAND`" in alone("run", "a", "echo", "hello").stderr
    assert "unrecognized arguments: --loud" in alone("run", "a", "--loud", "--", "true").stderr


@pytest.mark.parametrize(
    ("url", "env"),
    [
        ("nosuch://host", {}),
        ("no url", {}),
        ("memory://", {}),
        ("sqlite://?unknown=1", {}),
        ("sqlite://?ttl=0", {}),
        ("sqlite://", {"TENURE_TTL": "soon"}),
        ("sqlite://", {"TENURE_NAMESPACE": "a:b"}),
        ("sqlite://", {"TENURE_REQUIRE": "multi_host"}),
    ],
)
def test_a_wrong_configuration_is_78_and_one_line(alone: Cli, url: str, env: dict[str, str]) -> None:
    done = alone("run", "a", "--url", url, "--", "true", env=env)

    assert done.returncode == 78
    assert done.stderr.startswith("tenure: ")
    assert done.stderr.count("\n") == 1
    assert alone.marked() == []


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "WINCH"])
def test_signals_are_forwarded_to_the_whole_group(alone: Cli, tmp_path: Path, name: str) -> None:
    process = alone.start("run", "a", *sh(
        f"trap 'echo heard >> heard; exit 7' {name}",
        f"sh -c 'trap \"echo inner >> heard; exit\" {name}; while :; do sleep 0.02; done' &",
        "echo $$ > ready; while :; do sleep 0.02; done",
    ))  # fmt: skip
    pid_in(tmp_path / "ready")

    def heard_by_all() -> bool:
        # The inner shell may set its trap a moment later: a signal may be sent more than once.
        if "heard" not in words(tmp_path / "heard"):
            process.send_signal(signal.Signals[f"SIG{name}"])
        return "heard" in words(tmp_path / "heard")

    until(heard_by_all, "the command heard the signal")
    assert status(process) == 7
    until(lambda: not alone.marked(), "nothing is left")


def test_what_was_ignored_stays_ignored(alone: Cli, tmp_path: Path) -> None:
    process = alone.start(
        "run", "a", *sh("echo $$ > pid; while [ ! -e go ]; do sleep 0.02; done; exit 5"),
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    pid_in(tmp_path / "pid")

    process.send_signal(signal.SIGHUP)
    (tmp_path / "go").touch()

    assert status(process) == 5


def test_a_normal_end_stops_what_the_command_left_behind(alone: Cli, tmp_path: Path) -> None:
    done = alone("run", "a", *sh("sleep 1000 & echo $! > left; exit 4"))

    assert done.returncode == 4
    assert not is_alive(pid_in(tmp_path / "left"))
    assert alone.marked() == []


def test_leftovers_that_ignore_term_are_killed_after_the_grace(alone: Cli, tmp_path: Path) -> None:
    done = alone(
        "run", "a", "--ttl", "4", "--grace", "0.3",
        *sh("(trap '' TERM; sleep 1000 & echo $! > left; sleep 1000) & while [ ! -s left ]; do sleep 0.02; done"),
    )  # fmt: skip

    assert done.returncode == 0
    assert not is_alive(pid_in(tmp_path / "left"))
    assert alone.marked() == []


def test_a_stopped_leftover_is_ended_too(alone: Cli, tmp_path: Path) -> None:
    done = alone("run", "a", *sh("sleep 1000 & echo $! > left; kill -STOP $!"))

    assert done.returncode == 0
    assert alone.marked() == []


def test_killing_the_wrapper_kills_the_whole_group(alone: Cli, tmp_path: Path) -> None:
    process = alone.start("run", "a", *sh("sleep 1000 & echo $! > inner; echo $$ > outer; sleep 1000; true"))
    pids = [pid_in(tmp_path / "inner"), pid_in(tmp_path / "outer")]

    process.kill()

    until(lambda: not any(map(is_alive, pids)), "the group is dead", 1.0)
    until(lambda: not alone.marked(), "nothing is left", 1.0)


def test_max_hold_stops_the_command_before_the_lease_ends(alone: Cli) -> None:
    done = alone("run", "a", "--json", "--ttl", "2", "--max-hold", "0.8", *sh("trap '' TERM; sleep 1000 & wait; wait"))

    told = {event["event"]: event for event in events(done.stderr)}
    assert done.returncode == 79
    assert told["stopping"]["reason"] == told["lost"]["reason"] == "max_hold"
    # Never later than the deadline; 0.5 s of slack for a slow machine.
    assert told["exited"]["time"] - told["acquired"]["time"] < 0.8 + 0.5
    assert alone.marked() == []


def test_the_fallback_says_its_scope_once_and_only_then(alone: Cli) -> None:
    assert "scope" not in alone("run", "a", "--", "true").stderr
    alone.url = ""

    said = alone("run", "a", "--", "true")
    assert (said.returncode, said.stderr.count("scope: this user on this host only")) == (0, 1)
    assert alone("run", "a", "--quiet", "--", "true").stderr == ""

    # Sentences or events, never both.
    told = events(alone("run", "a", "--json", "--", "true").stderr)
    assert [event["event"] for event in told] == ["scope", "acquired", "started", "exited", "released"]
    assert told[0]["scope"] == "this user on this host only"


def test_nothing_is_left_behind_by_a_run(alone: Cli) -> None:
    alone("run", "a", "--", "true")

    assert alone.marked() == []
