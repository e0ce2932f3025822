"""The steps on a real server, one by one: each rule that a schedule of requests could break."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tenure import IncompatibleStore, OutcomeUnknown, StoreUnavailable
from tenure.engines.etcd.requests import Kept, Requests
from tenure.model import SHARED, Kind, Mode
from tenure.ports import BUSY, GONE, HOLDS, WAITS, ClaimRef
from tenure.runtimes.blocking import run
from tests.etcd.rig import PATIENCE, Bare, closing, fresh
from tests.servers import etcd
from tests.servers.etcd import EtcdServer
from tests.servers.processes import until
from tests.timing import Bound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tenure.engines.etcd import messages as m
    from tenure.ports import Entry, Place

pytestmark = pytest.mark.skipif(etcd.missing() is not None, reason=etcd.missing() or "")


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
def bare(server: EtcdServer) -> Iterator[Bare]:
    with Bare(fresh(server.url)) as bare:
        yield bare


def enter(bare: Bare, entry: Entry) -> Place:
    return run(bare.store.enter(entry, PATIENCE))


def look(bare: Bare, session: str, number: int, claim: int = 1) -> Place:
    return run(bare.store.look(ClaimRef(session, claim, "bare:n", number), PATIENCE))


def close(bare: Bare, session: str, claim: int = 1, **how: Any) -> bool:
    return run(bare.store.close([closing(ClaimRef(session, claim, "bare:n", 0), **how)], PATIENCE))[0]


# -- the queue --------------------------------------------------------------------------------------------------------


def test_a_number_is_the_create_revision_and_the_token(bare: Bare) -> None:
    first, second = enter(bare, bare.entry("a")), enter(bare, bare.entry("b"))
    assert (first.standing, second.standing) == (HOLDS, WAITS)
    assert 0 < first.number == first.floor < second.number == bare.life.revision


def test_a_repeat_finds_the_first_however_many_have_come_since(bare: Bare) -> None:
    """A listing of the newest shows nobody in front of an old claim: read so, a repeat made a second holder."""
    enter(bare, bare.entry("holder"))
    waits = enter(bare, bare.entry("repeats"))
    for name in ("late", "later", "latest"):
        enter(bare, bare.entry(name))
    again = enter(bare, bare.entry("repeats", again=True))
    assert (again.standing, again.number) == (WAITS, waits.number)
    assert [peer.session for peer in again.peers] == ["holder"]


@pytest.mark.parametrize("mode", [SHARED, Mode(Kind.PERMITS, 1, 3)])
def test_a_repeat_of_one_that_shares_finds_the_first_too(bare: Bare, mode: Mode) -> None:
    enter(bare, bare.entry("holder"))
    waits = enter(bare, bare.entry("repeats", mode=mode))
    for number in range(12):
        enter(bare, bare.entry(f"late{number}", mode=mode))
    again = enter(bare, bare.entry("repeats", mode=mode, again=True))
    assert (again.standing, again.number) == (WAITS, waits.number)


def test_far_behind_in_a_long_queue_all_that_blocks_is_seen(bare: Bare) -> None:
    """More than are read at first."""
    wide = Mode(Kind.PERMITS, 1, 12)
    first = enter(bare, bare.entry("s0", mode=wide))
    for number in range(1, 12):
        assert enter(bare, bare.entry(f"s{number}", mode=wide)).standing is HOLDS
    waits = enter(bare, bare.entry("waits", mode=wide))
    assert waits.standing is WAITS
    assert len(waits.peers) == 12
    assert close(bare, "s5")
    seen = look(bare, "waits", waits.number)
    assert (seen.standing, seen.floor) == (HOLDS, first.number)


def test_a_try_enters_only_if_that_grants_it(bare: Bare) -> None:
    assert enter(bare, bare.entry("a", mode=SHARED)).standing is HOLDS
    assert enter(bare, bare.entry("b", mode=SHARED, at_once=True)).standing is HOLDS
    assert enter(bare, bare.entry("c", at_once=True)).standing is BUSY
    assert len(run(bare.store.inspect("bare:n", PATIENCE)).holders) == 2
    assert run(bare.store.inspect("bare:n", PATIENCE)).waiters == ()


def test_a_try_that_somebody_overtakes_asks_again(bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its look and its entry another claim came: compared in the entry."""
    enter(bare, bare.entry("a", mode=SHARED))
    txn = Requests.txn
    came: list[int] = []

    async def overtaken(self: Requests, request: bytes, until: float, *, writes: bool) -> m.Txn:
        if writes and not came:
            came.append(1)
            with Bare(f"{server_url}", "bare") as other:
                enter(other, other.entry("writer"))
        return await txn(self, request, until, writes=writes)

    server_url = f"etcd://{bare.dialer.nodes[0]}/{bare.dialer.root}"
    enter(bare, bare.entry("b", claim=1, name="warm"))
    monkeypatch.setattr(Requests, "txn", overtaken)
    assert enter(bare, bare.entry("b", claim=2, opening=False, mode=SHARED, at_once=True)).standing is BUSY
    assert came


