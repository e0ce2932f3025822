"""The keeper and the ledger, one step at a time in virtual time: rules A1 to A5, and B2."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tenure.errors import OutcomeUnknown, StoreUnavailable, UsageError
from tenure.model import EXCLUSIVE, Instant, LeaseState, LossReason
from tenure.observe import Lost, Released, Renewed, Suspect
from tenure.ports import Message
from tenure.protocols.claim import Ask
from tenure.protocols.keep import Stop
from tenure.protocols.lease import worth
from tenure.protocols.records import Claim, Phase
from tests.cancellation.world import Member, Mutex, Process, World

if TYPE_CHECKING:
    from collections.abc import Iterator

DRIFT, MARGIN = 0.99, 0.002


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.end()


def at(process: Process, where: str) -> bool:
    return process.trap is not None and process.trap.where.startswith(where)


def pass_time(world: World, seconds: float) -> None:
    world.run(seconds=seconds)


def down(member: Member, times: int = 1000) -> None:
    member.keeper_store.faults["heartbeat"] = [StoreUnavailable("down") for _ in range(times)]


def test_the_waiting_are_counted_under_the_mutex(world: World) -> None:
    """A caller that comes or goes meanwhile changes the dictionary, and the keeper's thread would end with an error."""
    member = world.member(ttl=30)
    process = member.acquire()
    world.run(lambda: process.is_done, seconds=0)
    looks: list[bool] = []

    class Waiter(Claim):
        @property
        def phase(self) -> Phase:
            looks.append(member.ledger.mutex in Mutex.held)
            return Phase.WAITING

        @phase.setter
        def phase(self, phase: Phase) -> None:
            pass

    session = member.ledger.sessions[-1]
    member.ledger.waiters.waiting[Waiter(session, 99, "n", EXCLUSIVE, member.runtime.now())] = None
    world.run(lambda: bool(looks), seconds=11)
    assert all(looks)


# -- A1: what the deadline counts from --------------------------------------------------------------------------------


def test_the_deadline_counts_from_before_the_request(world: World) -> None:
    member = world.member(ttl=30)
    process = member.acquire()
    world.run(lambda: at(process, "enter, before its effect"), seconds=0)
    sent = world.time
    world.time += 0.5
    process.resume()  # the effect
    world.time += 0.5
    process.resume()  # the reply
    claim = process.result
    assert isinstance(claim, Claim)
    assert claim.deadline == pytest.approx(sent + 30 * DRIFT - MARGIN)


def test_an_enqueue_that_does_not_extend_the_session_moves_no_deadline(world: World) -> None:
    member = world.member(ttl=30, keeper=False)
    first = member.hold("one")
    deadline = first.deadline
    world.time += 3
    second = member.hold("two")
    assert second.deadline == first.deadline == deadline


def test_an_enqueue_in_the_second_half_of_the_ttl_extends_it(world: World) -> None:
    member = world.member(ttl=30, keeper=False)
    first = member.hold("one")
    world.time += 20
    member.hold("two")
    assert first.deadline == pytest.approx(world.time + 30 * DRIFT - MARGIN)


def test_a_grant_with_little_time_left_is_renewed_before_it_is_handed_out(world: World) -> None:
    other, member = world.member(), world.member(ttl=3, keeper=False)
    held = other.hold()
    process = member.acquire()
    world.run(lambda: at(process, "a signal"), seconds=0)
    world.time += 2
    other.release(held)
    world.run(lambda: process.passed >= 4, seconds=0)
    assert not process.is_done, "one second of three is no lease"
    world.processes.append(member.keeper)
    world.run(lambda: process.is_done, seconds=0.5)
    assert process.result.deadline - world.time > 2.5


def test_a_message_is_a_grant_but_moves_no_deadline(world: World) -> None:
    other, member = world.member(), world.member(ttl=30)
    held = other.hold()
    process = member.acquire()
    world.run(lambda: at(process, "a signal"), seconds=0)
    deadline = member.adopted[0].session.deadline
    world.time += 1
    other.release(held)
    world.run(lambda: process.is_done, seconds=0)
    assert process.result.deadline == deadline


