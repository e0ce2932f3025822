"""A transaction that holds a name and ends without its will, and what is refused to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tenure import AcquireTimeout, Client, IncompatibleStore, UnsafeSetup, UsageError
from tenure import postgres as tenure_postgres
from tests.faces.watched import Attempt, waits
from tests.postgres.connections import CONNECTIONS, Blocking
from tests.servers import pgbouncer, postgres
from tests.servers.pgbouncer import PgBouncer

if TYPE_CHECKING:
    from tests.postgres.rig import Shelf
    from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing()))


def test_a_transaction_whose_backend_is_ended_holds_no_more(
    server: PostgresServer, url: str, schema: str, own: Blocking
) -> None:
    with Client(url) as client:
        client.open()
        token = own.hold("n", schema=schema).token
        waiting: Attempt[Any] = Attempt(client.lock("n", wait=20).acquire)
        waits(client, "n")
        (holder,) = client.inspect("n").holders
        server.run("SELECT pg_terminate_backend(%s)", holder.pid)
        assert waiting.outcome().token > token
        waiting.outcome().release()


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_snapshot_from_before_the_wait_is_refused(shelf: Shelf, own: Blocking, level: str) -> None:
    own.connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}".encode())
    with pytest.raises(UsageError, match=level):
        shelf.hold(own)
    assert own.connection.execute("SELECT 1").fetchone() == (1,)


def test_wrong_arguments_are_refused_before_anything_is_sent(own: Blocking) -> None:
    for wrong in ({"name": ""}, {"wait": -1}, {"wait": None}, {"schema": 'x"y'}, {"namespace": "a:b"}, {"fence": 7}):
        with pytest.raises(UsageError):
            own.hold(**({"name": "n"} | wrong))
    with pytest.raises(UsageError, match="psycopg"):
        tenure_postgres.hold(object(), "n")
    assert own.connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_a_schema_without_tables_and_a_missing_right_are_typed(server: PostgresServer, url: str, schema: str) -> None:
    with Blocking(server.url) as own, pytest.raises(IncompatibleStore, match="tenure migrate"):
        own.hold("n", schema="nowhere")
    Client(url).migrate()
    server.run(f"CREATE ROLE bare_{schema} LOGIN")
    for kind in CONNECTIONS.values():
        with kind(server.url_as(f"bare_{schema}")) as own, pytest.raises(UnsafeSetup, match="GRANT USAGE"):
            own.hold("n", schema=schema)
    server.run(f"GRANT USAGE ON SCHEMA {schema} TO bare_{schema}")
    with Blocking(server.url_as(f"bare_{schema}")) as own:
        assert own.hold("n", schema=schema).token


def test_two_names_in_two_orders_are_a_deadlock_that_the_server_ends(
    shelf: Shelf, own: Blocking, other: Blocking
) -> None:
    shelf.hold(own, "a")
    shelf.hold(other, "b")

    def cross(by: Blocking, name: str) -> int:
        try:
            return shelf.hold(by, name, wait=20.0)
        except psycopg.errors.DeadlockDetected:
            by.rollback()
            return 0

    tokens = [attempt.outcome() for attempt in (Attempt(lambda: cross(own, "b")), Attempt(lambda: cross(other, "a")))]
    assert sum(token > 0 for token in tokens) == 1


@pytest.mark.skipif(pgbouncer.missing() is not None, reason=str(pgbouncer.missing()))
def test_a_pooler_in_between_makes_no_difference(
    server: PostgresServer, url: str, schema: str, other: Blocking
) -> None:
    Client(url).migrate()
    with PgBouncer(server) as pooler, Blocking(pooler.url) as own:
        token = own.hold("n", schema=schema).token
        with pytest.raises(AcquireTimeout):
            other.hold("n", wait=0.05, schema=schema)
        own.commit()
        assert other.hold("n", schema=schema).token > token
