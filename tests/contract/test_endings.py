"""How a lease ends: release, loss, close, idling, garbage collection, lock_delay, max_hold."""

from __future__ import annotations

import asyncio
import gc
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from tenure import LeaseLost, LeaseState, LossReason, TenureError, UsageError
from tests.timing import Bound, in_time

if TYPE_CHECKING:
    from tests.contract.faces import Face


async def test_a_release_frees_the_name_and_may_be_repeated(face: Face) -> None:
    client, other = face.client(), face.client()
    lease = await face(client.lock("name").acquire)
    assert (lease.state, lease.held, lease.lost) == (LeaseState.HELD, True, None)
    assert 29 < lease.remaining() < 30
    lease.check()
    await face(lease.release)
    assert (lease.state, lease.held, lease.lost) == (LeaseState.RELEASED, False, None)
    assert lease.remaining() == 0
    with pytest.raises(LeaseLost, match="released"):
        lease.check()
    taken = await face(other.lock("name", wait=0).acquire)
    await face(lease.release)
    assert taken.held
    assert [c.token for c in (await face(client.inspect, "name")).holders] == [taken.token]


async def test_a_lock_is_reusable_and_a_context_manager(face: Face) -> None:
    lock = face.client().lock("name")
    tokens = []
    for _ in range(3):
        lease = await face.main.enter(lock)
        assert lease.held
        tokens.append(lease.token)
        await face.main.leave(lock)
        assert lease.state is LeaseState.RELEASED
    assert tokens == sorted(set(tokens))


async def test_a_lease_is_a_context_manager(face: Face) -> None:
    client = face.client()
    lease = await face(client.lock("name").acquire)
    assert await face.main.enter(lease) is lease
    await face.main.leave(lease)
    assert await face(client.names) == []


async def test_one_lock_serves_two_threads_or_tasks(face: Face) -> None:
    client = face.client()
    lock = client.lock("pool", shared=True)
    one, two = face.actor(), face.actor()
    first, second = await one.enter(lock), await two.enter(lock)
    assert first.token < second.token
    await one.leave(lock)
    assert (first.held, second.held) == (False, True)
    await two.leave(lock)
    assert not second.held


async def test_leaving_a_lock_that_was_not_entered_is_refused(face: Face) -> None:
    with pytest.raises(UsageError, match="not entered"):
        await face.main.leave(face.client().lock("name"))


async def test_an_exception_of_the_body_passes_and_the_name_is_free(face: Face) -> None:
    client = face.client()
    lock = client.lock("name")
    await face.main.enter(lock)
    assert not await face.main.leave(lock, KeyError("theirs"))
    assert await face(client.names) == []


async def test_a_stolen_lease_is_told_within_a_third_of_its_ttl(face: Face) -> None:
    ttl = face.ttl(1.5)
    ours, operator = face.client(ttl=ttl), face.client()
    lease = await face(ours.lock("name").acquire)
    keeps = await face(ours.lock("other").acquire)
    begun = time.monotonic()
    assert await face(operator.steal, "name", lease.token)
    assert await face(lease.wait_lost, 5) is LossReason.STOLEN
    assert time.monotonic() - begun < ttl / 3 + Bound(0.35)
    assert lease.state is LeaseState.LOST
    assert keeps.held, "only the stolen claim is lost"
    with pytest.raises(LeaseLost) as caught:
        lease.check()
    assert (caught.value.name, caught.value.token, caught.value.reason) == ("name", lease.token, LossReason.STOLEN)
    for _ in range(2):
        with pytest.raises(LeaseLost, match="stole"):
            await face(lease.release)
    assert not caught.value.retry


async def test_a_release_that_finds_its_claim_stolen_is_a_loss(face: Face) -> None:
    ours, operator = face.client(), face.client()
    lease = await face(ours.lock("name").acquire)
    await face(operator.steal, "name", lease.token)
    with pytest.raises(LeaseLost) as caught:
        await face(lease.release)
    assert caught.value.reason is LossReason.STOLEN


async def test_steal_compares_the_token_and_a_repeat_does_nothing(face: Face) -> None:
    ours, theirs, operator = face.client(), face.client(), face.client()
    lease = await face(ours.lock("name").acquire)
    assert not await face(operator.steal, "name", lease.token - 1)
    assert not await face(operator.steal, "another", lease.token)
    waiter = face.actor().begin(theirs.lock("name", wait=20).acquire)
    await face.waiting(ours, "name", 1)
    assert await face(operator.steal, "name", lease.token) is True
    successor = await waiter
    assert successor.token > lease.token
    assert await face(operator.steal, "name", lease.token) is False
    assert successor.held
    assert [c.token for c in (await face(operator.inspect, "name")).holders] == [successor.token]


