"""What an operator sees, and whom a wait refuses: inspect, names, info, WouldDeadlock, another event loop."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from tenure import UsageError, WouldDeadlock
from tenure.model import EXCLUSIVE, SHARED, Kind, Mode

if TYPE_CHECKING:
    from tests.contract.faces import Face


async def test_inspect_shows_holders_and_waiters_in_order(face: Face) -> None:
    ours, theirs = face.client(client="ours"), face.client(client="theirs")
    before = time.time()
    lease = await face(ours.lock("name", shared=True, info="reading").acquire)
    waiters = []
    for turn, lock in enumerate((theirs.lock("name", info="writing"), theirs.semaphore("name", 5, permits=2))):
        waiters.append(face.actor().begin(lock.acquire))
        await face.waiting(ours, "name", turn + 1)
    queue = await face(theirs.inspect, "name")
    assert queue.name == "name"
    (holder,) = queue.holders
    assert (holder.token, holder.mode, holder.holds, holder.info) == (lease.token, SHARED, True, "reading")
    assert (holder.client, holder.host, holder.pid) == ("ours", socket.gethostname(), os.getpid())
    assert before - 5 < holder.since < time.time() + 5
    assert [(c.mode, c.holds, c.info, c.client) for c in queue.waiters] == [
        (EXCLUSIVE, False, "writing", "theirs"),
        (Mode(Kind.PERMITS, 2, 5), False, "", "theirs"),
    ]
    assert holder.token < queue.waiters[0].token < queue.waiters[1].token
    await face(theirs.close)
    await asyncio.gather(*waiters, return_exceptions=True)


async def test_inspecting_a_name_that_nobody_wants(face: Face) -> None:
    queue = await face(face.client().inspect, "nobody")
    assert (queue.name, queue.holders, queue.waiters) == ("nobody", (), ())


async def test_names_lists_by_prefix_and_a_prefix_is_no_pattern(face: Face) -> None:
    client = face.client()
    wanted = ["a%b", "a/1", "a/2", "a_b", "b", "é", "\U0001f512"]
    for name in wanted:
        await face(client.lock(name).acquire)
    assert await face(client.names) == sorted(wanted)
    assert await face(client.names, "a/") == ["a/1", "a/2"]
    assert await face(client.names, "a%") == ["a%b"]
    assert await face(client.names, "a_") == ["a_b"]
    assert await face(client.names, "\U0001f512") == ["\U0001f512"]
    assert await face(client.names, "nothing") == []


@pytest.mark.parametrize("name", ["x", "x" * 512, "é" * 256, "a b:c/d?e=f&g", "'; DROP TABLE claims; --", "%00", "🔒"])
async def test_any_text_is_a_name(face: Face, name: str) -> None:
    client = face.client()
    lock = client.lock(name)
    lease = await face(lock.acquire)
    assert lock.name == lease.name == name
    assert await face(client.names) == [name]
    assert (await face(client.inspect, name)).holders[0].token == lease.token
    await face(lease.release)


async def test_info_may_be_as_long_as_promised(face: Face) -> None:
    client = face.client()
    info = "i" * 1024
    await face(client.lock("name", info=info).acquire)
    assert (await face(client.inspect, "name")).holders[0].info == info


async def test_waiting_for_oneself_is_refused_before_anything_is_queued(face: Face) -> None:
    client = face.client()
    lease = await face(client.lock("name").acquire)
    for lock in (client.lock("name"), client.lock("name", shared=True), client.lock("name", wait=None)):
        with pytest.raises(WouldDeadlock, match=str(lease.token)) as caught:
            await face(lock.acquire)
        assert isinstance(caught.value, UsageError)
    assert (await face(client.inspect, "name")).waiters == ()
    await face(lease.release)
    assert (await face(client.lock("name").acquire)).held


async def test_a_try_is_no_wait_and_never_a_deadlock(face: Face) -> None:
    client = face.client()
    await face(client.lock("name").acquire)
    assert await face(client.lock("name").try_acquire) is None


async def test_another_thread_or_task_may_wait_for_it(face: Face) -> None:
    client = face.client()
    lease = await face(client.lock("name").acquire)
    waiter = face.actor().begin(client.lock("name", wait=20).acquire)
    await face.waiting(client, "name", 1)
    await face(lease.release)
    assert (await waiter).held


async def test_handing_a_lease_over_lifts_the_deadlock(face: Face) -> None:
    client = face.client()
    lease = await face(client.lock("name").acquire)
    lease.hand_over()
    waiter = face.main.begin(client.lock("name", wait=20).acquire)
    await face.eventually(
        lambda: len(client._core.ledger.sessions[-1].claims) == 2, "the first thread or task waits itself"
    )
    await face.actor()(lease.release)
    assert (await waiter).token > lease.token


@pytest.mark.needs("shared", "semaphore")
async def test_what_fits_together_is_no_deadlock(face: Face) -> None:
    client = face.client()
    for _ in range(2):
        assert (await face(client.lock("shared", shared=True).acquire)).held
    assert (await face(client.semaphore("pool", 4, permits=2).acquire)).held
    assert (await face(client.semaphore("pool", 4, permits=2).acquire)).held
    with pytest.raises(WouldDeadlock):
        await face(client.semaphore("pool", 4).acquire)
    with pytest.raises(WouldDeadlock):
        await face(client.lock("shared").acquire)


async def test_a_lost_or_released_lease_is_no_deadlock(face: Face) -> None:
    client, operator = face.client(ttl=face.ttl(1.2)), face.client()
    lease = await face(client.lock("name").acquire)
    await face(operator.steal, "name", lease.token)
    assert await face(lease.wait_lost, 5)
    assert (await face(client.lock("name", wait=5).acquire)).held


async def test_a_client_belongs_to_one_event_loop(face: Face) -> None:
    if face.runtime != "asyncio":
        pytest.skip("threads have no loop")
    client = face.client()
    here = asyncio.get_running_loop()
    await face(client.open)
    seen: list[Any] = []

    async def elsewhere() -> None:
        seen.append(asyncio.get_running_loop())
        await client.lock("name").acquire()

    with pytest.raises(UsageError) as caught:
        await asyncio.to_thread(asyncio.run, elsewhere())
    assert repr(here) in str(caught.value)
    assert repr(seen[0]).split(" running=")[0] in str(caught.value)


async def test_many_may_open_one_client_at_once(face: Face) -> None:
    client = face.client()
    leases = await asyncio.gather(*(face.actor()(client.lock(f"name {n}").acquire) for n in range(8)))
    parts = {client._core.engine.part(lease._claim.name) for lease in leases}
    assert len({lease._claim.session for lease in leases}) <= len(parts) or face.runtime == "blocking"
    assert len({id(lease._core.ledger) for lease in leases}) == 1


async def test_a_lock_says_what_it_is(face: Face) -> None:
    client = face.client()
    lock = client.semaphore("name", 5, permits=2)
    assert (lock.name, lock.mode) == ("name", Mode(Kind.PERMITS, 2, 5))
    assert "'name'" in repr(lock)
    lease = await face(lock.acquire)
    assert str(lease.token) in repr(lease)
    assert "held" in repr(lease)
