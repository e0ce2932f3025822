"""What a client tells of itself: events, and the log."""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from tenure import AcquireTimeout, LeaseLost, LossReason, StoreUnavailable
from tenure.observe import (
    Abandoned,
    Claimed,
    Event,
    Granted,
    LimitsDiffer,
    Lost,
    Released,
    Renewed,
    Stolen,
    Suspect,
)
from tests.timing import in_time

if TYPE_CHECKING:
    from tests.contract.faces import Face

E = TypeVar("E", bound=Event)


def of(kind: type[E], events: list[Event]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


async def test_a_lock_that_is_free_is_granted_and_released(face: Face) -> None:
    events: list[Event] = []
    client = face.client(on_event=events.append)
    lease = await face(client.lock("name").acquire)
    await face(lease.release)
    granted, released = events
    assert isinstance(granted, Granted)
    assert (granted.name, granted.token) == ("name", lease.token)
    assert 0 <= granted.waited < 5
    assert 25 < granted.remaining < 30
    assert isinstance(released, Released)
    assert (released.name, released.token, released.confirmed) == ("name", lease.token, True)
    assert 0 <= released.held < 5


async def test_a_wait_is_claimed_and_one_that_gives_up_abandoned(face: Face) -> None:
    events: list[Event] = []
    ours, theirs = face.client(), face.client(on_event=events.append)
    await face(ours.lock("name").acquire)
    with pytest.raises(AcquireTimeout):
        await face(theirs.lock("name", wait=0.05).acquire)
    claimed, abandoned = events
    assert isinstance(claimed, Claimed)
    assert isinstance(abandoned, Abandoned)
    assert claimed.number == abandoned.number > 0
    assert claimed.name == abandoned.name == "name"


async def test_heartbeats_are_told(face: Face) -> None:
    events: list[Event] = []
    client = face.client(ttl=face.ttl(0.3), on_event=events.append)
    lease = await face(client.lock("one").acquire)
    part, names = client._core.engine.part, (f"two {n}" for n in itertools.count())
    # A store of several parts renews in each of them.
    other = next(name for name in names if part(client._core.key(name)) == part(lease._claim.name))
    await face(client.lock(other).acquire)
    renewed = await face.eventually(lambda: of(Renewed, events)[1:], "two renewals")
    assert renewed[0].name == ""
    assert renewed[0].leases == 2
    in_time(renewed[0].remaining > 0.05, "a renewal well before the end")
    assert renewed[0].remaining < face.ttl(0.3)


async def test_a_steal_is_told_to_both_sides(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    robbed: list[Event] = []
    thief: list[Event] = []
    ours = face.client(ttl=face.ttl(0.6), on_event=robbed.append)
    theirs = face.client(on_event=thief.append)
    lease = await face(ours.lock("name").acquire)
    with caplog.at_level(logging.INFO, "tenure"):
        await face(theirs.steal, "name", lease.token)
        (lost,) = await face.eventually(lambda: of(Lost, robbed), "the robbed learn it")
    assert thief == [Stolen("name", lease.token)]
    assert (lost.name, lost.token, lost.reason) == ("name", lease.token, LossReason.STOLEN)
    assert 0 <= lost.held < 5
    told = {(record.levelname, record.name) for record in caplog.records if "name" in record.getMessage()}
    assert told == {("INFO", "tenure"), ("ERROR", "tenure")}


async def test_a_steal_that_found_nothing_is_no_event(face: Face) -> None:
    events: list[Event] = []
    client = face.client(on_event=events.append)
    assert not await face(client.steal, "name", 1)
    assert events == []


async def test_failing_renewals_are_suspect_until_one_is_answered(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    events: list[Event] = []
    client = face.client(ttl=face.ttl(0.9), on_event=events.append)
    cut = CutOff(client)
    lease = await face(client.lock("name").acquire)
    cut.off = True
    with caplog.at_level(logging.WARNING, "tenure"):
        (suspect,) = await face.eventually(lambda: of(Suspect, events), "a renewal fails")
    assert (suspect.name, suspect.leases) == ("", 1)
    assert 0 < suspect.remaining < face.ttl(0.9)
    assert "cut off" in suspect.cause
    assert lease.held
    assert lease.state.value == "suspect"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    cut.off = False
    await face.eventually(lambda: lease.state.value == "held", "it recovers")
    lease.check()
    assert len(of(Suspect, events)) == 1, "once for a row of failures"


async def test_an_engine_that_cannot_be_reached_costs_the_lease_at_its_deadline(
    face: Face, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Event] = []
    client = face.client(ttl=face.ttl(0.9), on_event=events.append)
    cut = CutOff(client)
    lease = await face(client.lock("name").acquire)
    cut.off = True
    assert await face(lease.wait_lost, 5) is LossReason.DEADLINE
    assert client._core.ledger.runtime.now() >= lease.deadline
    with pytest.raises(LeaseLost, match="deadline"):
        lease.check()
    cut.off = False
    (lost,) = await face.eventually(lambda: of(Lost, events), "the loss is told")
    assert lost.reason is LossReason.DEADLINE
    assert "ERROR" in {record.levelname for record in caplog.records}
    # And the client is not broken by it.
    again = await face(client.lock("name").acquire)
    assert again.token > lease.token


async def test_a_hook_that_raises_breaks_nothing(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    def hook(event: Event) -> None:
        raise RuntimeError("theirs")

    client = face.client(on_event=hook)
    lease = await face(client.lock("name").acquire)
    await face(lease.release)
    assert "theirs" in caplog.text


async def test_a_close_is_told_and_no_error_in_the_log(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    events: list[Event] = []
    client = face.client(on_event=events.append)
    lease = await face(client.lock("name").acquire)
    with caplog.at_level(logging.INFO, "tenure"):
        await face(client.close)
    assert [(event.token, event.reason) for event in of(Lost, events)] == [(lease.token, LossReason.CLOSED)]
    assert {record.levelname for record in caplog.records} == {"INFO"}


@pytest.mark.needs("semaphore")
async def test_differing_limits_of_one_semaphore_are_told(face: Face) -> None:
    events: list[Event] = []
    ours, theirs = face.client(), face.client(on_event=events.append)
    await face(ours.semaphore("pool", 5).acquire)
    await face(theirs.semaphore("pool", 5).acquire)
    assert of(LimitsDiffer, events) == []
    await face(theirs.semaphore("pool", 3).acquire)
    assert of(LimitsDiffer, events) == [LimitsDiffer("pool", 3, 5)]
    with pytest.raises(AcquireTimeout):
        await face(theirs.semaphore("pool", 9, wait=0.05).acquire)
    assert len(of(LimitsDiffer, events)) == 2


class CutOff:
    """Cuts a client's keeper off from its engine: while `off`, no heartbeat is answered."""

    def __init__(self, client: Any) -> None:
        self.off = False
        engine = client._core.engine
        self._beats = engine.beats
        engine.beats = self.beats

    async def beats(self, store: Any, renewals: Any) -> None:
        if not self.off:
            await self._beats(store, renewals)
            return
        for renewal in renewals:
            renewal.begin()
            renewal.end(StoreUnavailable("cut off by the test"))