async def test_a_stolen_waiter_asks_again_at_the_end_of_the_queue(face: Face) -> None:
    ours, theirs = face.client(), face.client()
    lease = await face(ours.lock("name").acquire)
    waiter = face.actor().begin(theirs.lock("name", wait=20).acquire)
    await face.waiting(ours, "name", 1)
    stolen = (await face(ours.inspect, "name")).waiters[0].token
    assert await face(ours.steal, "name", stolen)
    await face.waiting(ours, "name", 1)
    await face(lease.release)
    assert (await waiter).token > stolen


async def test_losing_a_lease_is_raised_on_leaving(face: Face) -> None:
    ours, operator = face.client(ttl=face.ttl(0.6)), face.client()
    actor = face.actor()
    lock = ours.lock("name")
    lease = await actor.enter(lock)
    await face(operator.steal, "name", lease.token)
    await face.eventually(lambda: lease.lost, "the holder learns it")
    with pytest.raises(LeaseLost, match="stole"):
        await actor.leave(lock)


async def test_an_exception_of_the_body_passes_with_a_note_if_the_lease_was_lost(face: Face) -> None:
    ours, operator = face.client(), face.client()
    lock = ours.lock("name")
    lease = await face.main.enter(lock)
    await face(operator.steal, "name", lease.token)
    theirs = KeyError("theirs")
    assert not await face.main.leave(lock, theirs)
    assert any("stole" in note for note in theirs.__notes__)


async def test_wait_lost_ends_with_its_timeout_or_the_release(face: Face) -> None:
    lease = await face(face.client().lock("name").acquire)
    begun = time.monotonic()
    assert await face(lease.wait_lost, 0.1) is None
    assert 0.09 < time.monotonic() - begun < Bound(2)
    waiting = face.actor().begin(lease.wait_lost)
    await face.eventually(lambda: lease._claim.on_end, "it waits")
    begun = time.monotonic()
    await face(lease.release)
    assert await waiting is None
    assert time.monotonic() - begun < Bound(0.7), "woken, not found out at the next look"


async def test_closing_a_client_frees_its_names_at_once_and_ends_its_waits(face: Face) -> None:
    ours, other = face.client(), face.client()
    leases = [await face(ours.lock(f"name {number}").acquire) for number in range(5)]
    theirs = await face(other.lock("theirs").acquire)
    waits = [face.actor().begin(ours.lock("theirs", wait=30).acquire) for _ in range(3)]
    patient = face.actor().begin(other.lock("name 0", wait=20).acquire)
    await face.waiting(other, "theirs", 3)
    await face.waiting(other, "name 0", 1)
    begun = time.monotonic()
    await face(ours.close)
    for wait in waits:
        with pytest.raises(UsageError, match="closed"):
            await wait
    assert (await patient).token > leases[0].token
    assert time.monotonic() - begun < Bound(5)
    assert {lease.lost for lease in leases} == {LossReason.CLOSED}
    assert await face(other.names) == ["name 0", "theirs"]
    assert (await face(other.inspect, "theirs")).waiters == ()
    assert theirs.held
    with pytest.raises(LeaseLost):
        leases[0].check()
    with pytest.raises(LeaseLost):
        await face(leases[0].release)
    await face(ours.close)


async def test_a_closed_client_is_refused_and_one_never_opened_may_be_closed(face: Face) -> None:
    opened, unopened = face.client(), face.client()
    await face(opened.open)
    for client in (opened, unopened):
        await face(client.close)
        for call, arguments in (
            (client.lock("name").acquire, ()),
            (client.lock("name").try_acquire, ()),
            (client.inspect, ("name",)),
            (client.names, ()),
            (client.steal, ("name", 1)),
            (client.open, ()),
        ):
            with pytest.raises(UsageError, match="closed"):
                await face(call, *arguments)


async def test_a_session_that_idled_past_its_ttl_is_replaced(face: Face) -> None:
    client = face.client(ttl=face.ttl(0.3))
    lease = await face(client.lock("name").acquire)
    old = lease._claim.session.card.id
    await face(lease.release)
    await face.eventually(lambda: client._core.ledger.runtime.now() > lease.deadline + 0.05, "the session is over")
    again = await face(client.lock("name").acquire)
    assert again.held
    assert again.token > lease.token
    assert again._claim.session.card.id != old
    assert lease.state is LeaseState.RELEASED, "idling is no loss"


