"""A client of etcd in threads, under gevent, under Ctrl-C, and with the rights that the docs ask for."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tenure import Client
from tests.cancellation.moments import SCENES, at_every_moment
from tests.etcd.rig import fresh, waits
from tests.faces.programs import GREENLETS
from tests.faces.watched import Attempt
from tests.servers import etcd
from tests.servers.etcd import EtcdServer
from tests.servers.processes import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cancellation.moments import Scene

pytestmark = pytest.mark.skipif(etcd.missing() is not None, reason=etcd.missing() or "")


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
def url(server: EtcdServer) -> str:
    return fresh(server.url)


def test_under_gevent_the_keeper_keeps_and_other_greenlets_run(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GREENLETS, url], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("20 True\n", "")


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.filterwarnings("ignore")  # a lease that nobody got is collected, and so is a coroutine not yet begun
def test_ctrl_c_at_any_moment(url: str, scene: Scene) -> None:
    at_every_moment(url, scene)


def test_the_rights_that_the_docs_ask_for_are_enough() -> None:
    with EtcdServer(login="p@ss:word") as server, Client(server.url, ttl=12) as client, Client(server.url) as other:
        lease = client.lock("n").acquire()
        assert other.lock("n").try_acquire() is None
        waiting: Attempt[Any] = Attempt(other.lock("n", wait=20).acquire)
        waits(client, "n")
        lease.release()
        waiting.outcome().release()
        with client.lock("n", lock_delay=1.0), client.semaphore("s", 2):
            pass
        stolen = client.lock("n").acquire()
        assert other.steal("n", stolen.token)
        assert client.names() == []
        until(lambda: stolen.lost, "it is told")
