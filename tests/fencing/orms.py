"""The databases by SQLAlchemy and Django, with the same face for tests."""

from __future__ import annotations

import os
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session as ORMSession

from tenure import fencing
from tests.fencing.session import Driver
from tests.fencing.stores import NO_TLS, Tables

ENGINES = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "sqlite": "sqlite"}
AIO_ENGINES = {"postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}


def alchemy_url(url: str, engines: dict[str, str]) -> tuple[str, str]:
    """The dialect of a store, and SQLAlchemy's URL for it."""
    scheme, mark, rest = url.partition("://")
    return (scheme, f"{engines[scheme]}://{rest}") if mark else ("sqlite", f"{engines['sqlite']}:///{url}")


class AlchemySession(Tables):
    """A `Connection`, or a `Session`, of an engine of its own."""

    def __init__(self, url: str, make: Any) -> None:
        self.dialect, address = alchemy_url(url, ENGINES)
        arguments: dict[str, Any] = {"sqlite": {"timeout": 20}, "mysql": NO_TLS}.get(self.dialect, {})
        self.engine = create_engine(address, poolclass=NullPool, connect_args=arguments)
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


class AsyncAlchemySession(Tables):
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


class DjangoSession(Tables):
    """A connection of Django's under an alias of its own."""

    count = 0

    @staticmethod
    def set_up() -> None:
        """Configure Django, once in a process."""
        import django
        import pymysql
        from django.conf import settings

        # Django's backend of MySQL wants mysqlclient, which has to be built against a server's client library, and
        # takes PyMySQL for it.
        pymysql.install_as_MySQLdb()

        # These tests' sessions have async methods, which is all that is asynchronous about them.
        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
        if not settings.configured:
            settings.configure(
                DATABASES={},
                INSTALLED_APPS=["tenure.integrations.django"],
                SECRET_KEY="tests",  # noqa: S106 - nothing is signed
                USE_TZ=True,
            )
            django.setup()

    def __init__(self, url: str) -> None:
        self.set_up()
        from django.db import connections

        parts = urlsplit(url)
        self.dialect = parts.scheme or "sqlite"
        DjangoSession.count += 1
        self.alias = f"d{DjangoSession.count}"
        named: dict[str, Any] = {"ENGINE": f"django.db.backends.{BACKENDS[self.dialect]}"}
        if parts.scheme:
            named |= {"NAME": parts.path[1:], "HOST": parts.hostname, "PORT": parts.port, "USER": parts.username}
            named |= {"OPTIONS": NO_TLS} if self.dialect == "mysql" else {}
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


def _alchemy(name: str, store: str, session: Any, make: Any) -> Driver:
    return Driver(name, store, partial(session, make=make), "sqlalchemy")


DRIVERS = {
    driver.name: driver
    for driver in (
        Driver("django", "postgresql", DjangoSession, "django"),
        Driver("django-sqlite", "sqlite", DjangoSession, "django"),
        Driver("django-mysql", "mysql", DjangoSession, "django"),
        _alchemy("sqlalchemy", "postgresql", AlchemySession, ORMSession),
        _alchemy("sqlalchemy-core", "postgresql", AlchemySession, Engine.connect),
        _alchemy("sqlalchemy-sqlite", "sqlite", AlchemySession, ORMSession),
        _alchemy("sqlalchemy-mysql", "mysql", AlchemySession, ORMSession),
        _alchemy("sqlalchemy-async", "postgresql", AsyncAlchemySession.connect, AsyncSession),
        _alchemy("sqlalchemy-core-async", "postgresql", AsyncAlchemySession.connect, AsyncEngine.connect),
        _alchemy("sqlalchemy-sqlite-async", "sqlite", AsyncAlchemySession.connect, AsyncSession),
    )
}
