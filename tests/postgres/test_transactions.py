"""A name held by a transaction of the caller's own, beside leases: by each driver, with a fence, and all together."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tenure import AcquireTimeout, Client, UsageError, fencing
from tenure.errors import StaleToken
from tenure.runtimes import native
from tests.faces.programs import output
from tests.faces.watched import Attempt, Looped, waits
from tests.postgres.blind import GRANTS_WHATEVER, SEES_NO_CLAIM
from tests.postgres.connections import CONNECTIONS, AsyncPG, Blocking
from tests.servers import postgres
from tests.timing import SLACK

if TYPE_CHECKING:
    from tests.postgres.rig import Shelf
    from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing()))


# -- each driver, beside each face ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONNECTIONS)
@pytest.mark.parametrize("face", [Client, Looped])
def test_leases_and_transactions_exclude_each_other_and_their_tokens_rise(
    server: PostgresServer, url: str, schema: str, kind: str, face: Any
) -> None:
    with face(url) as client, Client(url) as witness, CONNECTIONS[kind](server.url) as own:
        first = client.lock("n").acquire()
        with pytest.raises(AcquireTimeout, match=rf"'n' was not granted .*\(token {first.token}\); 0 waiting") as busy:
            own.hold("n", wait=0.05, schema=schema)
        assert busy.value.queue is not None
        assert [holder.token for holder in busy.value.queue.holders] == [first.token]
        first.release()
        grant = own.hold("n", wait=5, schema=schema)
        assert grant.token == grant.floor > first.token
        assert grant.authority == client._core.authority
        assert client.lock("n").try_acquire() is None
        waiting: Attempt[Any] = Attempt(client.lock("n", wait=20).acquire)
        waits(witness, "n")
        own.commit()
        committed = native.now()
        lease = waiting.outcome()
        assert waiting.ended_at - committed < SLACK
        assert lease.token > grant.token
        lease.release()


def test_django_holds_a_name_in_an_atomic_block(server: PostgresServer, url: str, schema: str) -> None:
    code = """
from django.conf import settings
named = dict(NAME="postgres", USER="tenure", HOST="127.0.0.1", PORT=int(sys.argv[1]))
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", **named}})
import django
django.setup()
from django.db import connection, transaction
from tenure import postgres
for schema in (sys.argv[2], "nowhere"):
    try:
        with transaction.atomic():
            say(postgres.hold(connection, "n", schema=schema).name)
        postgres.hold(connection, "n", schema=schema)
    except tenure.TenureError as error:
        say(type(error).__name__)
connection.close()
"""
    Client(url).migrate()
    assert output(code, str(server.port), schema) == ["n", "UsageError", "IncompatibleStore"]


def test_autocommit_is_refused_by_each_driver(server: PostgresServer, url: str, schema: str) -> None:
    Client(url).migrate()
    with Blocking(server.url) as own, AsyncPG(server.url) as other:
        own.connection.autocommit = True
        other.rollback()
        for each in (own, other):
            with pytest.raises(UsageError, match="autocommit"):
                each.hold("n", schema=schema)
        with own.connection.transaction():
            assert own.hold("n", schema=schema).token


# -- with a fence -----------------------------------------------------------------------------------------------------


def late(server: PostgresServer, url: str, schema: str, *, fenced: bool, commits: bool = True) -> None:
    """A lease's holder is robbed without knowing, a transaction does its work, and the first one writes after it."""
    if server.run("SELECT to_regclass('tenure_fence')") == [(None,)]:
        server.run(fencing.schema("postgresql"))
    resource = f"of {schema}, {commits}"
    with Client(url) as client, psycopg.connect(server.url) as late, Blocking(server.url) as own:
        lease = client.lock("n").acquire()
        fencing.open(late, lease, resource=resource)
        client.steal("n", lease.token)
        own.hold("n", wait=5, schema=schema, fence=resource if fenced else None)
        (own.commit if commits else own.rollback)()
        with fencing.psycopg(late, lease.grant, resource=resource) as guarded:
            guarded.execute("SELECT 1")


def test_a_fence_that_a_transaction_raised_refuses_the_late_holder_of_a_lease(
    server: PostgresServer, url: str, schema: str
) -> None:
    with pytest.raises(StaleToken):
        late(server, url, schema, fenced=True)


def test_positive_control_without_a_fence_or_a_commit_the_late_holder_writes(
    server: PostgresServer, url: str, schema: str
) -> None:
    late(server, url, schema, fenced=False)
    late(server, url, schema, fenced=True, commits=False)


# -- all together -----------------------------------------------------------------------------------------------------


class Ledger:
    """A count that is read and written in two steps, and the tokens under which it was."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        shelf.run("CREATE TABLE %S.ledger (count integer, token bigint)")
        shelf.run("INSERT INTO %S.ledger VALUES (0, 0)")

    def add(self, connection: Any, token: int) -> None:
        query = f'SELECT count FROM "{self.shelf.schema}".ledger ORDER BY count DESC LIMIT 1'  # noqa: S608 - ours
        (count,) = connection.execute(query.encode()).fetchone()
        threading.Event().wait(0.002)
        insert = f'INSERT INTO "{self.shelf.schema}".ledger VALUES (%s, %s)'  # noqa: S608 - our schema
        connection.execute(insert.encode(), [count + 1, token])

    def is_right(self) -> bool:
        """Each count once, and under a larger token than the one before."""
        rows = self.shelf.run("SELECT count, token FROM %S.ledger ORDER BY count, token")
        counts, tokens = zip(*rows, strict=True)
        return list(counts) == list(range(len(rows))) and list(tokens) == sorted(set(tokens))


def mingled(shelf: Shelf, url: str, turns: int) -> bool:
    """Leases and transactions of many connections, some rolled back; whether each turn saw the one before."""
    ledger = Ledger(shelf)

    def leases() -> None:
        with Client(url) as client, psycopg.connect(shelf.server.url, autocommit=True) as connection:
            for _ in range(turns):
                with client.lock("n", wait=60) as lease:
                    ledger.add(connection, lease.token)
                threading.Event().wait(0.03)  # or no transaction ever finds the queue empty

    def transactions() -> None:
        with Blocking(shelf.server.url) as own:
            for turn in range(turns):
                token = shelf.hold(own, wait=60.0)
                ledger.add(own.connection, token)
                (own.rollback if turn % 4 == 3 else own.commit)()

    threads = [Attempt(each) for each in (leases, transactions) * 3]
    assert [thread.end() for thread in threads] == [None] * 6
    return ledger.is_right()


def test_leases_and_transactions_together_lose_no_update(shelf: Shelf, url: str) -> None:
    assert mingled(shelf, url, 20)


@pytest.mark.parametrize("changes", [[GRANTS_WHATEVER], SEES_NO_CLAIM], ids=["steps", "transactions"])
def test_positive_control_with_one_side_blind_they_do(shelf: Shelf, url: str, changes: Any) -> None:
    shelf.replace(*changes)
    assert not mingled(shelf, url, 20)
