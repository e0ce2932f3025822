"""A Redis server of our own, without persistence, and what it counts.

It is the tests' server: on a loopback port of its own, and gone when the benchmark is.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tests.servers import redis
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

ASKED: Final = ("evalsha", "eval", "set", "blpop")
"""What locks ask for. The server also counts what scripts do; none of ours or theirs does these."""


@contextmanager
def serving() -> Iterator[RedisServer]:
    """Start a server, and end it.

    Raises:
        OSError: there is none on this host, or it is too old.
    """
    if reason := redis.missing():
        raise OSError(reason)
    with RedisServer() as server:
        yield server


def calls(server: RedisServer) -> dict[str, tuple[int, int]]:
    """Each command's calls and the microseconds that they took the server, since its start."""
    found = {}
    for field, text in server.info("commandstats").items():
        values = dict(part.split("=") for part in text.split(","))
        found[field.removeprefix("cmdstat_")] = int(values["calls"]), int(values["usec"])
    return found


def asked(server: RedisServer) -> int:
    """Requests of locks since its start."""
    found = calls(server)
    return sum(found[name][0] for name in ASKED if name in found)


@contextmanager
def pinned(server: RedisServer) -> Iterator[None]:
    """This thread, and those that it starts, on the first core that we may use; the server on the second."""
    mine = os.sched_getaffinity(0)
    servers = os.sched_getaffinity(server.pid)
    first, second = sorted(mine)[:2]
    os.sched_setaffinity(0, {first})
    os.sched_setaffinity(server.pid, {second})
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)
        os.sched_setaffinity(server.pid, servers)
