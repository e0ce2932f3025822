"""What must be true of every run: pure functions over a recorded history, none slower than O(n log n) in practice.

Tokens are unique and ordered, so the order of grants is given and no search is needed. Beliefs are compared in true
time, with declared faults as the only excuse: after data was lost, a clock was skipped or a claim stolen, a belief may
outlive its claim by one ttl and no more.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from tenure.model import Kind, LossReason
from tenure.testing.history import FOREVER, Ending, Held, compatible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tenure.testing.history import History, Place

EPSILON: Final = 1e-6
"""Seconds that rounding may cost."""

SLACK: Final = 1.02
"""How much longer a ttl may be for two clocks that drift by 1 % together."""

TAKE_UP: Final = 0.1
"""Seconds, at most, from a known grant to its lease in calm: a look that is under way, or a renewal (A1), of which each
takes a hundredth."""


class Violation(NamedTuple):
    """A property that did not hold: the rule it belongs to, and from when to when to look."""

    rule: str
    since: float
    at: float
    text: str


def check(history: History) -> list[Violation]:
    """Every check, in order of time."""
    found = [violation for checker in CHECKERS for violation in checker(history)]
    return sorted(found, key=lambda violation: violation.at)


def _say(held: Held) -> str:
    return f"{held.client} {held.name} {held.number % 10**8} ({held.mode.kind})"


def _by_name(leases: Iterable[Held]) -> Iterator[list[Held]]:
    names: dict[str, list[Held]] = defaultdict(list)
    for held in leases:
        names[held.name].append(held)
    for name in sorted(names):
        yield sorted(names[name], key=lambda held: (held.began, held.number))


# -- tokens -----------------------------------------------------------------------------------------------------------


def unique_tokens(history: History) -> Iterator[Violation]:
    """No token of a name is granted to two claims (B7)."""
    seen: dict[tuple[str, int], Held] = {}
    for held in history.held:
        first = seen.setdefault((held.name, held.number), held)
        if first is not held:
            yield Violation("B7", first.began, held.began, f"{_say(held)} has the token of {_say(first)}")
    for text in history.broken:
        yield Violation("B7", 0.0, FOREVER, text)


def real_time_order(history: History) -> Iterator[Violation]:
    """A claim asked for after another was answered or granted has the larger number (B7)."""
    done: dict[str, list[tuple[float, int]]] = defaultdict(list)
    asked: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for entered in history.entered:
        done[entered.name].append((entered.answered, entered.number))
        asked[entered.name].append((entered.sent, entered.number))
    for held in history.held:
        done[held.name].append((held.learnt, held.number))
        asked[held.name].append((held.asked, held.number))
    for name in sorted(asked):
        past = sorted(done[name])
        index, largest = 0, 0
        for sent, number in sorted(asked[name]):
            while index < len(past) and past[index][0] < sent - EPSILON:
                largest = max(largest, past[index][1])
                index += 1
            if number < largest:
                text = f"{name} {number % 10**8} was asked for after {largest % 10**8} was known"
                yield Violation("B7", sent, sent, text)


def first_come(history: History) -> Iterator[Violation]:
    """Incompatible claims are granted in the order of their numbers."""
    worst = min((disaster.at for disaster in history.disasters), default=FOREVER)
    excused = _outlived(history)
    for leases in _by_name(held for held in history.held if (held.name, held.number) not in excused):
        latest: dict[Kind, Held] = {}
        for held in leases:
            if held.learnt > worst:
                break
            for kind, before in latest.items():
                apart = kind is not held.mode.kind or kind is Kind.EXCLUSIVE
                if apart and before.number > held.number and before.learnt < held.learnt - EPSILON:
                    yield Violation("FIFO", before.began, held.began, f"{_say(before)} was served before {_say(held)}")
            if held.mode.kind not in latest or held.number > latest[held.mode.kind].number:
                latest[held.mode.kind] = held


# -- beliefs ----------------------------------------------------------------------------------------------------------


class _Excuses:
    """Which beliefs may outlive their claims."""

    def __init__(self, history: History) -> None:
        self._window = 2 * history.ttl * SLACK
        self._disasters = sorted(disaster.at for disaster in history.disasters)
        self._stolen = {(theft.name, number) for theft in history.thefts for number in theft.removed}

    def may_outlive(self, name: str, number: int, removed: float) -> bool:
        """Whether a claim that was removed then may be believed in for another ttl."""
        if (name, number) in self._stolen:
            return True
        index = bisect.bisect_right(self._disasters, removed + EPSILON)
        return index > 0 and self._disasters[index - 1] >= removed - self._window


def _outlived(history: History) -> set[tuple[str, int]]:
    """The leases that were believed in while their claim was gone, with an excuse."""
    excuses = _Excuses(history)
    found = set()
    for held in history.held:
        place = history.places.get((held.name, held.number))
        if place is None:
            continue
        outlived = held.ended > place.removed + EPSILON
        if place.went_back or (outlived and excuses.may_outlive(held.name, held.number, place.removed)):
            found.add((held.name, held.number))
    return found


def belief_is_covered(history: History) -> Iterator[Violation]:
    """Nobody believes to hold without a claim in the queue (A1, A3); after a declared loss, for one ttl (A2)."""
    excuses = _Excuses(history)
    for held in history.held:
        place = history.places.get((held.name, held.number))
        if place is None or held.ended <= place.removed + EPSILON:
            continue
        over = min(held.ended, FOREVER) - max(place.removed, held.began)
        if not excuses.may_outlive(held.name, held.number, place.removed):
            text = f"{_say(held)} believed for {over:.3f} s after its claim was gone at {place.removed:.3f}"
            yield Violation("A1/A3", place.removed, place.removed, text)
        elif held.ended > place.removed + history.ttl * SLACK:
            text = f"{_say(held)} believed for {over:.3f} s after its claim was lost or stolen at {place.removed:.3f}"
            yield Violation("A2", place.removed, place.removed + history.ttl, text)


def deadlines_are_covered(history: History) -> Iterator[Violation]:
    """No local deadline lies behind the end of its session in the engine (A1)."""
    for outrun in history.outruns:
        text = f"a deadline of {outrun.client} lies {outrun.by:.3f} s behind the end of {outrun.session}"
        yield Violation("A1", outrun.at, outrun.at, text)


def no_overlap(history: History) -> Iterator[Violation]:
    """No two incompatible beliefs at one time, but where a declared fault took the claim of one of them."""
    excused = _outlived(history)
    for leases in _by_name(held for held in history.held if (held.name, held.number) not in excused):
        live: list[Held] = []
        for held in leases:
            live = [other for other in live if other.ended > held.began + EPSILON]
            if not compatible([held.mode, *(other.mode for other in live)]):
                others = ", ".join(_say(other) for other in live)
                yield Violation("exclusion", held.began, held.began, f"{_say(held)} overlaps with {others}")
            live.append(held)


def loss_latches(history: History) -> Iterator[Violation]:
    """A lease that was over is never reported held again (A3, A4)."""
    for held in history.held:
        if held.revived:
            text = f"{_say(held)} came back after it had ended ({held.ending.value})"
            yield Violation("A3", held.ended, held.ended, text)


def leases_are_fresh(history: History) -> Iterator[Violation]:
    """No lease is handed out with less than half its session's ttl, but for a margin (A1)."""
    for held in history.held:
        if held.left < 0.45:
            text = f"{_say(held)} was handed out with {held.left:.2f} of its ttl left"
            yield Violation("A1", held.began, held.began, text)


