"""What a thread waits in: it ends in time, however close the time is, and nothing that was put in is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import Final

import pytest

from tenure.model import Instant
from tenure.runtimes.blocking import run
from tenure.runtimes.native import NativeInbox, NativeSignal, now
from tests.servers.processes import PATIENCE, until
from tests.timing import SLACK

TIMES: Final = 20_000

NEARLY_OVER: Final = 1e-6
"""Seconds; the thread pauses for as long now and then between reading the clock and the wait."""


def test_a_wait_that_is_nearly_over_ends() -> None:
    for _ in range(TIMES):
        assert not NativeSignal().wait_blocking(Instant(now() + NEARLY_OVER))
    inbox: NativeInbox[int] = NativeInbox()
    for number in range(TIMES):
        # Each second time something was put in and taken out since the last wait.
        if number % 2:
            inbox.put(number)
        assert run(inbox.get(Instant(now() + NEARLY_OVER))) == [number] * (number % 2)


INTERRUPTED = """
import os, signal, threading, time
from queue import Empty, SimpleQueue
from tenure.runtimes.native import NativeSignal, now

def watch():
    time.sleep(3)
    print("for ever", flush=True)
    os._exit(0)

threading.Thread(target=watch, daemon=True).start()
signal.signal(signal.SIGALRM, lambda *_: time.sleep(0.4))
signal.setitimer(signal.ITIMER_REAL, 0.1)
"""
"""A signal comes during a wait of 0.3 s, and its handler outlasts that."""

needs_alarm = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no SIGALRM here")


def said_by(code: str) -> str:
    """What a program of its own says."""
    return subprocess.check_output([sys.executable, "-c", INTERRUPTED + code], timeout=PATIENCE, text=True).strip()


@needs_alarm
def test_a_wait_ends_though_a_signal_handler_outlasts_it() -> None:
    assert said_by("print(NativeSignal().wait_blocking(now() + 0.3))") == "False"


@needs_alarm
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="SimpleQueue was mended in Python 3.13")
def test_positive_control_a_queue_with_a_timeout_waits_for_ever() -> None:
    assert said_by("try:\n    SimpleQueue().get(timeout=0.3)\nexcept Empty:\n    print('ended')") == "for ever"


def test_a_signal_that_was_set_before_ends_the_wait_once() -> None:
    wake = NativeSignal()
    wake.set()
    wake.set()
    assert wake.wait_blocking(None)
    assert not wake.wait_blocking(Instant(0.0))


def test_a_signal_wakes_who_waits() -> None:
    wake = NativeSignal()
    woken: list[Instant] = []
    thread = threading.Thread(target=lambda: woken.append(now()) if wake.wait_blocking(None) else None)
    thread.start()
    begun = now()
    wake.set()
    thread.join()
    assert woken[0] - begun < SLACK


def test_nothing_that_many_threads_put_into_an_inbox_is_lost() -> None:
    inbox: NativeInbox[tuple[int, int]] = NativeInbox()

    def work(who: int) -> None:
        for number in range(5000):
            inbox.put((who, number))

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    found: list[tuple[int, int]] = []

    def is_all() -> bool:
        found.extend(run(inbox.get(Instant(now() + 0.001))))
        return len(found) == 4 * 5000

    until(is_all, "everything has come")
    for who in range(4):
        assert [number for w, number in found if w == who] == list(range(5000))
