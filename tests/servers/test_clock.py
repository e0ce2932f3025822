"""The clocks of a running server are moved, and it believes them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.servers import clock, redis
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from pathlib import Path

REASON = redis.missing() or clock.missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")


def wall(server: RedisServer) -> float:
    seconds, microseconds = server.cli("TIME")
    return int(seconds) + int(microseconds) / 1e6


def test_a_jump_of_the_wall_clock_expires_keys_and_a_jump_back_prolongs_them() -> None:
    with RedisServer(clock=True) as server:
        assert abs(wall(server) - time.time()) < 5
        server.cli("SET", "k", "v", "PX", 10_000)
        server.clock.jump(11)
        assert server.cli("GET", "k") is None
        assert 5 < wall(server) - time.time() < 15
        server.cli("SET", "k", "v", "PX", 10_000)
        server.clock.jump(-3600)
        assert server.cli("PTTL", "k") > 3_600_000
        assert server.clock.ahead == -3589
        server.restart()
        assert -3600 < wall(server) - time.time() < -3580


def test_a_skip_moves_the_monotonic_clock_alone(tmp_path: Path) -> None:
    program = "import sys, time\nfor _ in sys.stdin: print(time.monotonic(), time.time(), flush=True)"
    with closing(clock.Clock(str(tmp_path / "clock"))) as moved:
        environment = {**os.environ, **moved.environment()}
        command = [sys.executable, "-c", program]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, text=True, env=environment, stdin=pipe, stdout=pipe) as child:

            def ask() -> list[float]:
                assert child.stdin is not None
                assert child.stdout is not None
                child.stdin.write("?\n")
                child.stdin.flush()
                return [float(word) for word in child.stdout.readline().split()]

            steady, wall_before = ask()
            moved.skip(1000)
            steady_after, wall_after = ask()
            child.kill()
    assert 1000 <= steady_after - steady < 1100
    assert 0 <= wall_after - wall_before < 100
