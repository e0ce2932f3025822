"""Connections of the standard library's sqlite3.

A savepoint in a transaction of ours shows at its end whether it is still the same transaction.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

from tenure.errors import UsageError
from tenure.sql.dialects import SQLITE, missing_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tenure.sql.ports import Database
    from tenure.sql.statements import Statement


def adapt(connection: Any) -> Database:
    """Speak to a connection.

    Raises:
        UsageError: it is none of this driver's.
    """
    if not isinstance(connection, sqlite3.Connection):
        raise UsageError(f"connection: a sqlite3.Connection is needed, not {type(connection).__name__}")
    return SQLite3(connection)


class SQLite3:
    """One `sqlite3.Connection`, in any of its modes but `autocommit=False`."""

    dialect = SQLITE
    is_async = False

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def has_begun(self) -> bool:
        if getattr(self._connection, "autocommit", None) is False:
            # Python 3.12: a transaction is always open, and nobody can tell whether anything was read in it.
            raise UsageError("connection: autocommit=False keeps a transaction open; leave it out, or set it to True")
        return self._connection.in_transaction

    async def begin(self, *, raising: bool) -> None:  # noqa: ARG002 - there is one isolation level
        self._do("BEGIN")
        self._do("SAVEPOINT tenure_guard")

    async def end(self, error: BaseException | None) -> bool:
        if error is not None:
            self._connection.rollback()
            return False
        try:
            self._do("RELEASE tenure_guard")
        except sqlite3.OperationalError as gone:
            self._connection.rollback()
            raise UsageError(
                "the guarded transaction was ended inside of its block; what was written after that is rolled back"
            ) from gone
        try:
            self._connection.commit()
        except BaseException:
            self._connection.rollback()
            raise
        return False

    async def fetch(self, statement: Statement, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
        rows = self._do(statement.named, values).fetchall()
        return rows[0] if rows else None

    async def execute(self, statement: Statement, values: Mapping[str, Any]) -> None:
        self._do(statement.named, values)

    def _do(self, text: str, values: Mapping[str, Any] | None = None) -> sqlite3.Cursor:
        cursor = self._connection.cursor()
        cursor.row_factory = None
        try:
            return cursor.execute(text, values or {})
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                raise missing_table(error, self.dialect) from error
            raise
