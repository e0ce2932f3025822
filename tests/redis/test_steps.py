"""The Lua is held to the Python.

Whatever the simulator and its mutants show of the one is thereby shown of the other, and mutants of the Lua die too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tenure.engines.redis import scripts
from tenure.engines.redis.life import Life
from tenure.engines.redis.store import RedisStore
from tenure.errors import TenureError
from tenure.model import EXCLUSIVE
from tenure.ports import ClaimRef, Closing, Entry, SessionCard
from tenure.runtimes import native
from tenure.runtimes.blocking import run
from tests.redis.mutants import MUTANTS, Mutant
from tests.redis.rig import SocketWire, socket_wire
from tests.redis.twins import Twins
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

SEEDS: Final = 160

KILLING_SEEDS: Final = 300
"""How many seeds a mutant may survive."""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(clock=True) as server:
        yield server


@pytest.fixture
def wire(server: RedisServer) -> Iterator[SocketWire]:
    with socket_wire(server) as wire:
        yield wire


@pytest.mark.parametrize("start", range(0, SEEDS, 20))
def test_the_same_steps_have_the_same_replies_on_both(server: RedisServer, wire: SocketWire, start: int) -> None:
    for seed in range(start, start + 20):
        Twins(server, wire, seed).live()


@pytest.mark.parametrize("opening", [True, False])
def test_every_number_is_larger_than_the_last(server: RedisServer, wire: SocketWire, opening: bool) -> None:
    numbers_rise(server, wire, opening)


def numbers_rise(server: RedisServer, wire: SocketWire, opening: bool) -> None:
    """Draw numbers while the clock is set back, with a session for each or one for all."""
    namespace = native.new_id()
    store = RedisStore(wire, namespace, Life(), native.now)
    run(store.authority(5.0))
    last, back = 0, 0.0
    try:
        for claim in range(1, 2001):
            if claim in (500, 1000, 1500):
                server.clock.jump(-3600.0)
                back += 3600.0
            card = SessionCard(f"s{claim if opening else 1}", 3600.0 * 24, "", "", "", 1)
            is_first = opening or claim == 1
            entry = Entry(card, is_first, False, claim, f"{namespace}:{claim}", EXCLUSIVE, 0.0, "", False, False)
            place = run(store.enter(entry, 5.0))
            assert place.number > last
            last = place.number
    finally:
        server.clock.jump(back)


def test_the_mail_of_a_client_that_died_does_not_stay(server: RedisServer, wire: SocketWire) -> None:
    namespace = native.new_id()
    store = RedisStore(wire, namespace, Life(), native.now)
    run(store.authority(5.0))
    places = []
    for session, ttl in (("leaves", 600.0), ("dies", 60.0)):
        card = SessionCard(session, ttl, f"at-{session}", "", "", 1)
        entry = Entry(card, True, False, 1, f"{namespace}:n", EXCLUSIVE, 0.0, "", False, False)
        places.append(run(store.enter(entry, 5.0)))
    ref = ClaimRef("leaves", 1, f"{namespace}:n", places[0].number)
    run(store.close([Closing(ref, False, True, True, 600.0)], 5.0))
    box = f"{{{namespace}:0}}:m:at-dies"
    assert server.cli("LLEN", box) == 1
    server.clock.jump(61.0)
    assert server.cli("PTTL", box) == -1, "the control: nobody has looked at the dead session yet"
    run(store.heartbeat("leaves", 600.0, False, 5.0))
    server.clock.jump(61.0)
    assert server.cli("EXISTS", box) == 0


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_mutant_dies(server: RedisServer, wire: SocketWire, mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    read = scripts._read
    mutant.applied(mutant.file, read(mutant.file))  # not inside: a line that is gone must not pass for a death
    Twins(server, wire, 999_999).live()  # the control: unchanged, it lives
    monkeypatch.setattr(scripts, "_read", lambda name: mutant.applied(name, read(name)))
    scripts.script.cache_clear()
    try:
        if mutant.rule == "B7":
            with pytest.raises(AssertionError):
                numbers_rise(server, wire, opening=False)
            return
        for seed in (mutant.seed, *range(KILLING_SEEDS)):
            try:
                Twins(server, wire, 1_000_000 + seed).live()
            except (AssertionError, KeyError, TenureError):
                return
        pytest.fail(f"{mutant.name} ({mutant.rule}) survived {KILLING_SEEDS} seeds")
    finally:
        scripts.script.cache_clear()
