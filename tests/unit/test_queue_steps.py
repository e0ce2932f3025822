"""The steps of a queue that we keep ourselves, each on its own: who is told, what is swept, what is refused."""

from __future__ import annotations

from typing import Any

from tenure.engines.memory import MemoryTables
from tenure.engines.queue import SWEEP, At, Steps
from tenure.model import EXCLUSIVE, SHARED, Instant, Kind, Mode
from tenure.ports import ClaimRef, Closing, Entry, Mail, SessionCard, Standing

TTL = 30.0


class Bench:
    """A queue, its clock, and its mail."""

    def __init__(self) -> None:
        self.steps = Steps(MemoryTables())
        self.now = 1000.0

    @property
    def at(self) -> At:
        return At(int(self.now * 1e6), int((1.7e9 + self.now) * 1e6), Instant(self.now))

    def entry(self, session: str, claim: int, name: str, mode: Mode, **more: object) -> Entry:
        fields: dict[str, Any] = {
            "delay": 0.0,
            "info": "",
            "at_once": False,
            "again": False,
            "opening": True,
            "extend": False,
            **more,
        }
        card = SessionCard(session, TTL, f"box-{session}", "", "host", 1)
        return Entry(session=card, claim=claim, name=name, mode=mode, **fields)

    def enter(
        self, session: str, claim: int = 1, name: str = "n", mode: Mode = EXCLUSIVE, **more: object
    ) -> tuple[Standing, int]:
        place = self.steps.enter(self.at, self.entry(session, claim, name, mode, **more))
        return place.standing, place.number

    def close(
        self,
        session: str,
        claim: int = 1,
        name: str = "n",
        *,
        clean: bool = True,
        held: bool = False,
        tombstone: bool = False,
    ) -> bool:
        ref = ClaimRef(session, claim, name, 0)
        return self.steps.close(self.at, [Closing(ref=ref, tombstone=tombstone, clean=clean, held=held, ttl=TTL)])[0]

    def told(self) -> list[tuple[str, int]]:
        """Who was told since the last time, and with which number; 0 is a hint."""
        return [
            (mail.message.session, mail.message.number) for mail in self.steps.take_mail() if isinstance(mail, Mail)
        ]


def test_a_release_tells_the_next_and_only_once() -> None:
    bench = Bench()
    bench.enter("a")
    _, second = bench.enter("b")
    bench.enter("c")
    assert bench.told() == []
    assert bench.close("a")
    assert bench.told() == [("b", second)]
    assert not bench.close("a")
    assert bench.told() == []


def test_all_readers_up_to_the_next_writer_are_told_in_one_step() -> None:
    bench = Bench()
    bench.enter("a")
    numbers = [bench.enter(name, mode=SHARED)[1] for name in ("b", "c")]
    bench.enter("d")
    bench.enter("e", mode=SHARED)
    bench.close("a")
    assert bench.told() == [("b", numbers[0]), ("c", numbers[1])]


def test_a_repeat_finds_the_first() -> None:
    bench = Bench()
    first = bench.enter("a")
    assert bench.enter("a", again=True, opening=False) == first
    assert len(list(bench.steps.tables.queue("n"))) == 1


def test_a_tombstone_refuses_a_late_enqueue_also_one_that_opens_its_session() -> None:
    bench = Bench()
    bench.close("a", tombstone=True)
    bench.now += 1
    for name in ("x", "y", "z"):
        bench.enter(name, name=name)  # each opening step sweeps a little
    bench.steps.heartbeat(bench.at, "x", TTL, waiting=False)
    assert bench.enter("a") == (Standing.GONE, 0)
    bench.enter("b", 1, "m")
    bench.close("b", 2, tombstone=True)
    assert bench.enter("b", 2) == (Standing.GONE, 0)
    assert bench.enter("b", 3)[0] is Standing.HOLDS


def test_death_is_latched_and_neither_a_heartbeat_nor_a_clock_set_back_undoes_it() -> None:
    bench = Bench()
    bench.enter("a")
    _, second = bench.enter("b")
    bench.now += TTL - 1
    bench.steps.heartbeat(bench.at, "b", TTL, waiting=False)
    bench.now += 1
    place = bench.steps.look(bench.at, ClaimRef("b", 1, "n", second))
    assert place.standing is Standing.HOLDS
    bench.now -= 20
    assert bench.steps.heartbeat(bench.at, "a", TTL, waiting=False).over
    assert bench.enter("a", 2, opening=False)[0] is Standing.GONE


