"""The stores that guards protect, each by each of its drivers, with one face for tests.

A `Session` is one connection. Its methods may wait: those of blocking drivers block, so a test that wants two of them
at work at once runs them in threads or processes of their own.
"""

from __future__ import annotations

import os
import sqlite3
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import asyncpg
import psycopg
import pymysql
from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session as ORMSession

from tenure import fencing
from tenure.sql.statements import schema
from tests.fencing.paths import NAIVE, PATHS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

TABLES = (
    "CREATE TABLE counter (id INTEGER NOT NULL PRIMARY KEY, v BIGINT NOT NULL, fence BIGINT)",
    "INSERT INTO counter VALUES (1, 0, 0), (2, 0, NULL)",
    "CREATE TABLE lapse (until BIGINT NOT NULL)",
    "INSERT INTO lapse VALUES (0)",
)


class Session(ABC):
    """One connection of one driver."""

    dialect: str
    seq = 0
    """The number of the operation under way, for paths that number them."""

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


class AsyncPGSession(Session):
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


class PyMySQLSession(Session):
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


ENGINES = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "sqlite": "sqlite"}
AIO_ENGINES = {"postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}


def alchemy_url(url: str, engines: dict[str, str]) -> tuple[str, str]:
    """The dialect of a store, and SQLAlchemy's URL for it."""
    scheme, mark, rest = url.partition("://")
    return (scheme, f"{engines[scheme]}://{rest}") if mark else ("sqlite", f"{engines['sqlite']}:///{url}")


class AlchemySession(Session):
    """A `Connection`, or a `Session`, of an engine of its own."""

    def __init__(self, url: str, make: Any) -> None:
        self.dialect, address = alchemy_url(url, ENGINES)
        arguments: dict[str, Any] = {"sqlite": {"timeout": 20}, "mysql": NO_TLS}.get(self.dialect, {})
        named = {"connect_args": arguments}
        self.engine = create_engine(address, poolclass=NullPool, **named)
        self.connection = make(self.engine)

    async def do(self, statement: str) -> None:
        self.connection.execute(text(statement))

    async def one(self, statement: str) -> Any:
        return self.connection.execute(text(statement)).scalar()

    async def begin(self) -> None:
        self.connection.execute(text("SELECT COUNT(*) FROM counter"))

    async def commit(self) -> None:
        self.connection.commit()

    async def rollback(self) -> None:
        self.connection.rollback()

    async def close(self) -> None:
        self.connection.close()
        self.engine.dispose()

    def make(self, lease: Any, **named: Any) -> Any:
        return fencing.sqlalchemy(self.connection, lease, **named)


class AsyncAlchemySession(Session):
    @classmethod
    async def connect(cls, url: str, make: Any) -> AsyncAlchemySession:
        made = cls()
        made.dialect, address = alchemy_url(url, AIO_ENGINES)
        named = {"connect_args": {"timeout": 20}} if made.dialect == "sqlite" else {}
        made.engine = create_async_engine(address, poolclass=NullPool, **named)
        made.connection = make(made.engine)
        if isinstance(made.connection, AsyncConnection):
            await made.connection.start()
        return made

    engine: Any

    async def do(self, statement: str) -> None:
        await self.connection.execute(text(statement))

    async def one(self, statement: str) -> Any:
        return (await self.connection.execute(text(statement))).scalar()

    async def begin(self) -> None:
        await self.connection.execute(text("SELECT COUNT(*) FROM counter"))

    async def commit(self) -> None:
        await self.connection.commit()

    async def rollback(self) -> None:
        await self.connection.rollback()

    async def close(self) -> None:
        await self.connection.close()
        await self.engine.dispose()

    def make(self, lease: Any, **named: Any) -> Any:
        return fencing.sqlalchemy(self.connection, lease, **named)


BACKENDS = {"postgresql": "postgresql", "mysql": "mysql", "sqlite": "sqlite3"}


class DjangoSession(Session):
    """A connection of Django's under an alias of its own."""

    count = 0

    def __init__(self, url: str) -> None:
        import django
        from django.conf import settings

        # These tests' sessions have async methods, which is all that is asynchronous about them.
        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
        if not settings.configured:
            settings.configure(DATABASES={}, INSTALLED_APPS=["tenure.integrations.django"], USE_TZ=True)
            django.setup()
        from django.db import connections

        parts = urlsplit(url)
        self.dialect = parts.scheme or "sqlite"
        DjangoSession.count += 1
        self.alias = f"d{DjangoSession.count}"
        named: dict[str, Any] = {"ENGINE": f"django.db.backends.{BACKENDS[self.dialect]}"}
        if parts.scheme:
            named |= {"NAME": parts.path[1:], "HOST": parts.hostname, "PORT": parts.port, "USER": parts.username}
        else:
            named |= {"NAME": url, "OPTIONS": {"timeout": 20}}
        connections.databases[self.alias] = connections.configure_settings({"default": {}, self.alias: named})[
            self.alias
        ]
        self.connection = connections[self.alias]
        self.atomic: Any = None

    async def do(self, statement: str) -> None:
        # As the other drivers: a transaction begins by itself.
        if not self.connection.in_atomic_block:
            await self.begin()
        with self.connection.cursor() as cursor:
            cursor.execute(statement)

    async def one(self, statement: str) -> Any:
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone()[0]

    async def begin(self) -> None:
        from django.db import transaction

        self.atomic = transaction.atomic(using=self.alias)
        self.atomic.__enter__()

    async def commit(self) -> None:
        atomic, self.atomic = self.atomic, None
        if atomic is not None:
            atomic.__exit__(None, None, None)

    async def rollback(self) -> None:
        atomic, self.atomic = self.atomic, None
        if atomic is not None:
            atomic.__exit__(Exception, Exception(), None)

    async def close(self) -> None:
        self.connection.close()

    def make(self, lease: Any, **named: Any) -> Any:
        return fencing.django(self.connection, lease, **named)


class Driver(NamedTuple):
    """One way to reach one kind of store: a pair of guard and store, with its ways to write.

    Attributes:
        store: "sqlite", "postgresql", "mysql".
        connect: makes a session; may be awaited for.
        guard: the guard's name in `tenure.fencing`.
        paths: ways to write that must lose nothing.
        naive: ways to write that must be found out.
        is_stepped: whether the public drill can step through the statements of `session.connection`.
    """

    name: str
    store: str
    connect: Any
    guard: str
    paths: Mapping[str, Any] = PATHS
    naive: Mapping[str, Any] = NAIVE
    is_stepped: bool = True

    async def session(self, url: str) -> Session:
        made = self.connect(url)
        return made if isinstance(made, Session) else await made


DRIVERS = {
    driver.name: driver
    for driver in (
        Driver("sqlite3", "sqlite", SQLite3Session, "sqlite3"),
        Driver("psycopg", "postgresql", PsycopgSession, "psycopg"),
        Driver("psycopg-async", "postgresql", AsyncPsycopgSession.connect, "psycopg"),
        Driver("asyncpg", "postgresql", AsyncPGSession.connect, "asyncpg", is_stepped=False),
        Driver("pymysql", "mysql", PyMySQLSession, "pymysql"),
        Driver("django", "postgresql", DjangoSession, "django"),
        Driver("django-sqlite", "sqlite", DjangoSession, "django"),
        Driver("sqlalchemy", "postgresql", partial(AlchemySession, make=ORMSession), "sqlalchemy"),
        Driver("sqlalchemy-core", "postgresql", partial(AlchemySession, make=Engine.connect), "sqlalchemy"),
        Driver("sqlalchemy-sqlite", "sqlite", partial(AlchemySession, make=ORMSession), "sqlalchemy"),
        Driver("sqlalchemy-mysql", "mysql", partial(AlchemySession, make=ORMSession), "sqlalchemy"),
        Driver("sqlalchemy-async", "postgresql", partial(AsyncAlchemySession.connect, make=AsyncSession), "sqlalchemy"),
        Driver(
            "sqlalchemy-core-async",
            "postgresql",
            partial(AsyncAlchemySession.connect, make=AsyncEngine.connect),
            "sqlalchemy",
        ),
        Driver(
            "sqlalchemy-sqlite-async", "sqlite", partial(AsyncAlchemySession.connect, make=AsyncSession), "sqlalchemy"
        ),
    )
}
