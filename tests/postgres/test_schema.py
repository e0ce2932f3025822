"""The schema: what its users need, and how a fleet makes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tenure import Client, TenureError
from tests.faces.watched import Attempt, waits
from tests.postgres.rig import TTL
from tests.servers import postgres

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing()))


def test_a_client_needs_usage_of_the_schema_and_nothing_else(server: PostgresServer, schema: str, url: str) -> None:
    app = server.url_as(f"app_{schema}") + f"?schema={schema}"
    server.run(f"CREATE ROLE app_{schema} LOGIN")
    Client(url).migrate()
    with pytest.raises(TenureError, match="GRANT USAGE ON SCHEMA"), Client(app) as client:
        client.lock("n").acquire()
    server.run(f"GRANT USAGE ON SCHEMA {schema} TO app_{schema}")
    with Client(app, ttl=TTL) as client, Client(app) as other:
        lease = client.lock("n", lock_delay=0.1).acquire()
        waiting: Attempt[Any] = Attempt(other.lock("n", wait=10).acquire)
        waits(client, "n")
        assert client.steal("n", lease.token)
        waiting.outcome().release()
        with client.semaphore("s", 2):
            pass
        assert {f.name: f.grade for f in client.doctor().findings}["schema"] == 0
    with (
        psycopg.connect(server.url_as(f"app_{schema}")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(f'DELETE FROM "{schema}".claims'.encode())  # noqa: S608 - a test's words


def test_a_fleet_that_creates_its_schema_at_once_makes_one(server: PostgresServer, url: str) -> None:
    def opened() -> str:
        with Client(url) as client, client.lock("n", wait=20) as lease:
            return lease.grant.authority

    attempts = [Attempt(opened) for _ in range(8)]
    assert len({attempt.outcome() for attempt in attempts}) == 1
