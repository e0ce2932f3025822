"""Many threads of one client of a real server: they take turns, hold at once, share connections, and all end."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Final, Literal

from tenure import OutcomeUnknown, StoreUnavailable
from tests.faces.watched import LONG, Attempt, has_paid
from tests.servers.processes import until

if TYPE_CHECKING:
    from tenure import Client
    from tests.network.places import Place, Way
    from tests.servers.proxy import Proxy

THREADS: Final = 50


def test_fifty_threads_take_one_name_in_turn_over_few_connections(place: Place, way: Way, proxy: Proxy) -> None:
    inside: list[int] = []
    tokens: list[int] = []
    with way.client(ttl=LONG) as client:

        def work(number: int) -> bool:
            for _ in range(4):
                with client.lock("n", wait=60) as lease:
                    inside.append(number)
                    assert inside == [number]
                    tokens.append(lease.token)
                    inside.pop()
            return True

        attempts = [Attempt(functools.partial(work, number)) for number in range(THREADS)]
        assert all(attempt.outcome() for attempt in attempts)
        assert len(tokens) == 4 * THREADS
        assert tokens == sorted(set(tokens))
        assert client.names() == []
        # One that was given up for a slow answer may not have ended yet.
        until(lambda: proxy.connections <= place.for_threads, "no more connections than that")


def test_fifty_threads_hold_fifty_names_at_once(witness: Client) -> None:
    barrier = threading.Barrier(THREADS)

    def work(number: int) -> int:
        with witness.lock(f"n{number}", wait=30) as lease:
            barrier.wait(20)
            assert lease.held
            return lease.token

    attempts = [Attempt(functools.partial(work, number)) for number in range(THREADS)]
    assert all(attempt.outcome() for attempt in attempts)
    assert witness.names() == []


def test_fifty_threads_behind_a_failing_network_all_end_and_leave_nothing(
    way: Way, witness: Client, proxy: Proxy
) -> None:
    with way.client() as client:
        going = True

        def work(number: int) -> bool:
            while going:
                try:
                    with client.lock(f"n{number % 10}", wait=2) as lease:
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
        assert all(attempt.outcome() for attempt in attempts)
        until(lambda: has_paid(client), "the keeper has paid")
        assert witness.names() == []
