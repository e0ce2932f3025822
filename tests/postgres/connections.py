"""Connections of a user's own, of each driver, driven alike: for names that a transaction holds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

import asyncpg
import psycopg
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from tenure import postgres

if TYPE_CHECKING:
    from tenure import Grant


class Blocking:
    """A `psycopg.Connection`."""

    def __init__(self, url: str) -> None:
        self.connection: Any = psycopg.connect(url)

    def hold(self, name: str, **options: Any) -> Grant:
        """As `postgres.hold`; begins the transaction."""
        grant: Grant = postgres.hold(self.connection, name, **options)
        return grant

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Alchemy(Blocking):
    """A `sqlalchemy.Connection`."""

    def __init__(self, url: str) -> None:
        self._engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        self.connection = self._engine.connect()

    def close(self) -> None:
        super().close()
        self._engine.dispose()


class Looped(Blocking):
    """A `psycopg.AsyncConnection`, in a loop that runs while it is asked for something."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self.connection = self._do(self._connect(url))

    def _do(self, what: Any) -> Any:
        return self._loop.run_until_complete(what)

    async def _connect(self, url: str) -> Any:
        return await psycopg.AsyncConnection.connect(url)

    def hold(self, name: str, **options: Any) -> Grant:
        async def held() -> Grant:
            grant: Grant = await postgres.hold(self.connection, name, **options)
            return grant

        grant: Grant = self._do(held())
        return grant

    def commit(self) -> None:
        self._do(self.connection.commit())

    def rollback(self) -> None:
        self._do(self.connection.rollback())

    def close(self) -> None:
        self._do(self.connection.close())
        self._loop.close()


class AsyncPG(Looped):
    """A connection of asyncpg."""

    async def _connect(self, url: str) -> Any:
        connection = await asyncpg.connect(url)
        self._transaction = connection.transaction()
        await self._transaction.start()
        return connection

    def commit(self) -> None:
        self._do(self._transaction.commit())

    def rollback(self) -> None:
        self._do(self._transaction.rollback())


class AsyncAlchemy(Looped):
    """A `sqlalchemy.ext.asyncio.AsyncConnection`."""

    async def _connect(self, url: str) -> Any:
        self._engine = create_async_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        return await self._engine.connect()

    def close(self) -> None:
        self._do(self.connection.close())
        self._do(self._engine.dispose())
        self._loop.close()


CONNECTIONS = {kind.__name__: kind for kind in (Blocking, Looped, AsyncPG, Alchemy, AsyncAlchemy)}
