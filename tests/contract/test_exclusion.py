"""Who holds a name: exclusion, order, tokens, sharing, permits and floors."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tenure import AcquireTimeout
from tests.timing import Bound

if TYPE_CHECKING:
    from tests.contract.faces import Face


async def test_many_contenders_never_hold_together_and_none_is_forgotten(face: Face) -> None:
    clients = [face.client() for _ in range(3)]
    inside: list[int] = []
    tokens: list[int] = []

    async def contend(number: int) -> None:
        actor = face.actor()
        for _ in range(5):
            lease = await actor(clients[number % 3].lock("busy", wait=20).acquire)
            inside.append(number)
            tokens.append(lease.token)
            assert inside == [number]
            await asyncio.sleep(0)
            assert inside == [number]
            inside.pop()
            await actor(lease.release)

    await asyncio.gather(*(contend(number) for number in range(9)))
    assert len(tokens) == 45
    assert tokens == sorted(set(tokens))


@pytest.mark.needs("fifo")
async def test_waiters_are_served_in_the_order_in_which_they_came(face: Face) -> None:
    clients = [face.client() for _ in range(3)]
    first = await face(clients[0].lock("queue").acquire)
    served: list[int] = []

    async def wait_in_line(number: int) -> None:
        actor = face.actor()
        lease = await actor(clients[number % 3].lock("queue", wait=20).acquire)
        served.append(number)
        await actor(lease.release)

    waiters = []
    for number in range(8):
        waiters.append(asyncio.create_task(wait_in_line(number)))
        await face.waiting(clients[0], "queue", number + 1)
    await face(first.release)
    await asyncio.gather(*waiters)
    assert served == list(range(8))


async def test_tokens_rise_over_release_acquire_and_clients(face: Face) -> None:
    clients = [face.client() for _ in range(3)]
    tokens = []
    for turn in range(12):
        lease = await face(clients[turn % 3].lock("name").acquire)
        assert lease.floor == lease.token
        tokens.append(lease.token)
        await face(lease.release)
    assert tokens == sorted(set(tokens))


async def test_tokens_rise_after_the_last_client_has_gone(face: Face) -> None:
    tokens = []
    for _ in range(3):
        client = face.client()
        tokens.append((await face(client.lock("name").acquire)).token)
        await face(client.close)
        if face.scheme == "memory":
            break  # the store may be gone with its last client; a process that has none has no tokens to compare
    assert tokens == sorted(set(tokens))


async def test_names_do_not_disturb_each_other(face: Face) -> None:
    client = face.client()
    held = [await face(client.lock(f"name {number}", wait=0).acquire) for number in range(10)]
    assert all(lease.held for lease in held)


async def test_try_acquire_answers_at_once(face: Face) -> None:
    ours, theirs = face.client(), face.client()
    lease = await face(ours.lock("name").try_acquire)
    begun = time.monotonic()
    assert await face(theirs.lock("name").try_acquire) is None
    assert time.monotonic() - begun < Bound(2)
    assert [c.token for c in (await face(theirs.inspect, "name")).waiters] == []
    await face(lease.release)
    again = await face(theirs.lock("name").try_acquire)
    assert again.token > lease.token


async def test_a_try_does_not_overtake_those_who_wait(face: Face) -> None:
    ours, theirs, third = face.client(), face.client(), face.client()
    first = await face(ours.lock("name", shared=True).acquire)
    waiter = face.actor().begin(theirs.lock("name").acquire)
    await face.waiting(ours, "name", 1)
    # It would fit the holder, but somebody was there before.
    assert await face(third.lock("name", shared=True).try_acquire) is None
    await face(first.release)
    assert (await waiter).held


async def test_wait_0_of_a_lock_and_of_a_call_only_try(face: Face) -> None:
    ours, theirs = face.client(), face.client()
    await face(ours.lock("name").acquire)
    for lock, named in ((theirs.lock("name", wait=0), {}), (theirs.lock("name"), {"wait": 0})):
        with pytest.raises(AcquireTimeout):
            await face(lock.acquire, **named)
    assert (await face(ours.inspect, "name")).waiters == ()


async def test_a_timeout_tells_who_holds_the_name_and_leaves_the_queue(face: Face) -> None:
    ours = face.client(client="billing")
    theirs, third = face.client(), face.client()
    lease = await face(ours.lock("orders/42", info="nightly run").acquire)
    waiter = face.actor().begin(third.lock("orders/42", wait=20).acquire)
    await face.waiting(ours, "orders/42", 1)
    begun = time.monotonic()
    with pytest.raises(AcquireTimeout) as caught:
        await face(theirs.lock("orders/42").acquire, wait=0.1)
    error = caught.value
    assert 0.09 < time.monotonic() - begun < Bound(5)
    assert isinstance(error, TimeoutError)
    assert error.retry
    assert error.name == "orders/42"
    assert error.waited >= 0.1
    assert error.queue is not None
    holder = error.queue.holders[0]
    import os
    import socket

    assert (holder.token, holder.client, holder.host, holder.pid, holder.info) == (
        lease.token,
        "billing",
        socket.gethostname(),
        os.getpid(),
        "nightly run",
    )
    assert abs(holder.since - time.time()) < 60
    for word in ("orders/42", "billing", socket.gethostname(), str(os.getpid()), "nightly run", str(lease.token)):
        assert word in str(error)
    assert "1 waiting" in str(error) or "2 waiting" in str(error)
    await face.waiting(ours, "orders/42", 1)
    await face(lease.release)
    assert (await waiter).held


async def test_who_gives_up_does_not_hold_up_those_behind(face: Face) -> None:
    ours, theirs, third = face.client(), face.client(), face.client()
    lease = await face(ours.lock("name").acquire)
    for client in (theirs, third):
        # Connecting, by TLS and through sentinels, may take longer than the first one's patience.
        await face(client.names)
    gives_up = face.actor().begin(theirs.lock("name", wait=1).acquire)
    await face.waiting(ours, "name", 1)
    patient = face.actor().begin(third.lock("name", wait=20).acquire)
    await face.waiting(ours, "name", 2)
    with pytest.raises(AcquireTimeout):
        await gives_up
    await face(lease.release)
    assert (await patient).token > lease.token


@pytest.mark.needs("shared")
async def test_shared_holders_are_the_prefix_before_the_first_exclusive(face: Face) -> None:
    clients = [face.client() for _ in range(5)]
    readers = [await face(clients[n].lock("name", shared=True, wait=0).acquire) for n in (0, 1)]
    assert [lease.floor for lease in readers] == [readers[0].token] * 2
    writer = face.actor().begin(clients[2].lock("name", wait=20).acquire)
    await face.waiting(clients[0], "name", 1)
    late = face.actor().begin(clients[3].lock("name", shared=True, wait=20).acquire)
    await face.waiting(clients[0], "name", 2)
    await face(readers[0].release)
    assert not writer.done()
    await face(readers[1].release)
    exclusive = await writer
    assert exclusive.floor == exclusive.token > readers[1].token
    assert not late.done()
    await face(exclusive.release)
    assert (await late).token > exclusive.token


@pytest.mark.needs("shared")
async def test_a_departing_reader_keeps_the_floor_for_those_who_join_later(face: Face) -> None:
    clients = [face.client() for _ in range(3)]
    one, two = [await face(clients[n].lock("name", shared=True).acquire) for n in (0, 1)]
    await face(one.release)
    three = await face(clients[2].lock("name", shared=True).acquire)
    # Nobody incompatible came in between, so none of the three shuts another out (B8).
    assert (one.floor, two.floor) == (one.token, one.token)
    assert one.token <= three.floor <= two.token
    assert three.token > two.token


@pytest.mark.needs("semaphore")
async def test_a_semaphore_admits_as_many_as_it_has_permits(face: Face) -> None:
    clients = [face.client() for _ in range(4)]
    held = [await face(clients[n].semaphore("pool", 3, wait=0).acquire) for n in range(3)]
    assert {lease.floor for lease in held} == {held[0].token}
    waiter = face.actor().begin(clients[3].semaphore("pool", 3, wait=20).acquire)
    await face.waiting(clients[0], "pool", 1)
    # Any departure makes room, not only that of the oldest.
    await face(held[1].release)
    assert (await waiter).held


@pytest.mark.needs("semaphore")
async def test_permits_are_summed_and_nobody_overtakes_one_who_needs_many(face: Face) -> None:
    clients = [face.client() for _ in range(4)]
    first = await face(clients[0].semaphore("pool", 4, permits=3).acquire)
    large = face.actor().begin(clients[1].semaphore("pool", 4, permits=2, wait=20).acquire)
    await face.waiting(clients[0], "pool", 1)
    assert await face(clients[2].semaphore("pool", 4).try_acquire) is None
    await face(first.release)
    await large
    assert (await face(clients[2].semaphore("pool", 4, permits=2).try_acquire)).held
    assert await face(clients[3].semaphore("pool", 4).try_acquire) is None


@pytest.mark.needs("semaphore")
async def test_the_smallest_limit_among_the_holders_counts(face: Face) -> None:
    clients = [face.client() for _ in range(4)]
    wide = [await face(clients[n].semaphore("pool", 3).acquire) for n in (0, 1)]
    # A smaller limit ejects nobody (B5): it waits until it fits.
    narrow = face.actor().begin(clients[2].semaphore("pool", 2, wait=20).acquire)
    await face.waiting(clients[0], "pool", 1)
    assert all(lease.held for lease in wide)
    await face(wide[0].release)
    await narrow
    # Now its limit of two counts, for the wide one too.
    assert await face(clients[3].semaphore("pool", 3).try_acquire) is None


@pytest.mark.needs("semaphore", "shared")
async def test_kinds_do_not_mix(face: Face) -> None:
    ours, theirs = face.client(), face.client()
    locks: list[tuple[Any, Any]] = [
        (ours.lock("a"), theirs.lock("a", shared=True)),
        (ours.lock("b", shared=True), theirs.semaphore("b", 9)),
        (ours.semaphore("c", 9), theirs.lock("c", shared=True)),
        (ours.semaphore("d", 9), theirs.lock("d")),
    ]
    for held, asked in locks:
        await face(held.acquire)
        assert await face(asked.try_acquire) is None


async def test_namespaces_are_apart(face: Face) -> None:
    ours, theirs = face.client(namespace="one"), face.client(namespace="two")
    lease = await face(ours.lock("name").acquire)
    other = await face(theirs.lock("name", wait=0).acquire)
    assert lease.name == other.name == "name"
    assert lease.grant.authority != other.grant.authority
    assert await face(ours.names) == ["name"]
    assert (await face(theirs.inspect, "name")).holders[0].token == other.token


async def test_one_session_holds_many_leases(face: Face) -> None:
    client, other = face.client(), face.client()
    leases = [await face(client.lock(f"many/{number:03}").acquire) for number in range(250)]
    parts = {client._core.engine.part(lease._claim.name) for lease in leases}
    assert len({lease._claim.session for lease in leases}) == len(parts) <= 16
    assert len(await face(other.names, "many/")) == 250
    await face(client.close)
    assert await face(other.names, "many/") == []


def threads() -> int:
    """How many threads this process has; also those that Python does not know."""
    return len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_one_keeper_serves_whatever_is_held(face: Face) -> None:
    before = threads()
    client = face.client()
    assert threads() <= before, "a client that was only described"
    await face(client.lock("first").acquire)
    with_one = threads()
    for number in range(30):
        await face(client.lock(f"name {number}").acquire)
    assert threads() <= with_one