def test_a_message_of_another_session_or_claim_is_nobodys_grant(world: World) -> None:
    other, member = world.member(), world.member()
    other.hold()
    process = member.acquire()
    world.run(lambda: at(process, "a signal"), seconds=0)
    claim = member.adopted[0]
    card = claim.session.card.id
    member.ledger.deliver([Message("another", claim.id, 9, 9), Message(card, claim.id + 1, 9, 9)])
    assert claim.phase is Phase.WAITING


# -- C3: an engine whose answers prove less ---------------------------------------------------------------------------


def proves(world: World, member: Member, claim: Claim, since: float, period: float = 0.0) -> None:
    """Let the engine say from when its answer proves the session extended."""
    facts = claim.session.facts
    assert facts is not None
    claim.session.facts = facts = facts._replace(since=Instant(since), period=period)
    with member.ledger.mutex:
        member.ledger.extended(claim.session, facts, Instant(world.time))


def test_the_deadline_counts_from_what_the_engine_says_it_proves(world: World) -> None:
    member = world.member(ttl=30, keeper=False)
    claim = member.hold()
    began = world.time
    world.time += 10
    proves(world, member, claim, began + 4)
    assert claim.deadline == pytest.approx(began + 4 + 30 * DRIFT - MARGIN)


def test_what_an_engine_proves_never_moves_a_deadline_back_nor_past_the_request(world: World) -> None:
    member = world.member(ttl=30, keeper=False)
    claim = member.hold()
    deadline = claim.deadline
    proves(world, member, claim, world.time - 5)
    assert claim.deadline == deadline
    world.time += 1
    proves(world, member, claim, world.time + 100)
    assert claim.deadline == pytest.approx(world.time + 30 * DRIFT - MARGIN)


def test_the_engine_says_how_often_a_session_is_renewed(world: World) -> None:
    member = world.member(ttl=30)
    claim = member.hold()
    proves(world, member, claim, world.time, period=5.0)
    claim.session.next_beat = Instant(world.time)
    member.ledger.inbox.put(None)
    before = len(member.keeper_store.calls)
    pass_time(world, 16)
    assert [call[0] for call in member.keeper_store.calls[before:]] == ["heartbeat"] * 4


def test_a_session_that_no_request_can_extend_is_replaced_in_the_second_half_of_its_ttl(world: World) -> None:
    member = world.member(ttl=30, keeper=False)
    first = member.hold("one")
    proves(world, member, first, world.time)
    member.release(first)
    world.time += 14
    second = member.hold("two")
    assert second.session is first.session
    member.release(second)
    world.time += 2
    assert member.hold("three").session is not first.session


def test_a_session_that_holds_something_is_not_replaced(world: World) -> None:
    member = world.member(ttl=30, keeper=False)
    first = member.hold("one")
    proves(world, member, first, world.time)
    world.time += 16
    assert member.hold("two").session is first.session


# -- A2: what a heartbeat proves --------------------------------------------------------------------------------------


def test_no_deadline_moves_after_a_steal_until_the_claims_are_reconciled(world: World) -> None:
    operator, member = world.member(), world.member(ttl=30)
    robbed, kept = member.hold("robbed"), member.hold("kept")
    theft = world.start(operator.store.steal("robbed", robbed.number, 5.0))
    world.run(lambda: theft.is_done, seconds=0)
    deadline = kept.deadline
    world.run(lambda: at(member.keeper, "claims, before its reply"), seconds=11)
    assert kept.deadline == deadline
    pass_time(world, 1)
    assert (robbed.lost, kept.lost) == (LossReason.STOLEN, None)
    assert kept.deadline > deadline
    assert member.keeper_store.calls[-1][0] != "claims", "once is enough"


def test_another_life_of_the_store_makes_the_client_look_its_claims_up(world: World) -> None:
    member = world.member(ttl=30)
    lost, kept = member.hold("lost"), member.hold("kept")
    tables = world.hub.tables
    tables.remove(lost.session.card.id, "lost", lost.number)
    tables.life = "another"
    pass_time(world, 11)
    assert (lost.lost, kept.lost) == (LossReason.STORE_LOST, None)
    assert kept.session.deadline > world.time + 15


def test_a_claim_that_the_store_brought_back_is_closed(world: World) -> None:
    member = world.member(ttl=30)
    kept, gone = member.hold("kept"), member.hold("gone")
    tables = world.hub.tables
    row = next(iter(tables.queue("gone")))
    process = member.release(gone)
    world.run(lambda: process.is_done, seconds=0)
    # The store is rolled back to before the release.
    tables._queues["gone"] = {row.number: row}
    row.record.claims[row.claim] = row
    tables.life = "rolled back"
    pass_time(world, 11)
    assert "gone" not in world.queues()
    assert kept.lost is None