def max_hold_ends(history: History) -> Iterator[Violation]:
    """Nobody believes for longer than max_hold (A5)."""
    for held in history.held:
        if held.limit is not None and held.ended > held.learnt + held.limit + EPSILON and held.ended < FOREVER:
            yield Violation("A5", held.began, held.ended, f"{_say(held)} was held for longer than max_hold")


def loss_is_told(history: History) -> Iterator[Violation]:
    """A passed deadline is told without anybody asking, within a second and a heartbeat's patience (A4)."""
    allowed = 1.0 + history.ttl / 3
    for held in history.held:
        if held.ending is not Ending.DEADLINE or held.ended + allowed > history.calm[1]:
            continue
        # What a paused or dead client is not told is nobody's fault.
        due = _when_awake(held.ended, allowed, history.pauses.get(held.client, ()))
        told = FOREVER if held.told_loss is None else held.told_loss
        if told > due:
            text = f"{_say(held)} was told of its loss {told - held.ended:.3f} s late"
            yield Violation("A4", held.ended, held.ended + allowed, text)


def _when_awake(start: float, seconds: float, pauses: Iterable[tuple[float, float]]) -> float:
    """When a process has been awake for so long since `start`."""
    due = start + seconds
    for begin, end in sorted(pauses):
        if begin >= due:
            break
        due += max(0.0, end - max(begin, start))
    return due