def test_a_name_that_begins_like_another_is_another(bare: Bare) -> None:
    enter(bare, bare.entry("a", name="n"))
    assert enter(bare, bare.entry("b", name="n/1")).standing is HOLDS
    assert enter(bare, bare.entry("c", name="nn")).standing is HOLDS


# -- sessions ---------------------------------------------------------------------------------------------------------


def test_only_opening_makes_a_session(bare: Bare) -> None:
    assert enter(bare, bare.entry("a", opening=False)).standing is GONE
    assert enter(bare, bare.entry("a")).standing is HOLDS
    run(bare.store.end("a", PATIENCE))
    assert enter(bare, bare.entry("a", claim=2, opening=False)).standing is GONE
    assert run(bare.store.heartbeat("a", 5, False, PATIENCE)).over


def test_a_session_that_ended_takes_its_claims_along(bare: Bare) -> None:
    first = enter(bare, bare.entry("a"))
    second = enter(bare, bare.entry("b"))
    run(bare.store.end("a", PATIENCE))
    assert look(bare, "a", first.number).standing is GONE
    assert look(bare, "b", second.number).standing is HOLDS


def test_a_session_made_anew_by_a_late_request_counts_its_steals_from_elsewhere(bare: Bare) -> None:
    first = enter(bare, bare.entry("a"))
    run(bare.store.end("a", PATIENCE))
    late = enter(bare, bare.entry("a", again=True))
    assert first.facts is not None
    assert late.facts is not None
    # So its heartbeats differ from those of the first, and its client reconciles (A2, A3).
    assert late.facts.stolen > first.facts.stolen


def test_two_claims_may_open_one_session_at_once(bare: Bare) -> None:
    one, two = enter(bare, bare.entry("a", 1, "x")), enter(bare, bare.entry("a", 2, "y"))
    assert one.facts == two.facts


def test_the_granted_ttl_counts(server: EtcdServer) -> None:
    with EtcdServer(heartbeat_ms=100) as slow, Bare(slow.url) as bare:
        facts = enter(bare, bare.entry("a", ttl=1.0)).facts
        assert facts is not None
        assert facts.ttl == 2, "at its own settings etcd raises a second to two"
        beat = run(bare.store.heartbeat("a", 1.0, False, PATIENCE))
        assert beat.facts.ttl == 2


def test_a_session_that_was_opened_before_is_renewed_by_the_repeat(bare: Bare, server: EtcdServer) -> None:
    """Its time has run since the first request: counted from the repeat, a deadline would be too late (A1)."""
    enter(bare, bare.entry("a", ttl=5.0))
    time.sleep(1.2)
    place = enter(bare, bare.entry("a", ttl=5.0, again=True))
    assert place.facts is not None
    left = int(server.ctl("lease", "timetolive", f"{bare.ask.keys.lease('a'):x}").split("remaining(")[1].split("s)")[0])
    assert left >= place.facts.ttl - 1


# -- renewals ---------------------------------------------------------------------------------------------------------


def renewed_by(bare: Bare, monkeypatch: pytest.MonkeyPatch, terms: list[int]) -> list[int]:
    """Answer keep-alives in these terms, one after another, then in the leader's; gives those that were asked."""
    keep_alive = Requests.keep_alive
    asked: list[int] = []

    async def answer(self: Requests, lease: int, until: float) -> Kept | None:
        kept = await keep_alive(self, lease, until)
        asked.append(1)
        return kept._replace(term=terms[len(asked) - 1]) if kept and len(asked) <= len(terms) else kept

    monkeypatch.setattr(Requests, "keep_alive", answer)
    return asked


