"""Connections of asyncpg, whether from a pool or not.

A transaction of ours is `connection.transaction()`; one of the user's inside is a savepoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from tenure.errors import UsageError
from tenure.sql.dialects import POSTGRESQL, missing_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tenure.sql.ports import Database
    from tenure.sql.statements import Statement


def adapt(connection: Any) -> Database:
    """Speak to a connection.

    Raises:
        UsageError: it is none of this driver's.
    """
    if isinstance(connection, asyncpg.Connection | PoolConnectionProxy):
        return AsyncPG(connection)
    raise UsageError(f"connection: one of asyncpg's is needed, not {type(connection).__name__}")


class AsyncPG:
    """One `asyncpg.Connection`."""

    dialect = POSTGRESQL
    is_async = True

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._transaction: Any = None

    def has_begun(self) -> bool:
        return bool(self._connection.is_in_transaction())

    async def begin(self, *, raising: bool) -> None:
        # Whatever the server's default: under a snapshot, a raise would not see who raised before.
        self._transaction = self._connection.transaction(isolation="read_committed" if raising else None)
        await self._transaction.start()

    async def end(self, error: BaseException | None) -> bool:
        await (self._transaction.commit() if error is None else self._transaction.rollback())
        return False

    async def fetch(self, statement: Statement, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
        try:
            row = await self._connection.fetchrow(statement.numbered, *(values[name] for name in statement.order))
        except asyncpg.UndefinedTableError as error:
            raise missing_table(error, self.dialect) from error
        return None if row is None else tuple(row)

    async def execute(self, statement: Statement, values: Mapping[str, Any]) -> None:
        await self._connection.execute(statement.numbered, *(values[name] for name in statement.order))
