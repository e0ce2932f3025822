"""The databases that guards protect, by each of their drivers, with one face for tests."""

from __future__ import annotations

import sqlite3
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psycopg
import pymysql

from tenure import fencing
from tenure.sql.statements import schema
from tests.fencing.session import Driver, Session

TABLES = (
    "CREATE TABLE counter (id INTEGER NOT NULL PRIMARY KEY, v BIGINT NOT NULL, fence BIGINT)",
    "INSERT INTO counter VALUES (1, 0, 0), (2, 0, NULL)",
    "CREATE TABLE lapse (until BIGINT NOT NULL)",
    "INSERT INTO lapse VALUES (0)",
)


def split(script: str) -> list[str]:
    """The statements of a script without semicolons in its comments or strings."""
    bare = "\n".join(line.partition("--")[0] for line in script.splitlines())
    return [statement for statement in bare.split(";") if statement.strip()]


class Tables(Session):
    """One connection to a database."""

    async def prepare(self) -> None:
        """Make the tables, as a user's migrations do."""
        for statement in [*split(schema("fence", self.dialect)), *TABLES]:
            await self.do(statement)
        await self.commit()


class SQLite3Session(Tables):
    dialect = "sqlite"

    def __init__(self, url: str) -> None:
        self.connection = sqlite3.connect(url, timeout=20)

    async def do(self, statement: str) -> None:
        self.connection.execute(statement)

    async def one(self, statement: str) -> Any:
        return self.connection.execute(statement).fetchone()[0]

    async def begin(self) -> None:
        self.connection.execute("BEGIN")

    async def commit(self) -> None:
        self.connection.commit()

    async def rollback(self) -> None:
        self.connection.rollback()

    async def close(self) -> None:
        self.connection.close()

    def make(self, lease: Any, **named: Any) -> Any:
        return fencing.sqlite3(self.connection, lease, **named)

    async def prepare(self) -> None:
        self.connection.execute("PRAGMA journal_mode = WAL")
        await super().prepare()


AT_ONCE: dict[str, Any] = {"prepare_threshold": 0}
"""Each block of ours begins with its check. What it does before that is prepared is in `test_psycopg_opening.py`."""


class PsycopgSession(Tables):
    dialect = "postgresql"

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, **AT_ONCE)

    async def do(self, statement: str) -> None:
        self.connection.execute(statement.encode())

    async def one(self, statement: str) -> Any:
        row = self.connection.execute(statement.encode()).fetchone()
        assert row is not None
        return row[0]

    async def begin(self) -> None:
        self.connection.execute("SELECT 1")

    async def commit(self) -> None:
        self.connection.commit()

    async def rollback(self) -> None:
        self.connection.rollback()

    async def close(self) -> None:
        self.connection.close()

    def make(self, lease: Any, **named: Any) -> Any:
        return fencing.psycopg(self.connection, lease, **named)


class AsyncPsycopgSession(Tables):
    dialect = "postgresql"

    @classmethod
    async def connect(cls, url: str) -> AsyncPsycopgSession:
        made = cls()
        made.connection = await psycopg.AsyncConnection.connect(url, **AT_ONCE)
        return made

    async def do(self, statement: str) -> None:
        await self.connection.execute(statement.encode())

    async def one(self, statement: str) -> Any:
        row = await (await self.connection.execute(statement.encode())).fetchone()
        return row[0]

    async def begin(self) -> None:
        await self.connection.execute("SELECT 1")

    async def commit(self) -> None:
        await self.connection.commit()

    async def rollback(self) -> None:
        await self.connection.rollback()

    async def close(self) -> None:
        await self.connection.close()

    def make(self, lease: Any, **named: Any) -> Any:
        return fencing.psycopg(self.connection, lease, **named)


class AsyncPGSession(Tables):
    dialect = "postgresql"

    @classmethod
    async def connect(cls, url: str) -> AsyncPGSession:
        made = cls()
        made.connection = await asyncpg.connect(url)
        made.transaction = None
        return made

    transaction: Any

    async def do(self, statement: str) -> None:
        # As the other drivers: a transaction begins by itself.
        if not self.connection.is_in_transaction():
            await self.begin()
        await self.connection.execute(statement)

    async def one(self, statement: str) -> Any:
        return await self.connection.fetchval(statement)

    async def begin(self) -> None:
        self.transaction = self.connection.transaction()
        await self.transaction.start()

    async def commit(self) -> None:
        transaction, self.transaction = self.transaction, None
        if transaction is not None:
            await transaction.commit()

    async def rollback(self) -> None:
        transaction, self.transaction = self.transaction, None
        if transaction is not None:
            await transaction.rollback()

    async def close(self) -> None:
        await self.connection.close()

    def make(self, lease: Any, **named: Any) -> Any:
        return fencing.asyncpg(self.connection, lease, **named)


NO_TLS: dict[str, Any] = {"ssl_disabled": True}
"""To load the host's certificates takes PyMySQL longer than a hundred guarded transactions, for each connection."""


class PyMySQLSession(Tables):
    dialect = "mysql"

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.connection = pymysql.connect(
            host=parts.hostname, port=parts.port, user=parts.username, database=parts.path[1:], **NO_TLS
        )

    async def do(self, statement: str) -> None:
        self.connection.cursor().execute(statement)

    async def one(self, statement: str) -> Any:
        cursor = self.connection.cursor()
        cursor.execute(statement)
        row = cursor.fetchone()
        assert row is not None
        return row[0]

    async def begin(self) -> None:
        await self.one("SELECT COUNT(*) FROM counter")

    async def commit(self) -> None:
        self.connection.commit()

    async def rollback(self) -> None:
        self.connection.rollback()

    async def close(self) -> None:
        self.connection.close()

    def make(self, lease: Any, **named: Any) -> Any:
        return fencing.pymysql(self.connection, lease, **named)


DRIVERS = {
    driver.name: driver
    for driver in (
        Driver("sqlite3", "sqlite", SQLite3Session, "sqlite3"),
        Driver("psycopg", "postgresql", PsycopgSession, "psycopg"),
        Driver("psycopg-async", "postgresql", AsyncPsycopgSession.connect, "psycopg"),
        Driver("asyncpg", "postgresql", AsyncPGSession.connect, "asyncpg", is_stepped=False),
        Driver("pymysql", "mysql", PyMySQLSession, "pymysql"),
    )
}