def test_a_renewal_by_a_leader_that_was_replaced_is_not_counted(bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deposed, it renews for about an election's time what its successor will end: the terms tell (C3 of etcd)."""
    enter(bare, bare.entry("a"))
    term = bare.life.term
    asked = renewed_by(bare, monkeypatch, [term - 1])
    assert not run(bare.store.heartbeat("a", 5, False, PATIENCE)).over
    assert len(asked) == 2, "it is asked again, and the leader's answer counts"


def test_a_cluster_that_elects_all_the_time_renews_nothing(bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(bare, bare.entry("a"))
    renewed_by(bare, monkeypatch, [bare.life.term - 1] * 100)
    with pytest.raises(OutcomeUnknown, match="leader"):
        run(bare.store.heartbeat("a", 5, False, PATIENCE))


def test_an_election_since_the_last_answer_makes_the_first_renewal_uncounted(
    bare: Bare, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(bare, bare.entry("a"))
    asked = renewed_by(bare, monkeypatch, [])
    bare.life.term -= 1  # as seen before the election
    run(bare.store.heartbeat("a", 5, False, PATIENCE))
    assert len(asked) == 2


# -- closing ----------------------------------------------------------------------------------------------------------


def test_a_tombstone_refuses_the_late_enqueue(bare: Bare) -> None:
    enter(bare, bare.entry("a", 1, "other"))
    assert not close(bare, "a", 2, tombstone=True)
    assert enter(bare, bare.entry("a", 2, opening=False)).standing is GONE
    assert run(bare.store.inspect("bare:n", PATIENCE)).holders == ()


def test_positive_control_without_a_tombstone_the_late_enqueue_stays(bare: Bare) -> None:
    enter(bare, bare.entry("a", 1, "other"))
    assert not close(bare, "a", 2, tombstone=False)
    assert enter(bare, bare.entry("a", 2, opening=False)).standing is HOLDS


def test_a_tombstone_before_the_session_refuses_the_opening_request_too(bare: Bare) -> None:
    assert not close(bare, "a", tombstone=True)
    assert enter(bare, bare.entry("a")).standing is GONE


def test_a_tombstone_ends_with_its_session_and_not_before(bare: Bare, server: EtcdServer) -> None:
    enter(bare, bare.entry("a", 1, "other"))
    close(bare, "a", 2, tombstone=True)
    assert f"{bare.dialer.root}/bare/t/a/2" in server.ctl("get", "--prefix", "--keys-only", bare.dialer.root)
    run(bare.store.end("a", PATIENCE))
    assert "/t/" not in server.ctl("get", "--prefix", "--keys-only", bare.dialer.root)


def test_a_hundred_claims_are_closed_in_one_request(bare: Bare) -> None:
    refs = [ClaimRef("a", number, f"bare:n{number}", 0) for number in range(1, 101)]
    for ref in refs:
        enter(bare, bare.entry("a", ref.claim, ref.name[5:]))
    assert run(bare.store.close([closing(ref, tombstone=True) for ref in refs], PATIENCE)) == [True] * 100
    assert run(bare.store.close([closing(ref) for ref in refs], PATIENCE)) == [False] * 100
    assert run(bare.store.names("bare:", PATIENCE)) == []


# -- lock_delay (B10) -------------------------------------------------------------------------------------------------


def test_a_dead_holders_delay_outlasts_its_session_and_a_dead_waiters_does_not(bare: Bare) -> None:
    first = enter(bare, bare.entry("holder", delay=2.0, ttl=1.0))
    assert first.standing is HOLDS
    enter(bare, bare.entry("waiter", delay=60.0, ttl=1.0))
    third = enter(bare, bare.entry("third", ttl=20.0))
    begun = time.monotonic()
    until(
        lambda: len(run(bare.store.inspect("bare:n", PATIENCE)).waiters) == 1,
        "the waiter's session ends, and its claim",
    )
    assert look(bare, "holder", first.number).standing is GONE, "its own session is over all the same"
    assert look(bare, "third", third.number).standing is WAITS
    until(lambda: look(bare, "third", third.number).standing is HOLDS, "ttl and delay are over")
    assert 1.5 < time.monotonic() - begun < Bound(6)


def test_an_unclean_end_keeps_the_name_for_the_delay_and_a_repeat_does_not_prolong_it(bare: Bare) -> None:
    enter(bare, bare.entry("a", delay=1.0))
    other = enter(bare, bare.entry("b"))
    assert close(bare, "a", clean=False)
    assert look(bare, "b", other.number).standing is WAITS
    assert not close(bare, "a", clean=False)
    until(lambda: look(bare, "b", other.number).standing is HOLDS, "the delay is over")


def test_an_unclean_end_of_a_waiter_keeps_nothing(bare: Bare) -> None:
    enter(bare, bare.entry("a"))
    enter(bare, bare.entry("b", delay=60.0))
    third = enter(bare, bare.entry("c"))
    assert close(bare, "b", clean=False)
    assert close(bare, "a")
    assert look(bare, "c", third.number).standing is HOLDS


# -- operators --------------------------------------------------------------------------------------------------------


def test_a_steal_compares_counts_and_is_final(bare: Bare) -> None:
    first = enter(bare, bare.entry("a"))
    assert first.facts is not None
    assert not run(bare.store.steal("bare:n", first.number + 1, PATIENCE))
    assert run(bare.store.steal("bare:n", first.number, PATIENCE))
    assert not run(bare.store.steal("bare:n", first.number, PATIENCE))
    assert run(bare.store.heartbeat("a", 5, False, PATIENCE)).facts.stolen > first.facts.stolen
    assert enter(bare, bare.entry("a", opening=False, again=True)).standing is GONE


def test_a_steal_ends_a_delay_too(bare: Bare) -> None:
    first = enter(bare, bare.entry("a", delay=60.0))
    other = enter(bare, bare.entry("b"))
    close(bare, "a", clean=False)
    assert run(bare.store.steal("bare:n", first.number, PATIENCE))
    assert look(bare, "b", other.number).standing is HOLDS


def test_what_a_session_has_is_listed_with_numbers(bare: Bare) -> None:
    one = enter(bare, bare.entry("a", 1, "x"))
    two = enter(bare, bare.entry("a", 2, "y", delay=3.0))
    refs = run(bare.store.claims("a", PATIENCE))
    assert sorted(refs) == [ClaimRef("a", 1, "bare:x", one.number), ClaimRef("a", 2, "bare:y", two.number)]
    assert run(bare.store.standing(refs, PATIENCE)) == [True, True]
    assert run(bare.store.standing([refs[0]._replace(number=1)], PATIENCE)) == [False]


# -- genesis and life -------------------------------------------------------------------------------------------------


def test_another_genesis_refuses_every_step_and_is_another_life(bare: Bare, server: EtcdServer) -> None:
    enter(bare, bare.entry("a"))
    before = bare.life.value
    server.ctl("del", "--prefix", bare.dialer.root)
    assert run(bare.store.heartbeat("a", 5, False, PATIENCE)).over
    assert bare.life.value != before


def test_a_newer_format_is_refused_before_anything_is_touched(bare: Bare, server: EtcdServer) -> None:
    server.ctl("put", f"{bare.dialer.root}/bare/genesis", '{"format": 2, "id": "x"}')
    # Not the server's revision: the leases of other tests end meanwhile.
    tree = ("get", "--prefix", f"{bare.dialer.root}/", "--write-out=json")
    before = json.loads(server.ctl(*tree))["kvs"]
    with pytest.raises(IncompatibleStore) as raised:
        enter(bare, bare.entry("a", opening=False))
    assert (raised.value.in_force, raised.value.spoken) == (2, (1,))
    with pytest.raises(IncompatibleStore):
        close(bare, "a")
    assert json.loads(server.ctl(*tree))["kvs"] == before


def test_what_is_no_genesis_record_is_refused(bare: Bare, server: EtcdServer) -> None:
    server.ctl("put", f"{bare.dialer.root}/bare/genesis", "somebody else's")
    with pytest.raises(IncompatibleStore):
        run(bare.store.inspect("bare:n", PATIENCE))


def test_a_base_is_added_to_every_number(bare: Bare, server: EtcdServer) -> None:
    server.ctl("put", f"{bare.dialer.root}/bare/genesis", '{"format": 1, "id": "x", "base": 1000000}')
    first = enter(bare, bare.entry("a"))
    second = enter(bare, bare.entry("b"))
    assert 1_000_000 < first.number < second.number < 2_000_000
    assert look(bare, "b", second.number).standing is WAITS
    assert run(bare.store.standing([ClaimRef("a", 1, "bare:n", first.number)], PATIENCE)) == [True]
    assert run(bare.store.steal("bare:n", first.number, PATIENCE))


def test_a_revision_that_went_back_is_another_life(bare: Bare) -> None:
    enter(bare, bare.entry("a"))
    before = bare.life.value
    bare.life.revision += 1000  # as seen before the store was set back
    run(bare.store.heartbeat("a", 5, False, PATIENCE))
    assert bare.life.value != before


# -- errors -----------------------------------------------------------------------------------------------------------


def test_a_claim_that_entered_is_never_said_to_have_had_no_effect(bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked after the entry may fail, certainly without effect; the claim stands in its queue all the same."""

    async def fails(*_: Any) -> bool:
        raise StoreUnavailable("no leader")

    monkeypatch.setattr(type(bare.store), "_take_up", fails)
    with pytest.raises(OutcomeUnknown):
        enter(bare, bare.entry("a", delay=2.0))
    assert len(run(bare.store.inspect("bare:n", PATIENCE)).holders) == 1


def test_a_lease_that_was_revoked_under_way_ends_the_session(bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    async def granted(self: Requests, lease: int, ttl: float, until: float) -> int:
        return 5

    monkeypatch.setattr(Requests, "open_lease", granted)
    assert enter(bare, bare.entry("a")).standing is GONE