async def test_a_held_lease_outlives_many_ttls(face: Face) -> None:
    client, other = face.client(ttl=face.ttl(0.3)), face.client()
    lease = await face(client.lock("name").acquire)
    first = lease.deadline
    until = first + 3 * face.ttl(0.3)
    await face.eventually(lambda: in_time(lease.held, "a renewal") and lease.deadline > until, "three ttls of renewals")
    assert await face(other.lock("name").try_acquire) is None


async def test_skew_is_taken_off_each_deadline(face: Face) -> None:
    """Rule A6: a promoted server's clock may be ahead by as much."""
    lease = await face(face.client(ttl=30, skew=12).lock("name").acquire)
    assert 10 < lease.remaining() <= 30 * 0.99 - 12


async def test_a_waiter_outlives_many_ttls(face: Face) -> None:
    ours, theirs = face.client(), face.client(ttl=face.ttl(0.3))
    lease = await face(ours.lock("name").acquire)
    waiter = face.actor().begin(theirs.lock("name", wait=20).acquire)
    await face.waiting(ours, "name", 1)
    place = (await face(ours.inspect, "name")).waiters[0].token
    await asyncio.sleep(3 * face.ttl(0.3))
    await face(lease.release)
    in_time((await waiter).token == place, "the waiter's renewals")


async def test_a_lease_that_is_forgotten_is_given_back_with_a_warning(face: Face) -> None:
    client, other = face.client(), face.client()

    def forget(lease: Any) -> None:
        del lease

    async def take_and_forget() -> None:
        if face.runtime == "asyncio":
            forget(await client.lock("name").acquire())
        else:
            await face(lambda: forget(client.lock("name").acquire()))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await take_and_forget()
        gc.collect()
        # At once, though the ttl is 30 s: the keeper closes it.
        again = await face(other.lock("name", wait=5).acquire)
    assert again.held
    seen = [w for w in caught if w.category is ResourceWarning and "never released" in str(w.message)]
    assert len(seen) == 1
    assert "'name'" in str(seen[0].message)


async def test_max_hold_ends_a_lease_however_alive_its_holder_is(face: Face) -> None:
    ours, theirs = face.client(), face.client()
    lease = await face(ours.lock("name", max_hold=0.3).acquire)
    begun = time.monotonic()
    assert lease.remaining() <= 0.3
    waiter = face.actor().begin(theirs.lock("name", wait=20).acquire)
    assert await face(lease.wait_lost, 5) is LossReason.MAX_HOLD
    assert (await waiter).token > lease.token
    assert 0.25 < time.monotonic() - begun < Bound(3)
    with pytest.raises(LeaseLost, match="max_hold"):
        await face(lease.release)


async def test_max_hold_of_a_client_is_the_default_of_its_locks(face: Face) -> None:
    client = face.client(max_hold=5)
    assert (await face(client.lock("default").acquire)).remaining() <= 5
    assert (await face(client.lock("own", max_hold=9).acquire)).remaining() > 5


async def test_lock_delay_keeps_the_name_closed_after_an_unclean_end_only(face: Face) -> None:
    ours, theirs = face.client(), face.client()
    lock = ours.lock("name", lock_delay=0.5)
    await face((await face(lock.acquire)).release)
    again = await face(lock.acquire, wait=0)
    # An end that nobody asked for is unclean: whoever held it may still be at work.
    begun = time.monotonic()
    lost = await face(ours.lock("lost", lock_delay=0.5, max_hold=0.1).acquire)
    waiter = face.actor().begin(theirs.lock("lost", wait=20).acquire)
    assert await face(lost.wait_lost, 5) is LossReason.MAX_HOLD
    assert (await waiter).token > lost.token
    assert 0.55 < time.monotonic() - begun < Bound(4)
    await face(again.release)
    assert (await face(theirs.lock("name").try_acquire)).held


async def test_lock_delay_does_not_hold_up_those_behind_a_waiter_that_gave_up(face: Face) -> None:
    ours, theirs, third = face.client(), face.client(), face.client()
    lease = await face(ours.lock("name").acquire)
    with pytest.raises(TenureError):
        await face(theirs.lock("name", lock_delay=60, wait=0.05).acquire)
    await face(lease.release)
    assert (await face(third.lock("name", wait=5).acquire)).held


async def test_closing_a_client_is_a_clean_end_for_lock_delay(face: Face) -> None:
    ours, theirs = face.client(), face.client()
    await face(ours.lock("name", lock_delay=60).acquire)
    await face(ours.close)
    assert (await face(theirs.lock("name", wait=5).acquire)).held