# -- groups and delays ------------------------------------------------------------------------------------------------


def floors(history: History) -> Iterator[Violation]:
    """No live co-holder is below a floor, and every earlier incompatible holder is (B8)."""
    excused = _outlived(history)
    for leases in _by_name(history.held):
        live: list[Held] = []
        for held in leases:
            if held.mode.kind is Kind.EXCLUSIVE and held.floor != held.number:
                yield Violation("B8", held.began, held.began, f"{_say(held)} has another floor, {held.floor % 10**8}")
            if (held.name, held.number) in excused:
                continue
            live = [other for other in live if other.ended > held.began + EPSILON]
            for other in live:
                if other.number < held.floor or held.number < other.floor:
                    yield Violation(
                        "B8", held.began, held.began, f"{_say(held)} and {_say(other)} fence each other out"
                    )
            live.append(held)
        highest: dict[Kind, Held] = {}
        for held in sorted(leases, key=lambda held: held.number):
            for kind, other in highest.items():
                # A store that went back may have brought back a group older than a lease that came and went.
                went_back = any(other.asked <= disaster.at <= held.began for disaster in history.disasters)
                if kind is not held.mode.kind and other.number >= held.floor and not went_back:
                    yield Violation("B8", held.began, held.began, f"{_say(held)} has a floor that spares {_say(other)}")
            highest[held.mode.kind] = held


def lost_together(history: History) -> Iterator[Violation]:
    """Leases that were handed out together are all held then, and if one is lost, all are (B11)."""
    leases = {(held.session, held.claim): held for held in history.held}
    for group in history.groups:
        members = [leases[key] for key in group.members]
        for held in members:
            if held.ended < group.at - EPSILON:
                yield Violation("B11", held.ended, group.at, f"{_say(held)} was handed out with others, and was over")
        lost = min((h.ended for h in members if h.ending in (Ending.LOST, Ending.DEADLINE)), default=FOREVER)
        for held in members:
            if held.ended > lost + EPSILON:
                yield Violation("B11", lost, held.ended, f"{_say(held)} outlived one that was handed out with it")


def delays(history: History) -> Iterator[Violation]:
    """After an unclean end the name stays closed for lock_delay (B10)."""
    stolen = {(theft.name, number) for theft in history.thefts for number in theft.removed}
    for leases in _by_name(history.held):
        for index, held in enumerate(leases):
            unclean = held.ending in (Ending.LOST, Ending.DEADLINE, Ending.CRASHED)
            if not held.delay or not unclean or held.reason is LossReason.CLOSED or (held.name, held.number) in stolen:
                continue
            if any(held.began - history.ttl <= d.at <= held.ended + held.delay for d in history.disasters):
                continue
            until = held.ended + held.delay / SLACK
            for later in leases[index + 1 :]:
                if later.began >= until:
                    break
                if later.number > held.number and later.began > held.ended and not compatible([held.mode, later.mode]):
                    after = later.began - held.ended
                    text = f"{_say(later)} came {after:.3f} s after {_say(held)}, whose delay is {held.delay:.3f}"
                    yield Violation("B10", held.ended, later.began, text)


