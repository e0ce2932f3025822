"""Connections of PyMySQL.

A savepoint in a transaction of ours shows at its end whether it is still the same transaction: MySQL commits by itself
before each statement that defines something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pymysql
from pymysql.constants import ER, SERVER_STATUS
from pymysql.cursors import Cursor

from tenure.errors import UsageError
from tenure.sql.dialects import MYSQL, missing_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tenure.sql.ports import Database
    from tenure.sql.statements import Statement

NO_SAVEPOINT: Final = 1305


def adapt(connection: Any) -> Database:
    """Speak to a connection.

    Raises:
        UsageError: it is none of this driver's.
    """
    if not isinstance(connection, pymysql.Connection):
        raise UsageError(f"connection: a pymysql.Connection is needed, not {type(connection).__name__}")
    return PyMySQL(connection)


class PyMySQL:
    """One `pymysql.Connection`."""

    dialect = MYSQL
    is_async = False

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def has_begun(self) -> bool:
        # The driver forgets what a SELECT says of it; and to begin would commit what has begun.
        self._connection.ping(reconnect=False)
        return bool(self._connection.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)

    async def begin(self, *, raising: bool) -> None:
        if raising:
            # Of the next transaction only. Whatever the default: under a snapshot, a raise would not see who raised.
            self._do("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        self._connection.begin()
        self._do("SAVEPOINT tenure_guard")

    async def end(self, error: BaseException | None) -> bool:
        if error is not None:
            self._connection.rollback()
            return False
        try:
            self._do("RELEASE SAVEPOINT tenure_guard")
        except pymysql.MySQLError as gone:
            self._connection.rollback()
            if gone.args[:1] != (NO_SAVEPOINT,):
                raise
            raise UsageError(
                "the guarded transaction was ended inside of its block; what was written after that is rolled back"
            ) from gone
        self._connection.commit()
        return False

    async def fetch(self, statement: Statement, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._do(statement.percent, values).fetchone()
        return row

    async def execute(self, statement: Statement, values: Mapping[str, Any]) -> None:
        self._do(statement.percent, values)

    def _do(self, text: str, values: Mapping[str, Any] | None = None) -> Any:
        cursor = self._connection.cursor(Cursor)
        try:
            cursor.execute(text, values)
        except pymysql.ProgrammingError as error:
            if error.args[:1] == (ER.NO_SUCH_TABLE,):
                raise missing_table(error, self.dialect) from error
            raise
        return cursor
