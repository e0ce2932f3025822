"""Connections of psycopg 3, blocking and asyncio.

A transaction of ours is `connection.transaction()`: within it psycopg refuses `commit()`, and a transaction of the
user's inside is a savepoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from tenure.errors import UsageError
from tenure.sql.dialects import POSTGRESQL, missing_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tenure.sql.ports import Database
    from tenure.sql.statements import Statement

RAISING: Final = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE"
"""Whatever the connection's or the server's default: under a snapshot, a raise would not see who raised before."""


def adapt(connection: Any) -> Database:
    """Speak to a connection.

    Raises:
        UsageError: it is none of this driver's.
    """
    if isinstance(connection, psycopg.Connection):
        return Psycopg(connection)
    if isinstance(connection, psycopg.AsyncConnection):
        return AsyncPsycopg(connection)
    raise UsageError(
        f"connection: a psycopg.Connection or psycopg.AsyncConnection is needed, not {type(connection).__name__}"
    )


class _Base:
    dialect = POSTGRESQL

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._transaction: Any = None

    async def has_begun(self) -> bool:
        # A closed connection is UNKNOWN: whoever begins on it is told so by the driver.
        status = self._connection.info.transaction_status
        return status not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN)


class Psycopg(_Base):
    """One `psycopg.Connection`."""

    is_async = False

    async def begin(self, *, raising: bool) -> None:
        self._transaction = self._connection.transaction()
        self._transaction.__enter__()
        if raising:
            self._connection.execute(RAISING)

    async def end(self, error: BaseException | None) -> bool:
        return bool(self._transaction.__exit__(*raised(error)))

    async def fetch(self, statement: Statement, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
        cursor = self._connection.cursor(row_factory=tuple_row)
        try:
            cursor.execute(statement.percent, values)
        except psycopg.errors.UndefinedTable as error:
            raise missing_table(error, self.dialect) from error
        row: tuple[Any, ...] | None = cursor.fetchone()
        return row

    async def execute(self, statement: Statement, values: Mapping[str, Any]) -> None:
        self._connection.execute(statement.percent, values)


class AsyncPsycopg(_Base):
    """One `psycopg.AsyncConnection`."""

    is_async = True

    async def begin(self, *, raising: bool) -> None:
        self._transaction = self._connection.transaction()
        await self._transaction.__aenter__()
        if raising:
            await self._connection.execute(RAISING)

    async def end(self, error: BaseException | None) -> bool:
        return bool(await self._transaction.__aexit__(*raised(error)))

    async def fetch(self, statement: Statement, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
        cursor = self._connection.cursor(row_factory=tuple_row)
        try:
            await cursor.execute(statement.percent, values)
        except psycopg.errors.UndefinedTable as error:
            raise missing_table(error, self.dialect) from error
        row: tuple[Any, ...] | None = await cursor.fetchone()
        return row

    async def execute(self, statement: Statement, values: Mapping[str, Any]) -> None:
        await self._connection.execute(statement.percent, values)


def raised(error: BaseException | None) -> tuple[Any, Any, Any]:
    """An error as `__exit__` takes it."""
    return (None, None, None) if error is None else (type(error), error, error.__traceback__)
