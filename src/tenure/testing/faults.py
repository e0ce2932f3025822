"""Faults as data: a plan is drawn from the seed before the run, so that it can be printed, and thinned out by kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tenure.testing.network import Weather

if TYPE_CHECKING:
    from random import Random

KINDS: Final = (
    "pause",  # a client stops and goes on
    "stall",  # the server stops and goes on
    "cut",  # a link is cut, in one direction or both
    "crash",  # a client dies; another takes its place
    "close",  # a client is closed; another takes its place
    "restart",  # the server restarts and has lost nothing
    "forget",  # the server restarts and has lost its last writes, or everything
    "skip",  # the server's clock runs ahead, and is set back later
    "back",  # the server's clock is set back
    "wall",  # the server's wall clock is set back
    "steal",  # an operator steals claims
    "storm",  # the network is bad for a while
    "starve",  # single threads are not scheduled for a while
    "cancel",  # callers are cancelled
    "vanish",  # a caller's thread is killed, or its lease is dropped unreleased
)
"""Every kind of fault; `--faults` chooses among them."""

DISASTERS: Final = frozenset({"forget", "skip"})
"""Kinds that may end a session early or lose a claim: beliefs may overlap for one ttl afterwards."""


class Fault(NamedTuple):
    """One fault: from `at`, for `length` seconds, on a target; `amount` means what its kind says."""

    at: float
    kind: str
    target: str
    length: float
    amount: float


class Plan(NamedTuple):
    """All that a seed decides before a run begins."""

    ttl: float
    chaos: float
    calm: float
    clients: int
    callers: int
    modes: str
    weather: Weather
    lossy: bool
    dead_after: float | None
    kinds: frozenset[str]
    faults: tuple[Fault, ...]
    parts: int = 1
    """Over how many parts each client takes the names to be spread, with sessions of their own."""
    together: bool = False
    """Whether callers also take several names at once."""


def weather(rng: Random, ttl: float, badness: float) -> Weather:
    """Some bad weather: each chance up to `badness`."""

    def chance() -> float:
        return rng.choice((0.0, 0.2, 1.0)) * badness

    return Weather(
        rng.choice((0.0005, 0.005, 0.05)),
        chance(),
        chance(),
        chance(),
        rng.choice((0.3, 1.0, 1.5)) * ttl,
        chance() / 2,
        chance() / 2,
        chance() * 2,
        chance(),
        chance() * 2,
    )


def plan(rng: Random, mode: str, kinds: frozenset[str]) -> Plan:
    """Draw a plan."""
    ttl = rng.choice((3.0, 6.0, 12.0))
    chaos = (12 if mode == "safety" else 4) * ttl
    calm = (0 if mode == "safety" else 14) * ttl
    # A number drawn after a loss is above the earlier ones only if the clock is (B7).
    apart = "wall" if rng.random() < 0.5 else "forget"
    usable = [kind for kind in KINDS if kind in kinds and kind not in ("cancel", "vanish", apart)]
    few = rng.sample(usable, min(len(usable), rng.randint(1, 5)))
    faults = [_fault(rng, rng.choice(few), ttl, chaos) for _ in range(rng.randint(2, 9))] if few else []
    if calm and "crash" in kinds:
        faults += [Fault(chaos + rng.random() * calm * 0.8, "crash", "", 0.0, 0.0) for _ in range(rng.randint(2, 6))]
    return Plan(
        ttl,
        chaos,
        calm,
        clients=rng.randint(2, 4),
        callers=rng.randint(2, 3),
        modes=rng.choice(("exclusive", "exclusive", "shared", "permits", "permits", "all")),
        weather=weather(rng, ttl, rng.choice((0.0, 0.03, 0.15))) if "storm" in kinds else Weather(),
        lossy=rng.random() < 0.4,
        dead_after=rng.choice((None, None, 0.0005, 0.05)),
        kinds=kinds,
        faults=tuple(sorted(faults)),
    )


def _fault(rng: Random, kind: str, ttl: float, chaos: float) -> Fault:
    length = ttl * rng.choice((0.1, 0.4, 1.0, 1.6)) * (0.5 + rng.random())
    amount = ttl * rng.choice((0.1, 0.5, 1.2)) * rng.random()
    target = ""
    if kind == "cut":
        target = rng.choice(("to", "from", "both"))
    elif kind == "pause":
        target = rng.choice(("", "sending"))
    elif kind == "skip":
        # Far enough to end sessions, and set back before all of their clients have noticed.
        length, amount = ttl * rng.choice((0.03, 0.1, 0.4)), ttl * (0.3 + 0.8 * rng.random())
    return Fault(rng.random() * chaos, kind, target, length, amount)