def test_a_reconciliation_that_fails_is_repeated(world: World) -> None:
    operator, member = world.member(), world.member(ttl=30)
    robbed, kept = member.hold("robbed"), member.hold("kept")
    theft = world.start(operator.store.steal("robbed", robbed.number, 5.0))
    world.run(lambda: theft.is_done, seconds=0)
    member.keeper_store.faults["claims"] = [OutcomeUnknown("lost")]
    member.keeper_store.faults["standing"] = [StoreUnavailable("down")]
    pass_time(world, 18)
    assert (robbed.lost, kept.lost) == (LossReason.STOLEN, None)
    assert kept.deadline > world.time + 15


# -- A3 and A4: the end of a session, and patience --------------------------------------------------------------------


def test_a_renewal_that_is_answered_after_the_deadline_is_ignored(world: World) -> None:
    member = world.member(ttl=30)
    claim = member.hold()
    world.run(lambda: at(member.keeper, "heartbeat, before its reply"))
    world.time = claim.deadline + 0.001
    world.run(seconds=1)
    assert claim.lost is LossReason.DEADLINE
    assert claim.session.over is LossReason.DEADLINE
    again = member.hold("again")
    assert again.session is not claim.session
    assert again.session.card.id != claim.session.card.id


def test_whoever_asks_first_latches_a_passed_deadline(world: World) -> None:
    member = world.member(ttl=30, keeper=False)
    claim = member.hold()
    assert worth(member.ledger, claim) is LeaseState.HELD
    world.time = claim.deadline
    assert worth(member.ledger, claim) is LeaseState.LOST
    world.time -= 10
    assert worth(member.ledger, claim) is LeaseState.LOST


def test_the_patience_of_a_renewal_is_a_sixth_of_the_ttl_and_never_past_the_deadline(world: World) -> None:
    member = world.member(ttl=30)
    claim = member.hold()
    down(member)
    pass_time(world, 31)
    assert claim.lost is LossReason.DEADLINE
    timeouts = [arguments[-1] for operation, arguments in member.keeper_store.calls if operation == "heartbeat"]
    assert max(timeouts) <= 30 / 6
    assert len(timeouts) > 5, "it is repeated soon"
    assert timeouts[-1] < 2, "the last ones end with the deadline"


def test_a_failing_renewal_is_suspect_and_recovers(world: World) -> None:
    member = world.member(ttl=30)
    claim = member.hold()
    down(member, 3)
    world.run(lambda: claim.session.failing)
    assert worth(member.ledger, claim) is LeaseState.SUSPECT
    pass_time(world, 8)
    assert worth(member.ledger, claim) is LeaseState.HELD
    assert [type(event) for event in member.events].count(Suspect) == 1
    assert isinstance(member.events[-1], Renewed)
    assert claim.deadline > world.time + 15


def test_a_session_that_the_engine_ended_is_over(world: World) -> None:
    member = world.member(ttl=30)
    claim = member.hold()
    world.hub.tables.latch(claim.session.card.id, 0)
    pass_time(world, 11)
    assert claim.lost is LossReason.SESSION_ENDED
    assert [event.reason for event in member.events if isinstance(event, Lost)] == [LossReason.SESSION_ENDED]


def test_a_waiter_whose_session_ended_asks_again_at_the_end_of_the_queue(world: World) -> None:
    other, member = world.member(), world.member(ttl=3)
    held = other.hold()
    process = member.acquire()
    world.run(lambda: at(process, "a signal"), seconds=0)
    world.hub.tables.latch(member.adopted[0].session.card.id, 0)
    pass_time(world, 1.2)
    assert len(member.adopted) == 2
    assert member.adopted[1].session is not member.adopted[0].session
    other.release(held)
    world.run(lambda: process.is_done, seconds=1)
    assert process.result is member.adopted[1]


# -- A5: idle and bounded ---------------------------------------------------------------------------------------------


def test_a_client_without_claims_sends_nothing(world: World) -> None:
    member = world.member(ttl=30)
    process = member.release(member.hold())
    world.run(lambda: process.is_done, seconds=0)
    before = len(member.keeper_store.calls)
    world.run(seconds=500)
    assert len(member.keeper_store.calls) == before
    assert at(member.keeper, "the inbox")
    again = member.hold()
    assert again.session is member.ledger.sessions[-1]
    assert again.lost is None


