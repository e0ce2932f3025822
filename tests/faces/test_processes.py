"""Exits, signals, kills, stops, and gevent: in processes of their own, on SQLite."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import warnings
from typing import TYPE_CHECKING

import pytest

from tenure import Client
from tests.faces.programs import eventually, heard, output, program, tell
from tests.timing import Bound

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/locks.db"


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as opened:
        yield opened


def waiters(client: Client, name: str = "name") -> int:
    return len(client.inspect(name).waiters)


HOLDS = """
client = Client(url, ttl=float(sys.argv[2]) if len(sys.argv) > 2 else 30)
lease = client.lock("name", wait=30).acquire()
say("held", lease.token)
"""


@pytest.mark.parametrize("ending", ["", "sys.exit(3)", "raise SystemExit", "raise KeyError('theirs')"])
def test_leaving_the_interpreter_without_close_frees_the_names_at_once(url: str, client: Client, ending: str) -> None:
    with program(HOLDS + "lease.hand_over()\nkept = [lease]\n" + ending, url) as process:
        assert heard(process).startswith("held")
        begun = time.monotonic()
        process.wait(10)
        assert time.monotonic() - begun < Bound(2)
        begun = time.monotonic()
        client.lock("name", wait=5).acquire().release()
        assert time.monotonic() - begun < Bound(1)


def test_leaving_with_threads_that_wait_and_hold(url: str, client: Client) -> None:
    held = client.lock("held").acquire()
    code = """
client = Client(url)
def wait():
    client.lock("held", wait=None).acquire()
for _ in range(3):
    threading.Thread(target=wait, daemon=True).start()
kept = client.lock("name").acquire()
say("ready")
sys.stdin.readline()
"""
    took: list[float] = []
    # A time-out in it would show every time; a machine that stands still for a second does not.
    while len(took) < 3 and min(took, default=9) >= 1:
        with program(code, url) as process:
            assert heard(process) == "ready"
            eventually(lambda: waiters(client, "held") == 3, "three wait")
            begun = time.monotonic()
            tell(process)
            process.wait(10)
            took.append(time.monotonic() - begun)
        eventually(lambda: client.names() == ["held"] and waiters(client, "held") == 0, "nothing is left of it", 2)
    assert min(took) < Bound(1)
    held.release()


def test_leaving_with_asyncio_and_without_close(url: str, client: Client) -> None:
    code = """
import asyncio
async def main():
    client = tenure.AsyncClient(url)
    kept.append(client)
    kept.append(await client.lock("name").acquire())
    say("held")
kept = []
asyncio.run(main())
"""
    with program(code, url) as process:
        assert heard(process) == "held"
        begun = time.monotonic()
        process.wait(10)
        assert time.monotonic() - begun < Bound(2)
    client.lock("name", wait=2).acquire().release()


def test_ctrl_c_in_a_waiting_thread_leaves_nothing_behind(url: str, client: Client) -> None:
    held = client.lock("name").acquire()
    code = """
client = Client(url)
for turn in range(3):
    sys.stdin.readline()
    say("waits")
    try:
        client.lock("name", wait=None).acquire()
    except KeyboardInterrupt:
        say("interrupted")
with client.lock("other"):
    say("goes on")
sys.stdin.readline()
client.close()
"""
    with program(code, url) as process:
        for _ in range(3):
            tell(process)
            assert heard(process) == "waits"
            eventually(lambda: waiters(client) == 1, "it waits")
            process.send_signal(signal.SIGINT)
            assert heard(process) == "interrupted"
            eventually(lambda: waiters(client) == 0, "its claim is closed", 2)
        assert heard(process) == "goes on"
        tell(process)
        assert process.wait(60) == 0
    held.release()


def test_kill_9_lets_the_next_of_another_process_in_within_a_second(url: str, client: Client) -> None:
    with program(HOLDS + "time.sleep(60)", url) as victim:
        token = int(heard(victim).split()[1])
        with program(HOLDS + "time.sleep(60)", url) as second:
            eventually(lambda: waiters(client) == 1, "the second waits")
            with program(HOLDS, url) as third:
                eventually(lambda: waiters(client) == 2, "the third waits")
                begun = time.monotonic()
                victim.kill()
                token_2 = int(heard(second).split()[1])
                assert time.monotonic() - begun < Bound(1)
                # A waiter is killed too: nobody waits for it, or for what it would have held.
                second.kill()
                token_3 = int(heard(third).split()[1])
                assert time.monotonic() - begun < Bound(2)
                assert token < token_2 < token_3


def test_a_killed_waiter_does_not_hold_up_those_behind_it(url: str, client: Client) -> None:
    held = client.lock("name").acquire()
    with program(HOLDS, url) as second:
        eventually(lambda: waiters(client) == 1, "the second waits")
        with program(HOLDS, url) as third:
            eventually(lambda: waiters(client) == 2, "the third waits")
            second.kill()
            second.wait(5)
            begun = time.monotonic()
            held.release()
            assert heard(third).startswith("held")
            assert time.monotonic() - begun < Bound(1)


def test_a_process_stopped_past_its_ttl_knows_it_at_its_first_instruction(url: str, client: Client) -> None:
    code = """
