"""Twins, as for Redis: the same random steps on a real server's PL/pgSQL and on `tenure.engines.queue.Steps`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tenure.engines.mail import decode
from tenure.engines.postgres.link import dial, wait_here
from tenure.engines.postgres.migrate import migrate, statements
from tenure.engines.postgres.store import Known, PostgresStore
from tenure.engines.postgres.transport_blocking import BlockingWire
from tenure.runtimes import native
from tenure.runtimes.blocking import run
from tests.redis import twins
from tests.redis.twins import SESSIONS

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer


class Desk:
    """A schema of a server, with a store and a listener; for many twins."""

    def __init__(self, server: PostgresServer, schema: str) -> None:
        self.server = server
        self.listener = dial(server.url, 5.0, wait_here)
        migrate(self.listener, schema)
        for session in SESSIONS:
            self.do(f'LISTEN "at-{session}"')
        self.known = Known(schema, "")
        self.wire = BlockingWire(lambda timeout, wait: dial(server.url, timeout, wait), most=1)
        self.store = PostgresStore(self.wire, self.known, native.now)
        run(self.store.authority(5.0))

    def do(self, statement: str, *values: str) -> bytes:
        """Run a statement; its value."""
        answer = self.listener.ask(statement.encode(), [value.encode() for value in values], 20.0, wait_here)
        assert not answer.state, answer
        return answer.value

    def close(self) -> None:
        self.listener.close()
        self.wire.shut()

    def replace(self, text: str) -> None:
        """Put other functions in force."""
        self.do(f'SET search_path = "{self.known.schema}", pg_temp')
        for statement in statements(text):
            self.do(statement)

    def forget(self) -> None:
        """Begin anew: sessions, claims and names are gone, and so is the mail."""
        for table in ("sessions", "claims", "names", "mail"):
            self.do(f'DELETE FROM "{self.known.schema}".{table}')  # noqa: S608 - names of this file
        self.listener.notices()


class Twins(twins.Twins):
    """One step after the other on both, compared. Every other seed's clients cannot listen."""

    def __init__(self, desk: Desk, seed: int) -> None:
        self.desk = desk
        self.listens = seed % 2 == 0
        desk.forget()
        self.begin(desk.store, desk.server.clock, f"twins-{next(twins._serial)}:", seed)

    def is_kept(self, session: str) -> bool:
        query = f'SELECT count(*) FROM "{self.desk.known.schema}".sessions WHERE id = $1'  # noqa: S608 - our schema
        return self.desk.do(query, session) == b"1"

    def address(self, name: str) -> str:
        return f"at-{name}" if self.listens else f"poll_at-{name}"

    def our_mail(self) -> set[tuple[Any, ...]]:
        # Whatever was told before an answer is heard before the next one.
        self.desk.do("SELECT 1")
        told = [(channel.decode(), payload) for channel, payload in self.desk.listener.notices()]
        for session in SESSIONS:
            address = f"poll_at-{session}"
            mail = self.desk.do(f'SELECT "{self.desk.known.schema}".take_mail($1)', address)
            told += [(address, message.encode()) for message in json.loads(mail)]
        found: set[tuple[Any, ...]] = set()
        now = self.at().now_us
        for address, payload in told:
            message = decode(payload)
            assert message is not None
            # The dead are told too: nobody listens there, and what lies there is swept with their session.
            row = self.steps.tables.session(message.session)
            if row is not None and not row.ended and row.until_us > now:
                found.add((address, *self.message(message, self.ours)))
        return found