def test_a_first_heartbeat_is_not_slept_through(world: World) -> None:
    """The keeper looks while the session is being opened, and would sleep a second: more than this ttl."""
    member = world.member(ttl=1.02)
    process = member.acquire()
    world.run(lambda: at(process, "enter, before its effect"), seconds=0)
    member.inbox.put(None)
    world.run(seconds=0, without=process)
    world.run(lambda: process.is_done, seconds=0)
    claim = process.result
    world.run(lambda: any(isinstance(event, Renewed) for event in member.events), seconds=0.5)
    assert claim.deadline > world.time + 0.9


def test_max_hold_is_latched_and_closed_while_the_session_lives_on(world: World) -> None:
    member = world.member(ttl=30)
    bounded = member.hold("bounded", Ask("bounded", EXCLUSIVE, max_hold=5.0))
    free = member.hold("free")
    assert bounded.deadline == pytest.approx(world.time + 5)
    pass_time(world, 5.1)
    assert (bounded.lost, free.lost) == (LossReason.MAX_HOLD, None)
    assert "bounded" not in world.queues()


# -- B2: the keeper owns every claim ----------------------------------------------------------------------------------


def test_a_release_without_an_answer_is_repeated_until_it_is_answered(world: World) -> None:
    member = world.member(ttl=30)
    claim = member.hold()
    member.store.faults["close"] = [StoreUnavailable("down")]
    member.keeper_store.faults["close"] = [StoreUnavailable("down"), OutcomeUnknown("lost"), StoreUnavailable("down")]
    process = member.release(claim)
    world.run(lambda: process.is_done, seconds=0)
    assert process.result is None, "it is an event, not an error"
    assert "name" in world.queues()
    pass_time(world, 10)
    assert world.queues() == {}
    assert member.ledger.debts == {}


@pytest.mark.parametrize("answered", [True, False])
def test_a_release_that_comes_after_the_keeper_has_paid_for_it_is_no_loss(world: World, answered: bool) -> None:
    """A loop that stood still between the debt and the request: the keeper's thread did not."""
    member = world.member(ttl=30)
    claim = member.hold()
    if not answered:
        member.keeper_store.faults["close"] = [OutcomeUnknown("lost")] * 20
    process = member.release(claim)
    world.run(lambda: at(process, "close, before its effect"), seconds=0)
    world.run(lambda: world.queues() == {}, seconds=30 / 6 + 1, without=process)
    world.run(lambda: not answered or not member.ledger.debts, seconds=1, without=process)
    world.run(lambda: process.is_done, seconds=1)
    assert (process.result, process.error, claim.lost) == (None, None, None)
    assert [event.confirmed for event in member.events if isinstance(event, Released)] == [answered]
    assert not any(isinstance(event, Lost) for event in member.events)


def test_a_release_that_comes_after_the_keeper_has_missed_the_claim_is_a_loss(world: World) -> None:
    """The control: what the keeper did not find either was not released, but lost."""
    member, thief = world.member(ttl=30), world.member(ttl=30)
    claim = member.hold()
    process = member.release(claim)
    world.run(lambda: at(process, "close, before its effect"), seconds=0)
    stolen = world.start(thief.store.steal("name", claim.number, 1.0))
    world.run(lambda: stolen.is_done, seconds=0, without=process)
    world.run(lambda: not member.ledger.debts, seconds=30 / 6 + 1, without=process)
    assert not process.is_done
    world.run(lambda: process.is_done, seconds=1)
    assert process.result is LossReason.STOLEN
    assert claim.lost is LossReason.STOLEN


def test_debts_that_cannot_be_paid_within_a_ttl_retire_the_session(world: World) -> None:
    member = world.member(ttl=30)
    stuck, kept = member.hold("stuck"), member.hold("kept")
    member.store.faults["close"] = [StoreUnavailable("stuck")]
    member.keeper_store.faults["close"] = [StoreUnavailable("stuck") for _ in range(200)]
    process = member.release(stuck)
    world.run(lambda: process.is_done, seconds=0)
    pass_time(world, 35)
    assert kept.lost is None, "one stuck row must not drop ten thousand leases"
    assert kept.session.retired
    other = member.hold("other")
    assert other.session is not kept.session
    process = member.release(kept)
    world.run(lambda: process.is_done, seconds=0)
    pass_time(world, 5)
    assert kept.session not in member.ledger.sessions
    assert set(world.queues()) == {"other"}, "the retired session ended with its last lease"