client = Client(url, ttl=0.6)
lease = client.lock("name").acquire()
say("held", lease.token)
deadline = lease.deadline
before, in_time = 0, True
while True:
    before = client._core.ledger.runtime.now()
    if not lease.held:
        break
    in_time = in_time and before < lease.deadline
say("lost", lease.lost.name, in_time)
try:
    lease.check()
except LeaseLost as error:
    say(error.reason.name)
"""
    with program(code, url) as process:
        token = int(heard(process).split()[1])
        os.kill(process.pid, signal.SIGSTOP)
        begun = time.monotonic()
        successor = client.lock("name", wait=10).acquire()
        waited = time.monotonic() - begun
        assert successor.token > token
        assert waited < 0.6 + Bound(0.6)
        os.kill(process.pid, signal.SIGCONT)
        assert heard(process) == "lost DEADLINE True"
        assert heard(process) == "DEADLINE"
        assert successor.held
        successor.release()


def test_an_asyncio_body_stopped_past_its_ttl_is_cancelled_within_a_turn(url: str, client: Client) -> None:
    code = """
import asyncio
async def main():
    async with tenure.AsyncClient(url, ttl=0.6) as client:
        turns = 0
        try:
            async with client.lock("name") as lease:
                say("held")
                while True:
                    if not lease.held:
                        turns += 1
                    await asyncio.sleep(0)
        except LeaseLost as error:
            say("lost", turns)
asyncio.run(main())
"""
    with program(code, url) as process:
        assert heard(process) == "held"
        os.kill(process.pid, signal.SIGSTOP)
        client.lock("name", wait=10).acquire().release()
        os.kill(process.pid, signal.SIGCONT)
        said, turns = heard(process).split()
        assert said == "lost"
        assert int(turns) <= 3


def test_a_thread_that_is_gone_with_its_lease_is_noticed(client: Client) -> None:
    def forget() -> None:
        client.lock("name").acquire()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        thread = threading.Thread(target=forget)
        thread.start()
        thread.join()
        gc.collect()
        client.lock("name", wait=5).acquire().release()
    assert [w.category for w in caught] == [ResourceWarning]


GEVENT = """
from gevent import monkey
monkey.patch_all()
import gevent, os, sys, time
from gevent import GreenletExit
import tenure
url = sys.argv[1]
def say(*words):
    print(*words, flush=True)
"""


def test_greenlets_contend_and_interleave(url: str) -> None:
    pytest.importorskip("gevent")
    said = output(
        GEVENT
        + """
client = tenure.Client(url, ttl=1)
inside, seen, ticks = [], [], []
def contend(number):
    for _ in range(3):
        with client.lock("name", wait=15) as lease:
            inside.append(number)
            assert inside == [number]
            gevent.sleep(0.001)
            assert inside == [number]
            inside.pop()
            seen.append(lease.token)
def tick():
    while len(seen) < 150:
        ticks.append(1)
        gevent.sleep(0.002)
greenlets = [gevent.spawn(contend, n) for n in range(50)] + [gevent.spawn(tick)]
gevent.joinall(greenlets, raise_error=True, timeout=20)
say(len(seen), seen == sorted(set(seen)), len(ticks) > 20, client.names())
client.close()
""",
        url,
    )
    assert said == ["150 True True []"]


def test_the_keeper_beats_while_greenlets_are_busy(url: str) -> None:
    pytest.importorskip("gevent")
    said = output(
        GEVENT
        + """
beats = []
client = tenure.Client(url, ttl=1.2, on_event=lambda e: beats.append(type(e).__name__))
with client.lock("name") as lease:
    end = time.monotonic() + 30
    while beats.count("Renewed") < 3 and time.monotonic() < end:
        assert lease.held
    say(beats.count("Renewed") >= 3, lease.held)
client.close()
""",
        url,
    )
    assert said == ["True True"]


def test_a_greenlet_that_is_killed_while_it_waits_leaves_the_queue(url: str) -> None:
    pytest.importorskip("gevent")
    said = output(
        GEVENT
        + """
client = tenure.Client(url)
held = client.lock("name").acquire()
waiting = [gevent.spawn(lambda: client.lock("name", wait=None).acquire()) for _ in range(3)]
while len(client.inspect("name").waiters) < 3:
    gevent.sleep(0.002)
waiting[0].kill()
while len(client.inspect("name").waiters) > 2:
    gevent.sleep(0.002)
begun = time.monotonic()
held.release()
waiting[1].join(5)
say(waiting[1].value.held, time.monotonic() - begun < 2)
waiting[1].value.release()
waiting[2].join(5)
waiting[2].value.release()
say(client.names())
client.close()
""",
        url,
    )
    assert said == ["True True", "[]"]
