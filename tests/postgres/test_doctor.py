"""What `doctor` says of a PostgreSQL server, each finding beside the set-up that brings it about."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg
import pytest

from tenure import Client
from tenure.engines.postgres import doctor
from tenure.findings import Grade
from tests.servers import pgbouncer, postgres
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tenure.findings import Finding

pytestmark = pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing()))


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(fsync=True, extra=["max_connections=20"]) as server:
        Client(server.url).migrate()
        yield server


@pytest.fixture
def role(server: PostgresServer) -> Iterator[None]:
    """What the test sets for the user is gone after it."""
    yield
    server.run("ALTER ROLE tenure RESET ALL")


def findings(url: str, ttl: float = 30.0) -> dict[str, Finding]:
    return {finding.name: finding for finding in Client(url, ttl=ttl).doctor().findings}


def test_a_server_in_order_has_nothing_but_good_findings(server: PostgresServer) -> None:
    found = findings(server.url)
    assert {name: f.found for name, f in found.items() if f.grade is not Grade.OK} == {}
    assert "a waiter listens" in found["mailbox"].found
    assert "at most 6" in found["connections"].found


@pytest.mark.skipif(pgbouncer.missing() is not None, reason=str(pgbouncer.missing()))
def test_behind_a_pooler_it_says_how_a_waiter_hears_of_its_grant(server: PostgresServer) -> None:
    with PgBouncer(server) as pooler:
        polls = findings(f"{pooler.url}?poll=0.25")["mailbox"]
        assert polls.grade is Grade.INFO
        assert "asks every 0.25 s" in polls.found
        listens = findings(f"{pooler.url}?listen_url={quote(server.url, safe='')}")["mailbox"]
        assert listens.grade is Grade.OK
        assert "listen_url" in listens.found


@pytest.mark.usefixtures("role")
def test_settings_of_the_user_are_seen(server: PostgresServer) -> None:
    server.run("ALTER ROLE tenure SET statement_timeout = '1s'")
    server.run("ALTER ROLE tenure SET synchronous_commit = off")
    found = findings(server.url)
    assert found["statement_timeout"].grade is Grade.WARNING
    assert found["durability"].grade is Grade.INFO
    assert "not synced" in found["durability"].found
    assert findings(f"{server.url}?synchronous_commit=on", ttl=3.0)["durability"].grade is Grade.OK
    assert findings(server.url, ttl=3.0)["statement_timeout"].grade is Grade.OK


def test_connections_that_are_nearly_used_up_are_seen(server: PostgresServer) -> None:
    others = [psycopg.connect(server.url) for _ in range(14)]
    try:
        assert findings(server.url)["connections"].grade is Grade.WARNING
    finally:
        for other in others:
            other.close()


def test_a_transaction_that_is_left_open_is_seen(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LONG_S", 0.0)
    with psycopg.connect(server.url) as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT 1")
        assert findings(server.url)["vacuum"].grade is Grade.WARNING
    assert findings(server.url)["vacuum"].grade is Grade.OK


def test_a_schema_that_is_missing_or_of_other_functions_is_seen(server: PostgresServer) -> None:
    assert findings(f"{server.url}?schema=nowhere")["schema"].grade is Grade.DANGER
    server.run("UPDATE tenure.genesis SET steps = 'another'")
    assert findings(server.url)["schema"].grade is Grade.INFO
    assert Client(server.url).migrate()
    assert findings(server.url)["schema"].grade is Grade.OK


def test_numbers_that_are_ahead_of_the_clock_are_seen(server: PostgresServer) -> None:
    ahead = "SELECT setval('tenure.given', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + 3600000000)"
    server.run(ahead)
    try:
        assert findings(server.url)["numbers"].grade is Grade.WARNING
    finally:
        server.run("SELECT setval('tenure.given', 1)")
    assert findings(server.url)["numbers"].grade is Grade.OK


def test_a_server_that_does_not_wait_for_its_disk_is_a_danger() -> None:
    with PostgresServer() as careless:
        assert findings(careless.url)["durability"].grade is Grade.DANGER
