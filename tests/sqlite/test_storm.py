"""Eight processes, of which one is killed every few milliseconds, never overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenure import Client
from tests.sqlite.rig import LONG, PATIENCE, process, sql

if TYPE_CHECKING:
    from pathlib import Path

STORM = """
import random
WORKERS, ROUNDS, KILLS = 8, int(sys.argv[3]), int(sys.argv[4])
log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
counts = sys.argv[2] + ".count"

def work(index):
    client = tenure.Client(url, ttl=60)
    mine = f"{counts}{index}"
    done = os.stat(mine).st_size if os.path.exists(mine) else 0
    tally = os.open(mine, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while done < ROUNDS:
        with client.lock("n", wait=60) as lease:
            os.write(log, b"begin %d %d\\n" % (lease.token, os.getpid()))
            time.sleep(0.0003)
            os.write(log, b"end %d %d\\n" % (lease.token, os.getpid()))
            os.write(tally, b".")
        done += 1
    client.close()

def start(index):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work(index)
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid

rng = random.Random(7)
workers = {start(index): index for index in range(WORKERS)}
killed = 0
while workers:
    if killed < KILLS:
        time.sleep(rng.uniform(0.005, 0.03))
        pid = rng.choice(list(workers))
        if rng.random() < 0.5:
            # Whoever is inside, if anybody is.
            with open(sys.argv[2], "rb") as lines:
                lines.seek(max(0, os.stat(sys.argv[2]).st_size - 60))
                words = lines.read().split()[-3:]
            if words[:1] == [b"begin"] and int(words[2]) in workers:
                pid = int(words[2])
        os.kill(pid, signal.SIGKILL)
        killed += 1
    else:
        pid = -1
    pid, status = os.waitpid(pid, 0)
    index = workers.pop(pid)
    if os.WIFSIGNALED(status):
        workers[start(index)] = index
    elif status:
        say("failed", index, status)
say("done", killed)
told()
"""


def overlaps(lines: list[str]) -> list[str]:
    """What is wrong with a log of begins and ends: two inside at once, or tokens that do not rise."""
    wrong = []
    inside: tuple[int, int] | None = None
    last = 0
    killed_inside = 0
    for number, line in enumerate(lines):
        what, token, pid = line.split()
        if what == "begin":
            # One that began and never ended was killed inside.
            killed_inside += inside is not None
            if int(token) <= last:
                wrong.append(f"line {number}: token {token} after {last}")
            last, inside = int(token), (int(token), int(pid))
        elif inside != (int(token), int(pid)):
            wrong.append(f"line {number}: {line} inside {inside}")
        else:
            inside = None
    print(f"{len(lines)} lines, {killed_inside} killed inside")
    return wrong


def test_eight_processes_that_are_killed_at_random_never_overlap(path: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    rounds, kills = 300, 25
    with process(STORM, str(path), str(log), str(rounds), str(kills)) as storm:
        word, killed = storm.hear(90)
        assert word == "done"
        assert int(killed) >= kills / 2
    lines = log.read_text().splitlines()
    assert overlaps(lines) == []
    assert len(lines) >= 8 * rounds * 2
    with Client(f"sqlite://{path}", ttl=LONG) as client:
        # Whoever was killed while it waited behind nobody is passed over by the next who asks.
        with client.lock("n", wait=PATIENCE):
            pass
        assert client.names() == []
    assert sql(path, "SELECT count(*) FROM claims") == [(0,)]
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


def test_the_witness_of_the_storm_sees_overlaps() -> None:
    assert overlaps(["begin 1 1", "end 1 1", "begin 2 2", "begin 3 3", "end 3 3"]) == []
    assert overlaps(["begin 1 1", "begin 2 2", "end 1 1", "end 2 2"]) != []
    assert overlaps(["begin 2 1", "end 2 1", "begin 1 2", "end 1 2"]) != []
