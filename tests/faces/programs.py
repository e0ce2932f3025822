"""Small programs that tests start, each in a process of its own, and end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from tenure import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 60.0
"""Seconds for what must happen soon; only a failing test waits that long."""
SRC = os.path.dirname(os.path.dirname(errors.__file__))
HEAD = """
import logging, os, signal, sys, threading, time, warnings
logging.getLogger("tenure").addHandler(logging.NullHandler())
warnings.simplefilter("error")
import tenure
from tenure import Client, LeaseLost, LossReason
url = sys.argv[1]
def say(*words):
    print(*words, flush=True)
"""


def start(code: str, *arguments: str, options: tuple[str, ...] = (), **named: Any) -> subprocess.Popen[str]:
    """Start a program; its output is piped."""
    return subprocess.Popen(
        [sys.executable, *options, "-c", HEAD + code, *arguments],
        env={**os.environ, "PYTHONPATH": SRC, **named.pop("env", {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=named.pop("stderr", subprocess.STDOUT),
        text=True,
        **named,
    )


def output(code: str, *arguments: str, options: tuple[str, ...] = (), seconds: float = PATIENCE) -> list[str]:
    """Run a program to its end, which must be a good one; the lines that it says."""
    process = start(code, *arguments, options=options)
    try:
        said, _ = process.communicate(timeout=seconds)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    assert process.returncode == 0, said
    return said.splitlines()


@contextlib.contextmanager
def program(code: str, *arguments: str, **named: Any) -> Iterator[subprocess.Popen[str]]:
    """A program that runs meanwhile, and is ended afterwards, also if it is stopped."""
    process = start(code, *arguments, **named)
    with process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                if process.poll() is None:
                    os.kill(process.pid, signal.SIGCONT)
            process.kill()


def heard(process: subprocess.Popen[str]) -> str:
    """The next line that a program says."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"it ended with {process.wait(PATIENCE)} and said nothing more"
    return line.strip()


def tell(process: subprocess.Popen[str]) -> None:
    """Let a program that reads a line go on."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def eventually(happened: Callable[[], Any], what: str, within: float = PATIENCE) -> Any:
    """Poll until something is true, and give it back."""
    end = time.monotonic() + within
    while not (result := happened()):
        assert time.monotonic() < end, f"did not happen within {within:g} s: {what}"
        time.sleep(0.002)
    return result


# -- programs that run on every engine with a server -----------------------------------------------------------------

GREENLETS = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
import tenure
turns = []
with tenure.Client(sys.argv[1], ttl=60) as client:
    def worker():
        with client.lock("n", wait=20):
            turns.append(1)
            gevent.sleep(0.001)
    gevent.joinall([gevent.spawn(worker) for _ in range(20)], raise_error=True, timeout=30)
with tenure.Client(sys.argv[1], ttl=3) as client:
    lease = client.lock("kept").acquire()
    first = lease.deadline
    with gevent.Timeout(20):
        while lease.deadline < first + 1:
            gevent.sleep(0.01)
    print(len(turns), lease.held)
    lease.release()
"""
"""Under gevent: twenty greenlets take turns, and a lease is renewed."""

QUIET = """
client = Client(url, ttl=60)
held = client.lock("held").acquire()
lease = client.lock("name").acquire()
delayed = client.lock("delayed", lock_delay=5).acquire()
waiting = threading.Thread(target=lambda: client.lock("waits", wait=30).acquire().release())
if len(sys.argv) > 2:
    other = Client(url, ttl=60)
    theirs = other.lock("waits").acquire()
    waiting.start()
    while not other.inspect("waits").waiters:
        pass
say("ready")
sys.stdin.readline()
def child():
    import atexit, gc
    global lease
    for raises in (lease.check, held.release):
        try:
            raises()
        except LeaseLost:
            pass
    del lease
    gc.collect()
    client.close()
    atexit._run_exitfuncs()
in_a_child(child)
say("over")
sys.stdin.readline()
assert held.held and lease.held and delayed.held
for one in (lease, held, delayed):
    one.release()
if len(sys.argv) > 2:
    theirs.release()
    waiting.join()
    other.close()
say(client.names())
client.close()
"""
"""A forked child that says nothing to its parent's server, and closes nothing of its parent's."""
