"""The stores that guards protect, each by each of its drivers, with one face for tests.

A `Session` is one connection. Its methods may wait: those of blocking drivers block, so a test that wants two of them
at work at once runs them in threads or processes of their own.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg

from tenure import fencing
from tenure.sql.statements import schema

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TABLES = (
    "CREATE TABLE counter (id INTEGER NOT NULL PRIMARY KEY, v BIGINT NOT NULL, fence BIGINT)",
    "INSERT INTO counter VALUES (1, 0, 0), (2, 0, NULL)",
)


class Session(ABC):
    """One connection of one driver."""

    dialect: str

    @abstractmethod
    async def do(self, statement: str) -> None:
        """Run a statement, in a transaction of the driver's own making if none has begun."""

    @abstractmethod
    async def one(self, statement: str) -> Any:
        """The first column of the first row."""

    @abstractmethod
    async def begin(self) -> None:
        """Begin a transaction by hand, as the driver's users do."""

    @abstractmethod
    async def commit(self) -> None: ...

    @abstractmethod
    async def rollback(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    def make(self, lease: Any, **named: Any) -> Any:
        """The guard under test."""

    async def open(self, lease: Any, **named: Any) -> None:
        result = fencing.open(self.connection, lease, **named)
        if result is not None:
            await result

    connection: Any

    @asynccontextmanager
    async def guard(self, lease: Any, **named: Any) -> AsyncIterator[None]:
        """The guard, blocking or not."""
        made = self.make(lease, **named)
        if hasattr(made, "__aenter__"):
            async with made as connection:
                assert connection is self.connection
                yield
        else:
            with made as connection:
                assert connection is self.connection
                yield

    async def value(self) -> int:
        """The counter."""
        value = await self.one("SELECT v FROM counter WHERE id = 1")
        assert isinstance(value, int)
        return value

    async def prepare(self) -> None:
        """Make the tables, as a user's migrations do."""
        for statement in [*split(schema("fence", self.dialect)), *TABLES]:
            await self.do(statement)
        await self.commit()


def split(script: str) -> list[str]:
    """The statements of a script without semicolons in its comments or strings."""
    bare = "\n".join(line.partition("--")[0] for line in script.splitlines())
    return [statement for statement in bare.split(";") if statement.strip()]


class SQLite3Session(Session):
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


class PsycopgSession(Session):
    dialect = "postgresql"

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url)

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


class AsyncPsycopgSession(Session):
    dialect = "postgresql"

    @classmethod
    async def connect(cls, url: str) -> AsyncPsycopgSession:
        made = cls()
        made.connection = await psycopg.AsyncConnection.connect(url)
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


class Driver(NamedTuple):
    """One way to reach one kind of store.

    Attributes:
        store: "sqlite", "postgresql", "mysql".
        connect: makes a session; may be awaited for.
    """

    name: str
    store: str
    connect: Any

    async def session(self, url: str) -> Session:
        made = self.connect(url)
        return made if isinstance(made, Session) else await made


DRIVERS = {
    driver.name: driver
    for driver in (
        Driver("sqlite3", "sqlite", SQLite3Session),
        Driver("psycopg", "postgresql", PsycopgSession),
        Driver("psycopg-async", "postgresql", AsyncPsycopgSession.connect),
    )
}
