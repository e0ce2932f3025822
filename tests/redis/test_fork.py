"""Forks with a real server: a child holds nothing of its parent's, and says nothing on its parent's connections."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

import pytest

from tests.faces.programs import PATIENCE, QUIET, heard, output, program, tell

# The same programs as on SQLite.
from tests.faces.test_fork import (  # noqa: F401
    CHILD,
    test_a_block_that_both_leave_is_released_by_the_parent_alone,
    test_a_child_sees_forked_reconnects_and_leaves_the_parents_lease_alone,
    test_a_child_that_collects_closes_or_exits_releases_nothing,
    test_a_fork_while_other_threads_use_an_open_client,
    test_a_fork_while_other_threads_use_the_client,
    test_asyncio_in_a_child,
    test_multiprocessing,
    test_preloaded_client_and_forked_workers,
)
from tests.servers import redis

if TYPE_CHECKING:
    from tests.servers.redis import RedisServer

pytestmark = [
    pytest.mark.skipif(redis.missing() is not None, reason=redis.missing() or ""),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]

FORKS: Final = ("-W", "ignore::DeprecationWarning")


@pytest.fixture
def url(server: RedisServer) -> str:
    return server.url


class Monitor:
    """Every command that a server is sent, and from where."""

    def __init__(self, server: RedisServer) -> None:
        self._connection = server.connect()
        self._connection.call("MONITOR")
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        line = ""
        while '"end of monitor"' not in line:
            line = str(self._connection.read())
            self._lines.append(line)

    def end(self, server: RedisServer) -> list[str]:
        """What it saw until now."""
        server.cli("ECHO", "end of monitor")
        self._thread.join(20)
        self._connection.close()
        return self._lines[:-1]


def peers(server: RedisServer) -> set[str]:
    """The addresses of tenure's connections."""
    lines = server.cli("CLIENT", "LIST").splitlines()
    return {line.split(" addr=")[1].split()[0] for line in lines if " name=tenure " in line}


@pytest.mark.parametrize("mailbox", [False, True])
def test_a_child_says_nothing_and_closes_nothing_of_its_parents(server: RedisServer, mailbox: bool) -> None:
    arguments = ["with a mailbox"] if mailbox else []
    with program(CHILD + QUIET, server.url, *arguments, options=FORKS) as process:
        assert heard(process) == "ready"
        if mailbox:
            while server.info("clients")["blocked_clients"] != "1":
                pass
        before = peers(server)
        assert len(before) >= 2
        monitor = Monitor(server)
        tell(process)
        assert heard(process) == "over"
        assert peers(server) == before
        said = [line for line in monitor.end(server) if '"CLIENT"' not in line]
        assert said == []
        tell(process)
        assert heard(process) == "[]"
        assert process.wait(PATIENCE) == 0


def test_a_child_that_uses_the_client_has_connections_of_its_own(server: RedisServer) -> None:
    code = """
client = Client(url, ttl=60)
lease = client.lock("name").acquire()
say("ready")
def child():
    mine = client.lock("mine").acquire()
    say("child")
    sys.stdin.readline()
    mine.release()
    client.close()
in_a_child(child)
assert lease.held
lease.release()
say(client.names())
client.close()
"""
    with program(CHILD + code, server.url, options=FORKS) as process:
        assert heard(process) == "ready"
        before = peers(server)
        assert heard(process) == "child"
        during = peers(server)
        assert before < during
        tell(process)
        assert heard(process) == "[]"


def test_a_fork_while_another_thread_waits_for_a_connection(url: str) -> None:
    """The child inherits the stock's lock as it was: taken, by a thread that it does not have."""
    said = output(
        """
client = Client(url, ttl=60)
client.lock("name").acquire().release()
taken, done = threading.Event(), threading.Event()
def take():
    with client._core.store._wire._changed:
        taken.set()
        done.wait(20)
thread = threading.Thread(target=take)
thread.start()
taken.wait(20)
pid = os.fork()
if pid == 0:
    with client.lock("child") as lease:
        assert lease.held
    client.close()
    os._exit(0)
end = time.monotonic() + 15
while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < end:
    time.sleep(0.01)
if ended[0] == 0:
    os.kill(pid, signal.SIGKILL)
    ended = os.waitpid(pid, 0)
done.set()
thread.join()
say(ended[1])
client.close()
""",
        url,
        options=FORKS,
    )
    assert said == ["0"]
