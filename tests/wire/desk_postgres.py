"""The wire of PostgreSQL: tables, signatures of functions, their calls and replies, rows, notifications."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import psycopg

from tenure.engines.postgres.link import dial, wait_here
from tenure.engines.postgres.migrate import migrate, steps_hash
from tenure.engines.postgres.store import FORMAT, Known, PostgresStore
from tenure.engines.postgres.transport_blocking import BlockingWire
from tenure.runtimes import native
from tests.wire.scenario import SESSIONS, Play, scenario
from tests.wire.transcript import Transcript

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenure.engines.postgres.link import Answer
    from tests.servers.postgres import PostgresServer

SCHEMA: Final = "wire"
TABLES: Final = ("genesis", "names", "sessions", "claims", "mail")

UNTOLD: Final = {"genesis": ("steps", "started")}
"""Which text of the functions is in force, and a start of the server: nothing that two releases must agree on."""

_COLUMNS: Final = """
    SELECT table_name, column_name, data_type, is_nullable, coalesce(collation_name, '')
      FROM information_schema.columns WHERE table_schema = %s ORDER BY table_name, ordinal_position
"""
_INDEXES: Final = "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = %s ORDER BY indexdef"
_FUNCTIONS: Final = """
    SELECT p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), p.prosecdef, p.proargnames
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname = %s ORDER BY p.proname COLLATE "C"
"""


class PostgresDesk:
    """As `Desk`: a schema made anew, a connection, and somebody who listens for three clients."""

    has_tombstones = True

    def __init__(self, server: PostgresServer) -> None:
        self._said: list[tuple[str, str]] = []
        self._stranger = psycopg.connect(server.url, autocommit=True)
        self._stranger.execute(f'DROP SCHEMA IF EXISTS "{SCHEMA}" CASCADE')
        self._listener = dial(server.url, 5.0, wait_here)
        migrate(self._listener, SCHEMA)
        for session in SESSIONS:
            self._ask(f'LISTEN "at-{session}"')
        self._wire = BlockingWire(lambda timeout, wait: dial(server.url, timeout, wait), most=1)
        self._arguments = {row[0]: list(row[4] or ()) for row in self.rows(_FUNCTIONS, SCHEMA)}
        self.store = PostgresStore(self, Known(SCHEMA, ""), native.now)

    def rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        """What a stranger reads."""
        return self._stranger.execute(query.encode(), values or None).fetchall()

    def _ask(self, statement: str) -> Answer:
        answer = self._listener.ask(statement.encode(), (), 20.0, wait_here)
        assert not answer.state, answer
        return answer

    # -- as `store.Wire` --------------------------------------------------------------------------------------------

    async def exchange(self, statement: bytes, values: Sequence[bytes | None], timeout: float) -> Answer:
        answer = await self._wire.exchange(statement, values, timeout)
        name = statement.decode().split(".")[1].partition("(")[0]
        shown = ((each, (value or b"").decode()) for each, value in zip(self._arguments[name], values, strict=True))
        said = " ".join(f"{each}={'PATIENCE' if each == 'p_patience_ms' else value or '-'}" for each, value in shown)
        self._said.append((">", f"{name} {said}".rstrip()))
        self._said.append(("<", answer.value.decode() or "-"))
        return answer

    def forget(self) -> None:
        self._wire.forget()

    # -- as `Desk` --------------------------------------------------------------------------------------------------

    def said(self) -> list[tuple[str, str]]:
        # Whatever was told before an answer is heard before the next one.
        self._ask("SELECT 1")
        told = [("!", f'to {channel.decode()}: "{message.decode()}"') for channel, message in self._listener.notices()]
        said, self._said = self._said + told, []
        return said

    def state(self) -> list[tuple[str, str]]:
        found = []
        for table in TABLES:
            for row in self.rows(f'SELECT row_to_json(t) FROM "{SCHEMA}"."{table}" t'):  # noqa: S608 - our names
                shown = {name: value for name, value in row[0].items() if name not in UNTOLD.get(table, ())}
                found.append((table, _shown(shown)))
        return sorted(found)

    def clocks(self) -> Sequence[int]:
        return (int(time.time() * 1e6),)

    def schema(self) -> list[str]:
        """Tables, indexes and functions, as the server has them."""
        lines = [
            f"table {table}: {column} {kind}"
            + (" not null" if null == "NO" else "")
            + (f" by {order}" if order else "")
            for table, column, kind, null, order in self.rows(_COLUMNS, SCHEMA)
        ]
        lines += [f"index of {table}: {text.partition(' USING ')[2]}" for table, text in self.rows(_INDEXES, SCHEMA)]
        return lines + [
            f"function {name}({arguments}) returns {result}{', as its owner' if as_owner else ''}"
            for name, arguments, result, as_owner, _ in self.rows(_FUNCTIONS, SCHEMA)
        ]

    def close(self) -> None:
        self._stranger.close()
        self._listener.close()
        self._wire.shut()


def record(server: PostgresServer) -> str:
    """The transcript of the format in force."""
    desk = PostgresDesk(server)
    transcript = Transcript("PostgreSQL", FORMAT)
    try:
        scenario(Play(desk, transcript))
        transcript.call(desk.rows(f'SELECT "{SCHEMA}".life()')[0][0], "LIFE")
        transcript.call(desk.rows(f'SELECT id FROM "{SCHEMA}".genesis')[0][0], "STORE")  # noqa: S608 - our names
        transcript.call(steps_hash(), "STEPS")
        transcript.section("the schema", desk.schema())
    finally:
        desk.close()
    return transcript.text()


def _shown(row: dict[str, Any]) -> str:
    return " ".join(f"{name}={value!r}" for name, value in row.items())
