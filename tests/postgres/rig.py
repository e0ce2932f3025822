"""What tests of the PostgreSQL engine share: a store without a client, and somebody else who locks our rows."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import psycopg

from tenure.engines.postgres.link import READ_COMMITTED, dial, wait_here
from tenure.engines.postgres.migrate import migrate, statements, steps_text
from tenure.engines.postgres.store import Known, PostgresStore
from tenure.engines.postgres.transport_blocking import BlockingWire
from tenure.model import EXCLUSIVE
from tenure.ports import ClaimRef, Closing, Entry, SessionCard
from tenure.runtimes import native
from tenure.runtimes.blocking import run
from tests.servers.processes import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tenure.engines.postgres.link import Link
    from tenure.ports import Place
    from tests.postgres.connections import Blocking
    from tests.servers.postgres import PostgresServer
    from tests.servers.proxy import Proxy

TTL = 1.5
"""Renewed each 0.5 s; a request without an answer is given up after 0.25 s."""

PERIOD = TTL / 3
PATIENCE = TTL / 6
LONG = 60.0
"""A ttl that no test outlasts."""


class Shelf:
    """A schema of a server, and one connection to it: the steps without a client."""

    def __init__(
        self, server: PostgresServer, schema: str, *, commits: str = "", options: str = READ_COMMITTED
    ) -> None:
        self.server = server
        self.schema = schema
        link = dial(server.url, 5.0, wait_here)
        migrate(link, schema)
        link.close()
        self.links: list[Link] = []
        self.wire = BlockingWire(lambda timeout, wait: self._dial(server.url, timeout, wait, options), most=1)
        self.store = PostgresStore(self.wire, Known(schema, commits), native.now)
        run(self.store.authority(5.0))

    def _dial(self, *args: Any) -> Link:
        self.links.append(dial(*args))
        return self.links[-1]

    def enter(self, session: str, claim: int, name: str, ttl: float = LONG, **named: Any) -> Place:
        card = SessionCard(session, ttl, f"tenure_{session}", "", "", 1)
        entry = Entry(card, True, False, claim, name, EXCLUSIVE, 0.0, "", False, False)
        return run(self.store.enter(entry._replace(**named), 5.0))

    def close(self, session: str, claim: int, name: str, number: int) -> bool:
        ref = ClaimRef(session, claim, name, number)
        return run(self.store.close([Closing(ref, False, True, True, LONG)], 5.0))[0]

    def hold(self, by: Blocking, name: str = "n", wait: float = 0.0) -> int:
        """Let a transaction hold a name under the namespace of its tests, which the steps know as `tenure:NAME`.

        Returns:
            The token.
        """
        return by.hold(name, wait=wait, schema=self.schema).token

    def replace(self, *changes: tuple[str, str]) -> None:
        """Put a mutant of the steps in force, in this schema."""
        text = steps_text()
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        with psycopg.connect(self.server.url, autocommit=True) as connection:
            connection.execute(f'SET search_path = "{self.schema}", pg_temp'.encode())
            for statement in statements(text):
                connection.execute(statement.encode())

    def run(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement in which %S is the schema."""
        return self.server.run(query.replace("%S", f'"{self.schema}"'), *values)


@contextlib.contextmanager
def locked(server: PostgresServer, schema: str, table: str, key: str) -> Iterator[None]:
    """Somebody else's transaction that has locked a row, and does not end."""
    column = "id" if table == "sessions" else "name"
    with psycopg.connect(server.url) as stranger:
        query = f'SELECT FROM "{schema}".{table} WHERE {column} = %s FOR UPDATE'
        assert stranger.execute(query.encode(), [key]).rowcount == 1
        yield
        stranger.rollback()


def waits_for_a_lock(server: PostgresServer, count: int = 1) -> None:
    """Wait until so many wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    until(lambda: server.run(query) == [(count,)], f"{count} wait for a lock")


def through(proxy: Proxy, server: PostgresServer, url: str) -> str:
    """A URL of a server, by way of a proxy."""
    return url.replace(f":{server.port}/", f":{proxy.port}/")


def listens(server: PostgresServer, count: int = 1) -> None:
    """Wait until so many mailboxes listen."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN %' AND state = 'idle'"
    until(lambda: server.run(query) == [(count,)], f"{count} mailboxes listen")
