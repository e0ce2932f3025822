"""Ours and the best of the peers on a node of etcd, behind the interface of `benchmarks.contenders`.

The node is the tests', at etcd's own settings for time. It counts the messages of gRPC in both directions.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import aetcd

# Imported by the first use of a client, which in a fleet is that of each process.
import tenure.engines.etcd.engine  # noqa: F401 - for the reason above
from benchmarks.contenders import NAME, Nobody, Tenure, Worker
from tests.servers import etcd
from tests.servers.etcd import EtcdServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.contenders import Contender

PEER: Final = "aetcd"

TTL: Final = 10


@contextmanager
def serving() -> Iterator[EtcdServer]:
    """Start a node, and end it.

    Raises:
        OSError: there is no etcd on this host.
    """
    if reason := etcd.missing():
        raise OSError(reason)
    with EtcdServer(heartbeat_ms=100) as server:
        yield server


class Aetcd:
    """aetcd, the quickest of the locks for Python in its own measure; each worker has a loop and a client."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._workers: list[AetcdWorker] = []

    def worker(self) -> Worker:
        """A lock object of its own."""
        worker = AetcdWorker(self._port)
        self._workers.append(worker)
        return worker

    def close(self) -> None:
        """The end of the process closes the connections."""


class AetcdWorker:
    """One lock object in one loop."""

    def __init__(self, port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._connect(port))

    async def _connect(self, port: int) -> None:
        self._client = aetcd.Client(port=port, timeout=60)
        await self._client.connect()
        self._lock = self._client.lock(NAME.encode(), ttl=TTL)

    def enter(self) -> None:
        """Wait for the lock."""
        assert self._loop.run_until_complete(self._lock.acquire(timeout=None))

    def leave(self) -> None:
        """Let it go."""
        self._loop.run_until_complete(self._lock.release())


def makers(server: EtcdServer) -> dict[str, Callable[[Path], Contender]]:
    """All of them, for one node; the folder is of no use to them."""
    url, port = server.url, server.port
    return {
        "tenure": lambda folder: Tenure(folder, url),
        PEER: lambda _: Aetcd(port),
        "sections alone": Nobody,
    }


def asked(server: EtcdServer) -> int:
    """Messages since its start."""
    return int(server.messages())
