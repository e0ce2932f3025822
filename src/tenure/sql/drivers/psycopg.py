"""Connections of psycopg 3, blocking and asyncio.

A transaction of ours is `connection.transaction()`, or begins with its first statement where that is the cheaper way:
within either `commit()` is refused, and a transaction of the user's inside is a savepoint.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from tenure.errors import UsageError
from tenure.sql.dialects import POSTGRESQL, missing_table
from tenure.sql.drivers.psycopg_opening import allow, close_if_interrupted, forbid, forbid_async, forget, opened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tenure.sql.ports import Database
    from tenure.sql.statements import Statement

RAISING: Final = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE"
"""Whatever the connection's or the server's default: under a snapshot, a raise would not see who raised before."""

_OUTSIDE: Final = (TransactionStatus.IDLE, TransactionStatus.UNKNOWN)


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
        """Psycopg's, if it is one of those."""
        self._is_due = False
        """Whether the next statement is the first of a transaction."""

    def has_begun(self) -> bool:
        # A closed connection is UNKNOWN: whoever begins on it is told so by the driver.
        return self._connection.pgconn.transaction_status not in _OUTSIDE


class Psycopg(_Base):
    """One `psycopg.Connection`."""

    is_async = False

    async def begin(self, *, raising: bool) -> None:
        self._is_due = not raising
        if raising:
            await self._begin()
            self._connection.execute(RAISING)

    async def end(self, error: BaseException | None) -> bool:
        connection, transaction, self._transaction = self._connection, self._transaction, None
        self._is_due = False
        if error is not None:
            forget(connection)
        if transaction is not None:
            return bool(transaction.__exit__(*raised(error)))
        allow(connection)
        if error is None:
            connection.commit()
            return False
        close_if_interrupted(connection)
        # What fails here has lost the connection, and with it the transaction; the block's error is the one to tell.
        with suppress(psycopg.Error):
            connection.rollback()
        return isinstance(error, psycopg.Rollback) and error.transaction is None

    async def fetch(self, statement: Statement, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
        connection = self._connection
        try:
            if self._is_due:
                self._is_due = False
                forbid(connection)
                with connection.lock:
                    rows = connection.wait(opened(connection, statement, values))
                if rows is not None:
                    return rows[0] if rows else None
                allow(connection)
                await self._begin()
            cursor = connection.cursor(row_factory=tuple_row)
            cursor.execute(statement.percent, values)
        except psycopg.errors.UndefinedTable as error:
            raise missing_table(error, self.dialect) from error
        row: tuple[Any, ...] | None = cursor.fetchone()
        return row

    async def execute(self, statement: Statement, values: Mapping[str, Any]) -> None:
        self._connection.execute(statement.percent, values)

    async def _begin(self) -> None:
        transaction = self._connection.transaction()
        transaction.__enter__()
        self._transaction = transaction


class AsyncPsycopg(_Base):
    """One `psycopg.AsyncConnection`."""

    is_async = True

    async def begin(self, *, raising: bool) -> None:
        self._is_due = not raising
        if raising:
            await self._begin()
            await self._connection.execute(RAISING)

    async def end(self, error: BaseException | None) -> bool:
        connection, transaction, self._transaction = self._connection, self._transaction, None
        self._is_due = False
        if error is not None:
            forget(connection)
        if transaction is not None:
            return bool(await transaction.__aexit__(*raised(error)))
        allow(connection)
        if error is None:
            await connection.commit()
            return False
        close_if_interrupted(connection)
        # What fails here has lost the connection, and with it the transaction; the block's error is the one to tell.
        with suppress(psycopg.Error):
            await connection.rollback()
        return isinstance(error, psycopg.Rollback) and error.transaction is None

    async def fetch(self, statement: Statement, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
        connection = self._connection
        try:
            if self._is_due:
                self._is_due = False
                forbid_async(connection)
                async with connection.lock:
                    rows = await connection.wait(opened(connection, statement, values))
                if rows is not None:
                    return rows[0] if rows else None
                allow(connection)
                await self._begin()
            cursor = connection.cursor(row_factory=tuple_row)
            await cursor.execute(statement.percent, values)
        except psycopg.errors.UndefinedTable as error:
            raise missing_table(error, self.dialect) from error
        row: tuple[Any, ...] | None = await cursor.fetchone()
        return row

    async def execute(self, statement: Statement, values: Mapping[str, Any]) -> None:
        await self._connection.execute(statement.percent, values)

    async def _begin(self) -> None:
        transaction = self._connection.transaction()
        await transaction.__aenter__()
        self._transaction = transaction


def raised(error: BaseException | None) -> tuple[Any, Any, Any]:
    """An error as `__exit__` takes it."""
    return (None, None, None) if error is None else (type(error), error, error.__traceback__)
