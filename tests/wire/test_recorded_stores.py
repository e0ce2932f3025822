"""Stores as the formats that this tree speaks left them, with a holder and a waiter in them: it goes on with them.

They are on record as text beside the transcripts. The command that writes those anew writes the store in force, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tenure import AcquireTimeout, Client
from tenure.engines.redis import life as redis_life
from tenure.engines.sqlite import tables
from tenure.model import EXCLUSIVE
from tenure.ports import ClaimRef, Closing, Entry, Message, SessionCard, Standing
from tenure.runtimes.blocking import run
from tests.redis.rig import SocketWire, socket_wire
from tests.servers import redis
from tests.servers.redis import RedisServer
from tests.wire import recorded
from tests.wire.desk_redis import RedisDesk
from tests.wire.desk_sqlite import SqliteDesk
from tests.wire.scenario import NAMESPACE, PATIENCE, TTL
from tests.wire.stores import (
    CEILING,
    load_redis,
    load_sqlite,
    number,
    record_redis,
    record_sqlite,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from tests.wire.scenario import Desk

COMMANDS: Final = ".store.txt"
STATEMENTS: Final = ".store.sql"

A, B = number(1), number(2)
DEVICE, READS_A, READS_B, PERMITS_A = number(3), number(4), number(5), number(6)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    if reason := redis.missing():
        pytest.skip(reason)
    with RedisServer() as server:
        yield server


@pytest.fixture
def wire(server: RedisServer) -> Iterator[SocketWire]:
    with socket_wire(server) as wire:
        yield wire


def on_record_of(engine: str, module: ModuleType, ending: str) -> list[int]:
    """The formats that this tree speaks and of which a store is on record; that of the one in force must be."""
    return [n for n in module.SPOKEN if n == module.FORMAT or recorded.path(engine, n, ending).exists()]


def stored(engine: str, number: int, ending: str) -> str:
    return recorded.path(engine, number, ending).read_text("utf-8")


@pytest.mark.parametrize("spoken", on_record_of("redis", redis_life, COMMANDS))
def test_a_client_goes_on_with_a_redis_life(server: RedisServer, wire: SocketWire, rewrite: bool, spoken: int) -> None:
    if rewrite and spoken == redis_life.FORMAT:
        recorded.write("redis", spoken, COMMANDS, record_redis(server, wire))
    desk = RedisDesk(server, wire)
    load_redis(server, stored("redis", spoken, COMMANDS))
    goes_on(desk, server.url)
    assert server.cli("LRANGE", f"{{{NAMESPACE}:0}}:m:at-b", 0, -1) == [f"1 b 1 {B} {B}"]


@pytest.mark.parametrize("spoken", on_record_of("sqlite", tables, STATEMENTS))
def test_a_client_goes_on_with_a_file(tmp_path: Path, rewrite: bool, spoken: int) -> None:
    if rewrite and spoken == tables.FORMAT:
        recorded.write("sqlite", spoken, STATEMENTS, record_sqlite(tmp_path / "made.db"))
    path = tmp_path / "locks.db"
    load_sqlite(path, stored("sqlite", spoken, STATEMENTS))
    with SqliteDesk(path) as desk:
        goes_on(desk, f"sqlite://{path}")
        assert ("!", f'to at-b: "1 b 1 {B} {B}"') in desk.said()


@pytest.mark.parametrize("spoken", on_record_of("sqlite", tables, STATEMENTS))
def test_after_a_reboot_a_file_is_free_and_its_numbers_rise(tmp_path: Path, spoken: int, on_record: None) -> None:
    path = tmp_path / "locks.db"
    load_sqlite(path, stored("sqlite", spoken, STATEMENTS), clock="another-boot/0")
    with Client(f"sqlite://{path}", namespace=NAMESPACE) as client:
        with client.lock("orders/42", wait=0) as lease:
            assert lease.token > CEILING  # beyond what may have been given and not synced
        with pytest.raises(AcquireTimeout), client.lock("device", wait=0):
            pass  # it was held with a lock_delay, and nobody said that the work was done


@pytest.mark.parametrize(("was", "now"), [(" until ", " till "), (":q:", ":queue:"), (f" {A}", f" {A}0")])
def test_a_store_that_was_written_otherwise_is_found(
    server: RedisServer, wire: SocketWire, was: str, now: str, on_record: None
) -> None:
    """The control: what this tree does not read as it was written, the check above finds."""
    desk = RedisDesk(server, wire)
    text = stored("redis", redis_life.FORMAT, COMMANDS)
    assert was in text
    load_redis(server, text.replace(was, now))
    with pytest.raises((AssertionError, AcquireTimeout, pytest.fail.Exception)):
        goes_on(desk, server.url)


def goes_on(desk: Desk, url: str) -> None:
    """All that was held is held, who waited is granted, and what was refused stays refused."""
    store = desk.store
    run(store.authority(PATIENCE))
    with Client(url, namespace=NAMESPACE) as client:
        with pytest.raises(AcquireTimeout) as busy, client.lock("orders/42", wait=0):
            pass
        queue = busy.value.queue
        assert queue is not None
        assert [(c.token, c.client, c.info) for c in queue.holders] == [(A, "client a", "nightly")]
        assert [(c.token, c.client) for c in queue.waiters] == [(B, "client b")]
        for session in "ab":
            beat = run(store.heartbeat(session, TTL, True, PATIENCE))
            assert not beat.over
            assert beat.facts.stolen == number(1 if session == "a" else 2)
        assert Message("a", 1, A, A) in run(store.heartbeat("a", TTL, True, PATIENCE)).granted
        assert {ref.number for ref in run(store.claims("a", PATIENCE))} == {A, DEVICE, READS_A, PERMITS_A}
        _join(client)
        desk.said()
        assert _close(desk, ClaimRef("a", 1, f"{NAMESPACE}:orders/42", A))
        place = run(store.look(ClaimRef("b", 1, f"{NAMESPACE}:orders/42", B), PATIENCE))
        assert (place.standing, place.number, place.floor) == (Standing.HOLDS, B, B)
        assert _close(desk, ClaimRef("a", 2, f"{NAMESPACE}:device", DEVICE), clean=False)
        with pytest.raises(AcquireTimeout), client.lock("device", wait=0):
            pass  # for its lock_delay
        assert client.steal("device", DEVICE)
        with client.lock("device", wait=0) as lease:
            assert lease.token > PERMITS_A
        late = Entry(_card("b"), True, False, 7, f"{NAMESPACE}:orders/43", EXCLUSIVE, 0.0, "", False, False)
        assert run(store.enter(late, PATIENCE)).standing is Standing.GONE


def _join(client: Client) -> None:
    """Beside those who hold together."""
    with client.lock("catalogue", shared=True, wait=0) as lease:
        assert lease.floor == READS_A
        assert lease.token > PERMITS_A
    with client.semaphore("encoders", 3, wait=0) as lease:
        assert lease.floor == PERMITS_A
    with pytest.raises(AcquireTimeout), client.semaphore("encoders", 3, permits=2, wait=0):
        pass


def _card(session: str) -> SessionCard:
    return SessionCard(session, TTL, f"at-{session}", "", "", 1)


def _close(desk: Desk, ref: ClaimRef, *, clean: bool = True) -> bool:
    return run(desk.store.close([Closing(ref, tombstone=False, clean=clean, held=clean, ttl=TTL)], PATIENCE))[0]
