"""Connections and sessions of SQLAlchemy 2, blocking and asyncio, with PostgreSQL, SQLite, MySQL and MariaDB.

A transaction of ours is `begin()` as a context manager: within it SQLAlchemy refuses whatever comes after a `commit()`,
and `begin_nested()` of the user's is a savepoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from tenure.errors import UsageError
from tenure.sql.dialects import DIALECTS, SQLITE, missing_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tenure.sql.dialects import Dialect
    from tenure.sql.ports import Database
    from tenure.sql.statements import Statement

RAISING: Final = {
    "postgresql": "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE",
    # SQLAlchemy's MySQL transaction begins with the next statement, so this is about it.
    "mysql": "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
}
"""The first statement of a raise, whatever the default: under a snapshot, it would not see who raised before."""


def adapt(connection: Any) -> Database:
    """Speak to a connection or a session.

    Raises:
        UsageError: it is none of SQLAlchemy's, or of a database that no guard knows.
    """
    subject = connection() if isinstance(connection, scoped_session | async_scoped_session) else connection
    if isinstance(subject, Connection):
        return SQLAlchemy(subject, subject.dialect)
    if isinstance(subject, Session):
        return SQLAlchemy(subject, subject.get_bind().dialect)
    if isinstance(subject, AsyncConnection):
        return AsyncSQLAlchemy(subject, subject.dialect)
    if isinstance(subject, AsyncSession):
        return AsyncSQLAlchemy(subject, subject.sync_session.get_bind().dialect)
    raise UsageError(f"connection: a connection or session of SQLAlchemy is needed, not {type(connection).__name__}")


class _Base:
    def __init__(self, subject: Any, dialect: Any) -> None:
        name = {"mariadb": "mysql"}.get(dialect.name, dialect.name)
        if name not in DIALECTS:
            raise UsageError(f"connection: no guard knows {dialect.name}; there are {', '.join(DIALECTS)}")
        self.dialect: Dialect = DIALECTS[name]
        self._subject = subject
        self._transaction: Any = None

    def has_begun(self) -> bool:
        return bool(self._subject.in_transaction())

    def _refuse_autocommit(self, connection: Connection) -> None:
        """Asked with each check: in this mode `begin()` begins nothing."""
        driver = connection.connection
        if self.dialect is SQLITE:
            # Whatever its mode, it is the writer's transaction by now, or there is none.
            is_auto = not getattr(driver.driver_connection, "in_transaction", True)
        else:
            is_auto = driver.dbapi_connection is None or connection.dialect.detect_autocommit_setting(
                driver.dbapi_connection
            )
        if is_auto:
            raise UsageError("connection: under isolation_level AUTOCOMMIT there is no transaction to guard")

    def _explained(self, error: DBAPIError) -> BaseException:
        said = str(error.orig)
        if "no such table" in said or "exist" in said:
            return missing_table(error.orig or error, self.dialect)
        return error


class SQLAlchemy(_Base):
    """One `Connection` or `Session`."""

    is_async = False

    async def begin(self, *, raising: bool) -> None:
        self._transaction = self._subject.begin()
        self._transaction.__enter__()
        if raising and self.dialect.name in RAISING:
            self._subject.execute(text(RAISING[self.dialect.name]))

    async def end(self, error: BaseException | None) -> bool:
        return bool(self._transaction.__exit__(type(error) if error else None, error, None))

    async def fetch(self, statement: Statement, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
        try:
            row = self._subject.execute(text(statement.named), used(statement, values)).first()
        except DBAPIError as error:
            raise self._explained(error) from error
        self._refuse_autocommit(self._subject.connection() if isinstance(self._subject, Session) else self._subject)
        return None if row is None else tuple(row)

    async def execute(self, statement: Statement, values: Mapping[str, Any]) -> None:
        try:
            self._subject.execute(text(statement.named), used(statement, values))
        except DBAPIError as error:
            raise self._explained(error) from error


class AsyncSQLAlchemy(_Base):
    """One `AsyncConnection` or `AsyncSession`."""

    is_async = True

    async def begin(self, *, raising: bool) -> None:
        self._transaction = self._subject.begin()
        await self._transaction.__aenter__()
        if raising and self.dialect.name in RAISING:
            await self._subject.execute(text(RAISING[self.dialect.name]))

    async def end(self, error: BaseException | None) -> bool:
        return bool(await self._transaction.__aexit__(type(error) if error else None, error, None))

    async def fetch(self, statement: Statement, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
        try:
            row = (await self._subject.execute(text(statement.named), used(statement, values))).first()
        except DBAPIError as error:
            raise self._explained(error) from error
        is_session = isinstance(self._subject, AsyncSession)
        self._refuse_autocommit((await self._subject.connection() if is_session else self._subject).sync_connection)
        return None if row is None else tuple(row)

    async def execute(self, statement: Statement, values: Mapping[str, Any]) -> None:
        try:
            await self._subject.execute(text(statement.named), used(statement, values))
        except DBAPIError as error:
            raise self._explained(error) from error


def used(statement: Statement, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a statement names: SQLAlchemy refuses others."""
    return {name: values[name] for name in statement.order}