def steals_take_one(history: History) -> Iterator[Violation]:
    """A steal removes the claim that it names and no other (B9)."""
    for theft in history.thefts:
        if set(theft.removed) - {theft.number}:
            text = f"a steal of {theft.name} {theft.number % 10**8} removed {[n % 10**8 for n in theft.removed]}"
            yield Violation("B9", theft.at, theft.at, text)


# -- progress ---------------------------------------------------------------------------------------------------------


def nothing_left(history: History) -> Iterator[Violation]:
    """In the end the engine has no claim that nobody wants, and nobody waits (B1, B2)."""
    for left in history.leftovers:
        place = history.places.get((left.name, left.number))
        since = 0.0 if place is None else place.entered
        text = f"orphan {left.session} {left.name} {left.number % 10**8}: {left.why}"
        yield Violation("B1/B2", since, since + 1, text)
    for held in history.held:
        if held.dropped and held.ending is Ending.OPEN:
            yield Violation("B2", held.began, held.began, f"{_say(held)} was dropped unreleased and is kept")
    for task in history.stuck:
        text = f"{task} is not done, though nothing is in its way"
        yield Violation("progress", history.calm[1], history.calm[1], text)


def hand_over_is_prompt(history: History) -> Iterator[Violation]:
    """In calm, whoever is entitled is told at once, and learns it within a hop; with lossy mail, by a heartbeat."""
    start, end = history.calm
    # A watcher counts a session's remaining time on its own clock, which drifts.
    by_death = 0.12 + history.ttl * 0.01
    learn = 0.5 + (history.ttl * SLACK / 3 if history.lossy else 0.0)
    for place in history.places.values():
        if not start <= place.entitled <= end:
            continue
        allowed = (history.ttl if history.lossy else by_death) if place.by_death else EPSILON
        told = min(place.told, place.learnt)
        if _late(place, told, place.entitled + allowed):
            text = f"{_shown(place)} was told {told - place.entitled:.3f} s late"
            yield Violation("B3/B6", place.entitled, place.entitled + allowed, text)
        elif told < FOREVER and _late(place, place.learnt, told + learn):
            text = f"{_shown(place)} learnt it {place.learnt - told:.3f} s late"
            yield Violation("B4", told, told + learn, text)


def who_is_served_is_woken(history: History) -> Iterator[Violation]:
    """In calm, whoever waits takes up its grant as soon as its client knows of it, from whatever source (B4)."""
    start, end = history.calm
    for held in history.held:
        if start <= held.learnt <= end and held.began > held.learnt + TAKE_UP:
            text = f"{_say(held)} took up its grant {held.began - held.learnt:.3f} s after its client knew of it"
            yield Violation("B4", held.learnt, held.began, text)


def _shown(place: Place) -> str:
    return f"{place.name} {place.number % 10**8} ({place.session}/{place.claim})"


def _late(place: Place, happened: float, allowed: float) -> bool:
    return happened > allowed and min(place.removed, place.dropped) > allowed


CHECKERS: Final[tuple[Callable[[History], Iterator[Violation]], ...]] = (
    unique_tokens,
    real_time_order,
    first_come,
    belief_is_covered,
    deadlines_are_covered,
    no_overlap,
    loss_latches,
    leases_are_fresh,
    max_hold_ends,
    loss_is_told,
    floors,
    lost_together,
    delays,
    steals_take_one,
    nothing_left,
    hand_over_is_prompt,
    who_is_served_is_woken,
)
