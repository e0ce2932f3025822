"""Django's database connections, with PostgreSQL, SQLite, MySQL and MariaDB.

A transaction of ours is `transaction.atomic()`: within it Django refuses `commit()`, and an `atomic()` of the user's
inside is a savepoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.db import transaction
from django.db.utils import OperationalError, ProgrammingError

from tenure.errors import UsageError
from tenure.sql.dialects import DIALECTS, missing_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tenure.sql.ports import Database
    from tenure.sql.statements import Statement

RAISING: Final = {
    "postgresql": "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE",
    # Django's MySQL transaction begins with the next statement, so this is about it.
    "mysql": "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
}
"""The first statement of a raise, whatever the default: under a snapshot, it would not see who raised before."""


def adapt(connection: Any) -> Database:
    """Speak to a connection: `django.db.connection`, or one of `django.db.connections`.

    Raises:
        UsageError: it is none of Django's, or of a database that no guard knows.
    """
    vendor = getattr(connection, "vendor", None)
    if vendor is None or not hasattr(connection, "in_atomic_block"):
        raise UsageError(f"connection: one of django.db.connections is needed, not {type(connection).__name__}")
    if vendor not in DIALECTS:
        raise UsageError(f"connection: no guard knows {vendor}; there are {', '.join(DIALECTS)}")
    return Django(connection)


class Django:
    """One connection of Django's."""

    is_async = False

    def __init__(self, connection: Any) -> None:
        self.dialect = DIALECTS[connection.vendor]
        self._connection = connection
        self._transaction: Any = None

    def has_begun(self) -> bool:
        return bool(self._connection.in_atomic_block or not self._connection.get_autocommit())

    async def begin(self, *, raising: bool) -> None:
        self._transaction = transaction.atomic(using=self._connection.alias)
        self._transaction.__enter__()
        if raising and self.dialect.name in RAISING:
            with self._connection.cursor() as cursor:
                cursor.execute(RAISING[self.dialect.name])

    async def end(self, error: BaseException | None) -> bool:
        self._transaction.__exit__(type(error) if error else None, error, None)
        return False

    async def fetch(self, statement: Statement, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
        return self._do(statement, values, fetches=True)

    async def execute(self, statement: Statement, values: Mapping[str, Any]) -> None:
        self._do(statement, values, fetches=False)

    def _do(self, statement: Statement, values: Mapping[str, Any], *, fetches: bool) -> tuple[Any, ...] | None:
        used = {name: values[name] for name in statement.order}
        with self._connection.cursor() as cursor:
            try:
                cursor.execute(statement.percent, used or None)
            except (OperationalError, ProgrammingError) as error:
                if "no such table" in str(error) or "exist" in str(error):
                    raise missing_table(error, self.dialect) from error
                raise
            return cursor.fetchone() if fetches else None
