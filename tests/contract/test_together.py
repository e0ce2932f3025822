"""Several names at once: taken in one order, held and lost together (B11)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tenure import AcquireTimeout, LeaseLost, LeaseState, LossReason, WouldDeadlock

if TYPE_CHECKING:
    from tests.contract.faces import Face


async def test_each_name_has_a_token_and_all_are_given_back_together(face: Face) -> None:
    client, other = face.client(), face.client()
    locks = client.lock_all(["b", "a", "c", "a"])
    assert locks.names == ("b", "a", "c")
    leases = await face.main.enter(locks)
    assert sorted(leases) == ["a", "b", "c"]
    assert (leases.held, leases.lost) == (True, None)
    assert 0 < leases.remaining() <= min(lease.remaining() for lease in leases.values()) + 0.1
    leases.check()
    for name, lease in leases.items():
        assert (lease.name, lease.held) == (name, True)
        assert [c.token for c in (await face(other.inspect, name)).holders] == [lease.token]
        assert await face(other.lock(name).try_acquire) is None
    await face.main.leave(locks)
    assert leases.state is LeaseState.RELEASED
    with pytest.raises(LeaseLost, match="released"):
        leases.check()
    await face.is_free(client)
    await face(leases.release)


async def test_those_who_name_the_same_in_other_orders_never_wait_in_a_circle(face: Face) -> None:
    clients = [face.client() for _ in range(2)]
    inside: dict[str, int] = {}

    async def contend(number: int, names: list[str]) -> None:
        actor = face.actor()
        for _ in range(4):
            leases = await actor(clients[number % 2].lock_all(names, wait=20).acquire)
            for name in names:
                assert inside.setdefault(name, number) == number
            await asyncio.sleep(0)
            for name in names:
                del inside[name]
            await actor(leases.release)

    await asyncio.gather(*(contend(n, names) for n, names in enumerate((["a", "b"], ["b", "a"], ["c", "a"]))))


async def test_one_busy_name_leaves_nothing_held(face: Face) -> None:
    client, other = face.client(), face.client()
    busy = await face(other.lock("m").acquire)
    locks = client.lock_all(["a", "m", "z"], wait=0.5)
    assert await face(locks.try_acquire) is None
    with pytest.raises(AcquireTimeout) as over:
        await face(locks.acquire)
    assert over.value.name == "m"
    assert over.value.queue is not None
    assert [c.token for c in over.value.queue.holders] == [busy.token]
    await face.eventually(lambda: _names_are(face, other, ["m"]), "the others are free")
    await face(busy.release)
    assert (await face(locks.acquire)).held


async def _names_are(face: Face, client: object, names: list[str]) -> bool:
    found: list[str] = await face(client.names)  # type: ignore[attr-defined]  # a client of either face
    return found == names


async def test_one_that_is_lost_takes_the_others_along(face: Face) -> None:
    client, operator = face.client(ttl=face.ttl(1.0)), face.client()
    locks = client.lock_all(["a", "b", "c"])
    leases = await face.main.enter(locks)
    assert await face(operator.steal, "b", leases["b"].token)
    await face.eventually(lambda: not leases.held, "the loss is told")
    assert [leases[name].lost for name in "abc"] == [LossReason.TOGETHER, LossReason.STOLEN, LossReason.TOGETHER]
    assert leases.lost is LossReason.STOLEN
    with pytest.raises(LeaseLost, match=r"'b'.*stole"):
        leases.check()
    await face.is_free(operator)
    # The body of a task was cancelled; of a thread, it was not.
    with pytest.raises(LeaseLost):
        await face.main.leave(locks)


async def test_one_may_be_given_back_before_the_others(face: Face) -> None:
    client, other = face.client(), face.client()
    leases = await face(client.lock_all(["a", "b"]).acquire)
    await face(leases["a"].release)
    assert (leases["b"].held, leases.held, leases.state) == (True, False, LeaseState.RELEASED)
    assert (await face(other.lock("a", wait=0).acquire)).held
    assert await face(other.lock("b").try_acquire) is None
    await face(leases.release)
    assert (await face(other.lock("b", wait=0).acquire)).held


async def test_whoever_holds_one_of_them_is_told(face: Face) -> None:
    client = face.client()
    lease = await face(client.lock("b").acquire)
    with pytest.raises(WouldDeadlock, match="'b'"):
        await face(client.lock_all(["a", "b"]).acquire)
    assert await face(client.names) == ["b"]
    assert lease.held


@pytest.mark.needs("shared")
async def test_readers_of_the_same_names_hold_them_together(face: Face) -> None:
    clients = [face.client(), face.client()]
    readers = [await face(client.lock_all(["a", "b"], shared=True).acquire) for client in clients]
    assert all(leases.held for leases in readers)
    assert readers[1]["a"].floor == readers[0]["a"].token
    assert await face(face.client().lock_all(["b", "c"]).try_acquire) is None