def test_a_grant_that_nobody_takes_up_is_closed(world: World) -> None:
    """Its thread was killed between the grant and the caller."""
    for wait, after in ((5.0, 5 + 30 / 6 + 1), (None, 30.0)):
        other, member, third = world.member(), world.member(ttl=30), world.member()
        held = other.hold()
        process = member.acquire(wait=wait)
        world.run(lambda p=process: at(p, "a signal"), seconds=0)  # type: ignore[misc]  # a default binds it
        world.processes.remove(process)
        begun = world.time
        released = other.release(held)
        world.run(lambda r=released: r.is_done, seconds=0)  # type: ignore[misc]
        if wait is None:
            member.ledger.deliver(member.mailbox._messages)
        heir = third.acquire(wait=100)
        world.run(lambda h=heir: h.is_done, seconds=60)  # type: ignore[misc]
        assert isinstance(heir.result, Claim), wait
        assert world.time - begun < after + 2
        process.coroutine.close()
        done = third.release(heir.result)
        world.run(lambda d=done: d.is_done, seconds=0)  # type: ignore[misc]


def test_a_lease_that_was_garbage_collected_is_closed(world: World) -> None:
    member = world.member(ttl=30)
    claim = member.hold()
    member.inbox.put(claim)
    pass_time(world, 0.1)
    assert claim.lost is LossReason.DROPPED
    assert world.queues() == {}


# -- closing ----------------------------------------------------------------------------------------------------------


def close(world: World, member: Member) -> None:
    member.ledger.closing = True
    member.inbox.put(Stop())
    world.run(lambda: member.keeper.is_done, seconds=1)
    assert member.keeper.error is None


def test_closing_gives_everything_back(world: World) -> None:
    member, other = world.member(), world.member()
    claims = [member.hold(f"name {n}") for n in range(250)]
    other.hold("theirs")
    waits = [member.acquire("theirs") for _ in range(3)]
    world.run(lambda: all(at(w, "a signal") for w in waits), seconds=0)
    close(world, member)
    assert set(world.queues()) == {"theirs"}
    assert len(world.queues()["theirs"]) == 1
    assert {claim.lost for claim in claims} == {LossReason.CLOSED}
    world.run(lambda: all(w.is_done for w in waits), seconds=0)
    assert all(isinstance(w.error, UsageError) for w in waits)
    batches = [len(args[0]) for operation, args in member.keeper_store.calls if operation == "close"]
    assert max(batches) <= 100


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("passed", [1, 2])
def test_closing_while_a_request_is_under_way(world: World, opened: bool, passed: int) -> None:
    """Whether or not its effect comes first: nothing may enter that no keeper would ever renew or close."""
    member = world.member()
    if opened:
        member.hold("another")
    process = member.acquire()
    world.run(lambda: process.passed >= passed, seconds=0)
    world.processes.remove(process)
    close(world, member)
    world.processes.append(process)
    world.run(lambda: process.is_done, seconds=1)
    assert isinstance(process.error, UsageError)
    assert world.queues() == {}


def test_nothing_is_registered_after_closing(world: World) -> None:
    member = world.member()
    close(world, member)
    with pytest.raises(UsageError, match="closed"):
        member.ledger.register("name", EXCLUSIVE, member.runtime.now())


def test_a_claim_that_was_closed_before_it_was_sent_is_never_sent(world: World) -> None:
    member = world.member()
    claim = member.ledger.register("name", EXCLUSIVE, member.runtime.now())
    member.ledger.abandon(claim)
    assert member.ledger.entry(claim, False, member.runtime.now()) is None
    assert member.ledger.debts == {}


def test_ids_are_used_once(world: World) -> None:
    member = world.member(ttl=3, keeper=False)
    seen = set()
    for turn in itertools.count():
        claim = member.hold(f"name {turn}")
        seen.add((claim.session.card.id, claim.id))
        world.time += 1.6
        if turn % 3 == 2:
            world.time += 3
        if turn == 9:
            break
    assert len(seen) == 10
    assert len({session for session, _ in seen}) > 1
