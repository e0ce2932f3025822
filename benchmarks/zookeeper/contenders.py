"""Ours and the peer on a ZooKeeper server, behind the interface of `benchmarks.contenders`.

The packages are imported here, before the fleet is forked.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from kazoo.client import KazooClient

# Imported by the first use of a client, which in a fleet is that of each process.
import tenure.engines.zookeeper.engine  # noqa: F401 - for the reason above
from benchmarks.contenders import NAME, Nobody, Tenure, Worker
from tests.servers import zookeeper
from tests.servers.zookeeper import ZooKeeperServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.contenders import Contender

PEER: Final = "kazoo Lock"

JAVA: Final = ["-Xmx512m", "-XX:TieredStopAtLevel=4"]
"""The virtual machine compiles as it does by default; the tests' setting starts quicker and runs slower."""


class Kazoo:
    """kazoo's own Lock; one client per process, with its own defaults."""

    def __init__(self, hosts: str) -> None:
        self._client = KazooClient(hosts)
        self._client.start()
        worker = KazooWorker(self._client, "/locks/warm")
        worker.enter()
        worker.leave()

    def worker(self) -> Worker:
        """A lock object of its own: one can be held once."""
        return KazooWorker(self._client, f"/locks/{NAME}")

    def close(self) -> None:
        """End the session."""
        self._client.stop()
        self._client.close()


class KazooWorker:
    """One lock object."""

    def __init__(self, client: KazooClient, path: str) -> None:
        lock = client.Lock(path)
        self.enter, self.leave = lock.acquire, lock.release


@contextmanager
def serving() -> Iterator[ZooKeeperServer]:
    """Start a server as ZooKeeper is set up by default, with its fsync, and end it.

    Raises:
        OSError: there is none on this host.
    """
    if reason := zookeeper.missing():
        raise OSError(reason)
    with ZooKeeperServer(tick=2.0, java=JAVA) as server:
        yield server


def makers(server: ZooKeeperServer) -> dict[str, Callable[[Path], Contender]]:
    """All of them, for one server; the folder is of no use to them."""
    return {
        "tenure": lambda folder: Tenure(folder, server.url),
        PEER: lambda _: Kazoo(f"{server.host}:{server.port}"),
        "sections alone": Nobody,
    }
