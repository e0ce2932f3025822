"""Many threads on one client of a real server, and Ctrl-C in one that asks, waits or releases."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Literal

import pytest

from tenure import Client, OutcomeUnknown, StoreUnavailable
from tests.cancellation.moments import SCENES, at_every_moment
from tests.servers import zookeeper
from tests.servers.processes import until
from tests.servers.proxy import Proxy
from tests.zookeeper.rig import LONG, Attempt, has_paid, through
from tests.zookeeper.rig import url as url_of

if TYPE_CHECKING:
    from tests.cancellation.moments import Scene
    from tests.servers.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.skipif(zookeeper.missing() is not None, reason=zookeeper.missing() or "")

THREADS = 50


def test_fifty_threads_take_one_name_in_turn(client: Client) -> None:
    inside: list[int] = []
    tokens: list[int] = []

    def work(number: int) -> bool:
        for _ in range(4):
            with client.lock("n", wait=60) as lease:
                inside.append(number)
                assert inside == [number]
                tokens.append(lease.token)
                inside.pop()
        return True

    attempts = [Attempt(functools.partial(work, number)) for number in range(THREADS)]
    for attempt in attempts:
        attempt.outcome()
    assert len(tokens) == 4 * THREADS
    assert tokens == sorted(set(tokens))
    assert client.names() == []


def test_fifty_threads_hold_fifty_names_at_once(client: Client) -> None:
    barrier = threading.Barrier(THREADS)

    def work(number: int) -> int:
        with client.lock(f"n{number}", wait=30) as lease:
            barrier.wait(20)
            assert lease.held
            return lease.token

    attempts = [Attempt(functools.partial(work, number)) for number in range(THREADS)]
    tokens = [attempt.outcome() for attempt in attempts]
    assert len(set(tokens)) == THREADS
    assert client.names() == []


def test_fifty_threads_behind_a_failing_network_all_end_and_leave_nothing(server: ZooKeeperServer) -> None:
    with (
        Proxy(server.address) as proxy,
        Client(through(proxy, server), ttl=1.8) as victim,
        Client(url_of(server), ttl=LONG) as client,
    ):
        going = True

        def work(number: int) -> bool:
            while going:
                try:
                    with victim.lock(f"n{number % 10}", wait=2) as lease:
                        assert lease.token
                except (StoreUnavailable, OutcomeUnknown, TimeoutError):
                    pass
            return True

        def has_passed(count: int) -> bool:
            return proxy.passed["replies"] >= count

        attempts = [Attempt(functools.partial(work, number)) for number in range(THREADS)]
        hows: list[Literal["rst", "fin"]] = ["rst", "fin", "rst", "fin"]
        for how in hows:
            until(functools.partial(has_passed, proxy.passed["replies"] + 20_000), "it is at work")
            proxy.cut(how)
        going = False
        for attempt in attempts:
            attempt.outcome()
        until(lambda: has_paid(victim), "the keeper has paid")
        assert client.names() == []


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.filterwarnings("ignore")  # a lease that nobody got is collected, and so is a coroutine not yet begun
def test_ctrl_c_at_any_moment(server: ZooKeeperServer, scene: Scene) -> None:
    at_every_moment(url_of(server, f"/{scene.__name__}"), scene)