def test_a_sweep_is_bounded_and_the_next_living_goes_on() -> None:
    bench = Bench()
    bench.enter("holder")
    for number in range(2 * SWEEP + 50):
        bench.enter(f"dead {number}")
    bench.now += TTL / 2
    bench.enter("alive")
    bench.steps.heartbeat(bench.at, "holder", TTL, waiting=False)
    bench.now += TTL / 2 + 1
    bench.told()
    looks = 0
    bench.close("holder")
    while ("alive", 0) in (told := bench.told()):
        looks += 1
        number = next(c.number for c in bench.steps.tables.queue("n") if c.session == "alive")
        place = bench.steps.look(bench.at, ClaimRef("alive", 1, "n", number))
        if place.standing is Standing.HOLDS:
            break
    assert [session for session, _ in told] == ["alive"]
    assert [c.session for c in bench.steps.tables.queue("n")] == ["alive"]
    assert looks <= 4


def test_a_heartbeat_cleans_names_that_nobody_asks_for_again() -> None:
    bench = Bench()
    for number in range(SWEEP + 20):
        bench.enter(f"dead {number}", name=f"name {number}")
    bench.now += TTL / 2
    bench.enter("alive", name="alive")
    bench.now += TTL / 2 + 1
    for _ in range(3):
        bench.steps.heartbeat(bench.at, "alive", TTL, waiting=False)
    assert bench.steps.tables.names("") == ["alive"]


def test_an_unclean_close_with_a_delay_tells_the_first_waiter_when() -> None:
    bench = Bench()
    bench.enter("a", delay=5.0)
    _, second = bench.enter("b")
    bench.enter("c")
    assert bench.close("a", clean=False)
    assert bench.told() == [("b", 0)]
    place = bench.steps.look(bench.at, ClaimRef("b", 1, "n", second))
    assert [round(peer.due - bench.now, 3) for peer in place.peers] == [5.0]
    bench.now += 5.1
    assert bench.steps.look(bench.at, ClaimRef("b", 1, "n", second)).standing is Standing.HOLDS


def test_a_departing_waiter_hints_the_one_behind_it() -> None:
    bench = Bench()
    bench.enter("a")
    bench.enter("b")
    bench.enter("c")
    bench.close("b")
    assert bench.told() == [("c", 0)]


def test_a_departing_permit_that_lets_nobody_in_hints_the_first_waiter() -> None:
    bench = Bench()
    for name in ("a", "b", "c"):
        bench.enter(name, mode=Mode(Kind.PERMITS, 1, 3))
    bench.enter("d", mode=Mode(Kind.PERMITS, 3, 3))
    bench.close("b")
    assert bench.told() == [("d", 0)]


def test_a_steal_counts_for_the_robbed_session() -> None:
    bench = Bench()
    _, first = bench.enter("a")
    _, second = bench.enter("b")
    assert not bench.steps.steal(bench.at, "n", first - 1)
    assert bench.steps.steal(bench.at, "n", first)
    assert not bench.steps.steal(bench.at, "n", first)
    assert ("b", second) in bench.told()
    beat = bench.steps.heartbeat(bench.at, "a", TTL, waiting=False)
    assert beat.facts.stolen == bench.at.wall_us + 1, "the count begins at the clock: see Steps.enter"


def test_a_try_leaves_no_trace() -> None:
    bench = Bench()
    bench.enter("a")
    assert bench.enter("b", at_once=True) == (Standing.BUSY, 0)
    assert [c.session for c in bench.steps.tables.queue("n")] == ["a"]


def test_numbers_are_larger_than_every_earlier_one_whatever_the_clock_does() -> None:
    bench = Bench()
    _, first = bench.enter("a")
    bench.close("a")
    bench.now -= 500
    _, second = bench.enter("b")
    assert second > first


def test_grants_not_taken_are_listed_at_a_heartbeat_of_a_waiter() -> None:
    bench = Bench()
    bench.enter("a")
    _, second = bench.enter("b")
    bench.close("a")
    bench.told()  # lost on its way
    beat = bench.steps.heartbeat(bench.at, "b", TTL, waiting=True)
    assert [(message.claim, message.number) for message in beat.granted] == [(1, second)]
