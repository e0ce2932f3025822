"""Ctrl-C in a thread that asks a real server, waits or releases."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from tenure import Client
from tests.cancellation.moments import SCENES, at_every_moment
from tests.faces.programs import PATIENCE, heard, program, tell
from tests.faces.watched import waits
from tests.redis.rig import listens
from tests.servers import redis
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cancellation.moments import Scene

pytestmark = pytest.mark.skipif(redis.missing() is not None, reason=redis.missing() or "")
LONG: Final = 60.0


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer(extra=["databases 1000"]) as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[Client]:
    with Client(server.url, ttl=LONG) as client:
        yield client


def test_ctrl_c_in_a_waiting_thread_leaves_nothing_in_the_queue(server: RedisServer, client: Client) -> None:
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
    # Ctrl-C while redis-py connects leaves its socket to the collector, which says so on stderr.
    with program(code, server.url, stderr=subprocess.DEVNULL) as process:
        for turn in range(3):
            tell(process)
            assert heard(process) == "waits"
            waits(client, "name")
            if turn:
                # Also while it listens, not only while it connects.
                listens(server)
            process.send_signal(signal.SIGINT)
            assert heard(process) == "interrupted"
            waits(client, "name", 0)
        assert heard(process) == "goes on"
        tell(process)
        assert process.wait(PATIENCE) == 0
    held.release()


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.filterwarnings("ignore")  # a lease that nobody got is collected, and so is a coroutine not yet begun
def test_ctrl_c_at_any_moment(server: RedisServer, scene: Scene) -> None:
    at_every_moment(server.url, scene)
