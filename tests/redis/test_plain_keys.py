"""The steps of a store that has plain keys beside its queues, held to two things.

Among tenure's own clients they are the same steps as without, by the same twins; and whatever holders of plain keys
and vandals do meanwhile, nobody is told that he holds who must not be (`mixed`). Mutants of the Lua die of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tenure.engines.redis import scripts
from tenure.engines.redis.life import Life
from tenure.errors import TenureError
from tests.redis.mixed import Mixed
from tests.redis.mutants import PLAIN_MUTANTS, Mutant
from tests.redis.rig import SocketWire, socket_wire
from tests.redis.twins import Twins
from tests.servers import clock, redis
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.resp import Connection

pytestmark = pytest.mark.skipif(redis.missing() is not None, reason=redis.missing() or "")

TWIN_SEEDS: Final = 12
MIXED_SEEDS: Final = 60
OFF_AFTER: Final = 40
KILLING_SEEDS: Final = 100
"""How many seeds a mutant may survive."""

ENDLESS: Final = Mutant("no turns", "", "plain", "local TURN = 1000000 ", "local TURN = 1e15 ")
"""The model has nobody to whom the key could be left for a while."""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    if reason := clock.missing():
        pytest.skip(reason)
    with RedisServer(clock=True) as server:
        yield server


@pytest.fixture
def wire(server: RedisServer) -> Iterator[SocketWire]:
    with socket_wire(server) as wire:
        yield wire


@pytest.fixture
def raw(server: RedisServer) -> Iterator[Connection]:
    with server.connect("unix") as connection:
        yield connection


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Mutant]]:
    """Changes of the scripts' texts; a test appends to it, and nothing is left of them afterwards."""
    changes: list[Mutant] = []
    read = scripts._read

    def with_changes(name: str) -> bytes:
        text = read(name)
        for change in changes:
            text = change.applied(name, text)
        return text

    monkeypatch.setattr(scripts, "_read", with_changes)
    yield changes
    scripts.script_beside.cache_clear()


def change(changed: list[Mutant], *changes: Mutant) -> None:
    changed[:] = changes
    scripts.script_beside.cache_clear()


@pytest.mark.parametrize("start", range(0, TWIN_SEEDS, 6))
def test_among_ourselves_plain_keys_change_nothing(
    server: RedisServer, wire: SocketWire, start: int, changed: list[Mutant]
) -> None:
    change(changed, ENDLESS)
    for seed in range(start, start + 6):
        Twins(server, wire, seed, plain=True).live()


@pytest.mark.parametrize("start", range(0, MIXED_SEEDS, 20))
def test_whatever_others_do_nobody_is_told_that_he_holds_who_must_not_be(
    server: RedisServer, wire: SocketWire, raw: Connection, start: int
) -> None:
    for seed in range(start, start + 20):
        Mixed(server, wire, raw, seed).live()


@pytest.mark.parametrize("start", range(0, MIXED_SEEDS, 20))
def test_nor_if_plain_keys_are_turned_off_meanwhile(
    server: RedisServer, wire: SocketWire, raw: Connection, start: int
) -> None:
    turned_off(server, wire, raw, range(start, start + 20))


def turned_off(server: RedisServer, wire: SocketWire, raw: Connection, seeds: range) -> None:
    for seed in seeds:
        # Numbers that are a day ahead of this host's clock would be refused when the record is read anew.
        server.clock.jump(-server.clock.ahead)
        Mixed(server, wire, raw, seed).live(2 * OFF_AFTER, OFF_AFTER)


def test_positive_control_turned_off_without_another_life(
    server: RedisServer, wire: SocketWire, raw: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def adopt(self: Life, store_id: str, spoken: int, template: str) -> None:
        self.id, self.format, self.template = store_id, spoken, template
        self._name()

    monkeypatch.setattr(Life, "adopt", adopt)
    with pytest.raises(AssertionError):
        turned_off(server, wire, raw, range(KILLING_SEEDS))


@pytest.mark.parametrize("mutant", PLAIN_MUTANTS, ids=[mutant.name for mutant in PLAIN_MUTANTS])
def test_a_mutant_dies(
    server: RedisServer, wire: SocketWire, raw: Connection, mutant: Mutant, changed: list[Mutant]
) -> None:
    mutant.applied(mutant.file, scripts._read(mutant.file))  # not inside: a line that is gone must not pass for a death
    Mixed(server, wire, raw, 999_999).live()  # the control: unchanged, it lives
    change(changed, mutant)
    for seed in range(KILLING_SEEDS):
        try:
            Mixed(server, wire, raw, 1_000_000 + seed).live()
        except (AssertionError, KeyError, TenureError):
            print(f"{mutant.name} died after {seed + 1} seeds")
            return
    pytest.fail(f"{mutant.name} survived {KILLING_SEEDS} seeds")
