"""What each engine says to its store and leaves there, held to what its format is on record with.

During every roll-out two releases share one store, so whatever they must agree on is a *format* with a number: keys,
fields, arguments and replies of scripts and functions, schemas, messages. `recorded/ENGINE-FORMAT.txt` has all of it
for one scenario; here the scenario is played on a real server. A wire that changes while its number does not fails.

`scripts/test tests/wire --rewrite` writes the records anew; the diff is then what a reviewer reads.

Not here, because nothing is released yet: this tree and the wheel of the last release, mixed on one server. Until then
nobody but these records says what format 1 is.
"""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from tenure.engines import ENGINES, mail
from tenure.engines.etcd import requests
from tenure.engines.etcd.keys import Keys
from tenure.engines.postgres import migrate
from tenure.engines.postgres import store as postgres_store
from tenure.engines.redis import life as redis_life
from tenure.engines.redis import scripts
from tenure.engines.redis import store as redis_store
from tenure.engines.sqlite import tables
from tenure.engines.zookeeper import layout
from tests.redis.rig import socket_wire
from tests.servers import etcd, postgres, redis, zookeeper
from tests.servers.etcd import EtcdServer
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer
from tests.servers.zookeeper import ZooKeeperServer
from tests.wire import desk_etcd, desk_postgres, desk_redis, desk_sqlite, desk_zookeeper, recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import ModuleType

_serial = itertools.count(1)


@contextmanager
def _sqlite(folder: Path) -> Iterator[Callable[[], str]]:
    yield lambda: desk_sqlite.record(folder / f"{next(_serial)}.db")


@contextmanager
def _redis(folder: Path) -> Iterator[Callable[[], str]]:
    with RedisServer() as server, socket_wire(server) as wire:
        yield lambda: desk_redis.record(server, wire)


@contextmanager
def _redis_beside(folder: Path) -> Iterator[Callable[[], str]]:
    with RedisServer() as server, socket_wire(server) as wire:
        yield lambda: desk_redis.record_beside(server, wire)


@contextmanager
def _postgres(folder: Path) -> Iterator[Callable[[], str]]:
    with PostgresServer() as server:
        yield lambda: desk_postgres.record(server)


@contextmanager
def _etcd(folder: Path) -> Iterator[Callable[[], str]]:
    with EtcdServer() as server:
        yield lambda: desk_etcd.record(server)


@contextmanager
def _zookeeper(folder: Path) -> Iterator[Callable[[], str]]:
    with ZooKeeperServer() as server:
        yield lambda: desk_zookeeper.record(server, f"/wire-{next(_serial)}")


# -- one small change of each wire, without a new number: what must not pass ------------------------------------------


def _datagrams_of_version_2(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mail, "_WIRE", b"2")


def _tombstones_in_another_field(patch: pytest.MonkeyPatch) -> None:
    read = scripts._read
    patch.setattr(scripts, "_read", lambda name: read(name).replace(b"'tombs'", b"'graves'"))
    scripts.script.cache_clear()
    scripts.script_beside.cache_clear()


def _notifications_of_version_2(patch: pytest.MonkeyPatch) -> None:
    text = migrate.steps_text().replace("concat_ws(' ', '1',", "concat_ws(' ', '2',")
    patch.setattr(migrate, "steps_text", lambda: text)


def _tombstones_under_another_key(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Keys, "tombstone", lambda keys, session, claim: b"%bd/%b/%d" % (keys.prefix, session.encode(), claim))


def _steals_in_another_node(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(layout.Layout, "steals", lambda paths, session: f"{paths.sessions}/{session}:robbed")


class Wire(NamedTuple):
    """An engine that has a wire.

    Attributes:
        of: the module that has its format's number, by the name `constant`.
        site: entered once, with a folder of its own; gives a function that plays the scenario on a blank store.
        change: changes its wire a little.
        private: the marks of lines that no other release hears: where each brings scripts of its own (EVALSHA).
    """

    of: ModuleType
    site: Callable[[Path], AbstractContextManager[Callable[[], str]]]
    change: Callable[[pytest.MonkeyPatch], None]
    missing: Callable[[], str | None] = lambda: None
    private: str = ""
    constant: str = "FORMAT"

    @property
    def format(self) -> int:
        """Its number."""
        number: int = getattr(self.of, self.constant)
        return number

    @property
    def module(self) -> str:
        """Where that is, for people."""
        return f"src/{self.of.__name__.replace('.', '/')}.py"


WIRES: Final = {
    "sqlite": Wire(tables, _sqlite, _datagrams_of_version_2),
    "redis": Wire(redis_store, _redis, _tombstones_in_another_field, redis.missing, private="><"),
    "redis, beside plain keys": Wire(
        redis_life, _redis_beside, _tombstones_in_another_field, redis.missing, "><", "PLAIN_FORMAT"
    ),
    "postgresql": Wire(postgres_store, _postgres, _notifications_of_version_2, postgres.missing),
    "etcd": Wire(requests, _etcd, _tombstones_under_another_key, etcd.missing),
    "zookeeper": Wire(layout, _zookeeper, _steals_in_another_node, zookeeper.missing),
}


def _kept_as(engine: str) -> str:
    """An engine's name, by which its formats are on record."""
    return engine.partition(",")[0]


@pytest.fixture(scope="module", params=list(WIRES))
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if reason := WIRES[name].missing():
        pytest.skip(reason)
    return name


@pytest.fixture(scope="module")
def record(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    with WIRES[engine].site(tmp_path_factory.mktemp(engine)) as record:
        yield record


def test_the_wire_is_what_its_format_is_on_record_with(engine: str, record: Callable[[], str], rewrite: bool) -> None:
    wire = WIRES[engine]
    text = record()
    if rewrite:
        recorded.write(_kept_as(engine), wire.format, ".txt", text)
    recorded.compare(_kept_as(engine), wire.format, wire.module, text, wire.private)


def test_a_change_of_the_wire_under_the_same_number_is_found(
    engine: str, record: Callable[[], str], monkeypatch: pytest.MonkeyPatch, on_record: None
) -> None:
    wire = WIRES[engine]
    kept = _kept_as(engine)
    recorded.compare(
        kept, wire.format, wire.module, record(), wire.private
    )  # the control: without the change it passes
    try:
        wire.change(monkeypatch)
        changed = record()
    finally:
        scripts.script.cache_clear()
        scripts.script_beside.cache_clear()
    with pytest.raises(recorded.WireChangedError) as found:
        recorded.compare(_kept_as(engine), wire.format, wire.module, changed, wire.private)
    assert f"raise FORMAT in {wire.module}" in str(found.value)
    assert "scripts/test tests/wire --rewrite" in str(found.value)


def test_what_no_other_release_hears_needs_no_new_number(on_record: None) -> None:
    wire = WIRES["redis"]
    text = recorded.path("redis", wire.format, ".txt").read_text("utf-8")
    said = text.replace("\n> look ", "\n> look again ")
    assert said != text
    with pytest.raises(recorded.WireChangedError, match="format 1 it stays"):
        recorded.compare("redis", wire.format, wire.module, said, wire.private)
    with pytest.raises(recorded.WireChangedError, match="raise FORMAT"):
        recorded.compare("redis", wire.format, wire.module, said.replace(" until = ", " till = "), wire.private)


def test_every_engine_with_a_wire_is_here() -> None:
    modules = {module.rpartition(".")[2] for module in ENGINES.values()} - {"memory"}
    assert modules == {wire.module.split("/")[3] for wire in WIRES.values()}
