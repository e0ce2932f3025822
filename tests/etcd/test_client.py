"""A client of etcd in threads, under gevent, under Ctrl-C, and with the rights that the docs ask for."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

from tenure import Client
from tenure.engines.etcd.transport_blocking import CONNECTIONS_MOST
from tests.cancellation.moments import SCENES, at_every_moment
from tests.etcd.rig import fresh, through, waits
from tests.faces.programs import GREENLETS
from tests.faces.watched import Attempt
from tests.servers import etcd
from tests.servers.etcd import EtcdServer
from tests.servers.processes import until
from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cancellation.moments import Scene

pytestmark = pytest.mark.skipif(etcd.missing() is not None, reason=etcd.missing() or "")

THREADS: Final = 50


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


def test_fifty_threads_take_one_name_in_turn_over_few_connections(server: EtcdServer, url: str) -> None:
    inside: list[int] = []
    tokens: list[int] = []
    with Proxy(server.address) as proxy, Client(through(proxy, url), ttl=30) as client:

        def work(number: int) -> bool:
            for _ in range(3):
                with client.lock("n", wait=60) as lease:
                    inside.append(number)
                    assert inside == [number]
                    tokens.append(lease.token)
                    inside.pop()
            return True

        attempts = [Attempt(functools.partial(work, number)) for number in range(THREADS)]
        assert all(attempt.outcome() for attempt in attempts)
        assert len(tokens) == 3 * THREADS
        assert tokens == sorted(set(tokens))
        assert client.names() == []
        # The callers', the keeper's, the mailbox's.
        assert proxy.connections <= CONNECTIONS_MOST + 2


def test_fifty_threads_hold_fifty_names_at_once(url: str) -> None:
    barrier = threading.Barrier(THREADS)
    with Client(url, ttl=30) as client:

        def work(number: int) -> int:
            with client.lock(f"n{number}", wait=30) as lease:
                barrier.wait(20)
                assert lease.held
                return lease.token

        attempts = [Attempt(functools.partial(work, number)) for number in range(THREADS)]
        assert len({attempt.outcome() for attempt in attempts}) == THREADS
        assert client.names() == []


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
