"""The main job: one command at a time, in order, whatever is killed or stopped."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import Cli, events, is_alive, pid_in, sh, status, until, words
from tests.timing import Bound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TTL = 2.0


def loop(log: str) -> tuple[str, ...]:
    """A command that writes its pid and works on until it is killed."""
    return (f"echo $$ >> {log}.pid", f"while :; do echo x >> {log}; sleep 0.01; done")


def count(path: Path) -> int:
    return len(words(path))


def waiters(fleet: Cli) -> int:
    table = fleet("inspect", "a").stdout
    return sum(line.startswith("waits") for line in table.splitlines())


@pytest.fixture
def stopped() -> Iterator[list[int]]:
    """Processes and (negative) groups that the test has stopped; continued at its end if they are still there."""
    found: list[int] = []
    yield found
    for pid in found:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            continue


def test_eight_runs_do_not_overlap_and_keep_their_order(fleet: Cli, tmp_path: Path) -> None:
    gate = fleet.start("run", "a", *sh("echo 1 > ready; while [ ! -e go ]; do sleep 0.02; done"))
    pid_in(tmp_path / "ready")
    runs = []
    for number in range(8):
        script = f"echo begin {number} >> log; sleep 0.02; echo end {number} $TENURE_TOKEN >> log"
        runs.append(fleet.start("run", "a", *sh(script)))
        until(lambda: waiters(fleet) == len(runs), "it stands in the queue")

    (tmp_path / "go").touch()

    assert [status(run) for run in (gate, *runs)] == [0] * 9
    lines = [line.split() for line in words(tmp_path / "log")]
    assert [line[:2] for line in lines] == [[word, str(n)] for n in range(8) for word in ("begin", "end")]
    tokens = [int(line[2]) for line in lines if line[0] == "end"]
    assert tokens == sorted(set(tokens))


def test_killing_the_holder_kills_its_command_before_the_next_starts(fleet: Cli, tmp_path: Path) -> None:
    first = fleet.start("run", "a", "--ttl", "30", *sh("sleep 1000 & echo $! > inner", *loop("first")))
    pids = [pid_in(tmp_path / "first.pid"), pid_in(tmp_path / "inner")]
    alive = " || ".join(f"kill -0 {pid} 2>/dev/null" for pid in pids)
    following = fleet.start("run", "a", *sh(f"if {alive}; then echo overlap > next; else echo clean > next; fi"))
    until(lambda: waiters(fleet) == 1, "the next waits")

    began = time.monotonic()
    first.kill()

    until(lambda: words(tmp_path / "next"), "the next has started")
    took = time.monotonic() - began
    # The orphans are buried by somebody else's hands; a zombie answers to kill -0 but does nothing any more.
    assert not any(is_alive(pid) for pid in pids)
    assert status(following) == 0
    assert took < Bound(1.0)


def test_a_group_stopped_past_its_ttl_is_dead_soon_after_being_continued(
    fleet: Cli, tmp_path: Path, stopped: list[int], record_property: Callable[[str, object], None]
) -> None:
    first = fleet.start("run", "a", "--ttl", str(TTL), "--json", *sh("trap '' TERM", *loop("first")))
    child = pid_in(tmp_path / "first.pid")
    following = fleet.start("run", "a", "--ttl", str(TTL), *sh("echo $TENURE_TOKEN > next; sleep 1"))
    until(lambda: waiters(fleet) == 1, "the next waits")
    stopped += [first.pid, -child]
    os.kill(first.pid, signal.SIGSTOP)
    os.killpg(child, signal.SIGSTOP)

    until(lambda: words(tmp_path / "next"), "the next has started", TTL + 5)
    assert is_alive(child)
    began = time.monotonic()
    # The command first: the worse order.
    os.killpg(child, signal.SIGCONT)
    os.kill(first.pid, signal.SIGCONT)

    until(lambda: not is_alive(child), "the first group is dead", 1.0)
    record_property("dead_after_ms", (time.monotonic() - began) * 1000)
    assert status(first) == 79
    assert {event["event"] for event in events(first.communicate()[1])} >= {"stopping", "exited", "lost"}
    assert status(following) == 0


def test_a_wrapper_stopped_alone_leaves_its_command_running_and_exits_79(
    fleet: Cli, tmp_path: Path, stopped: list[int]
) -> None:
    first = fleet.start("run", "a", "--ttl", str(TTL), *sh(*loop("first")))
    child = pid_in(tmp_path / "first.pid")
    following = fleet.start("run", "a", "--ttl", str(TTL), *sh("echo 1 > next"))
    until(lambda: waiters(fleet) == 1, "the next waits")
    stopped.append(first.pid)
    began = time.monotonic()
    os.kill(first.pid, signal.SIGSTOP)

    until(lambda: words(tmp_path / "next"), "the next has started", TTL + 5)
    # Not before a renewal sent just before the stop has run out; half a second of slack.
    assert time.monotonic() - began > TTL * 2 / 3 - 0.5
    before = count(tmp_path / "first")
    until(lambda: count(tmp_path / "first") > before, "the command works on: the fence is the answer")
    os.kill(first.pid, signal.SIGCONT)

    until(lambda: not is_alive(child), "the command is dead", 1.0)
    assert status(first) == 79
    assert status(following) == 0
    assert "; the command was stopped" in first.communicate()[1]


def test_a_store_that_is_gone_stops_the_command_in_time(fleet: Cli, tmp_path: Path) -> None:
    first = fleet.start("run", "a", "--ttl", str(TTL), *sh(
        "trap '' TERM", "sh -c 'trap \"\" TERM; sleep 1000' & echo $! > inner", *loop("first"),
    ))  # fmt: skip
    pids = [pid_in(tmp_path / "first.pid"), pid_in(tmp_path / "inner")]

    began = time.monotonic()
    for path in tmp_path.glob("locks.db*"):
        path.rename(tmp_path / f"moved-{path.name}")

    assert status(first) == 79
    assert time.monotonic() - began < TTL + Bound(2)
    assert not any(map(is_alive, pids))
