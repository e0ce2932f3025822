"""The guards by the name of their driver. A driver is imported when its guard is first made.

Each takes a connection of the user's and what shows that somebody holds the name: a lease of either client, its
`Grant`, the `Proof` that a request brought, or a positive whole number that came from elsewhere (for which only
`StaleToken` can be told, and `resource` must be said).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from tenure.errors import UsageError
from tenure.fencing.guard import AsyncGuard, Guard, Section
from tenure.fencing.places import Row, table
from tenure.fencing.rule import prove
from tenure.runtimes.blocking import run
from tenure.sql.dialects import DIALECTS
from tenure.sql.statements import schema as definition

if TYPE_CHECKING:
    from sqlite3 import Connection as SQLite3Connection

    from asyncpg import Connection as AsyncPGConnection
    from asyncpg.pool import PoolConnectionProxy
    from psycopg import AsyncConnection as AsyncPsycopgConnection
    from psycopg import Connection as PsycopgConnection
    from pymysql import Connection as PyMySQLConnection
    from sqlalchemy import Connection as AlchemyConnection
    from sqlalchemy.ext.asyncio import AsyncConnection as AsyncAlchemyConnection
    from sqlalchemy.ext.asyncio import AsyncSession as AsyncAlchemySession
    from sqlalchemy.ext.asyncio import async_scoped_session
    from sqlalchemy.orm import Session as AlchemySession
    from sqlalchemy.orm import scoped_session

    from tenure.fencing.rule import Holder, Proof
    from tenure.model import Grant
    from tenure.sql.ports import Database

    Shown = Holder | Grant | Proof | int
    SyncAlchemy = TypeVar("SyncAlchemy", bound=AlchemyConnection | AlchemySession | scoped_session[Any])
    AsyncAlchemy = TypeVar(
        "AsyncAlchemy", bound=AsyncAlchemyConnection | AsyncAlchemySession | async_scoped_session[Any]
    )

D = TypeVar("D")

_DRIVERS: Final = ("sqlite3", "psycopg", "asyncpg", "pymysql", "sqlalchemy", "django")


def sqlite3(
    connection: SQLite3Connection,
    lease: Shown,
    *,
    resource: str | None = None,
    row: Row | None = None,
    seq: int | None = None,
) -> Guard[SQLite3Connection]:
    """Guard a transaction of the standard library's sqlite3; as `psycopg`.

    The transaction is the only writer from its start, as with BEGIN IMMEDIATE.
    """
    return Guard(connection, _section("sqlite3", connection, lease, resource, row, seq)[0])


@overload
def psycopg(
    connection: PsycopgConnection[Any],
    lease: Shown,
    *,
    resource: str | None = None,
    row: Row | None = None,
    seq: int | None = None,
) -> Guard[PsycopgConnection[Any]]: ...


@overload
def psycopg(
    connection: AsyncPsycopgConnection[Any],
    lease: Shown,
    *,
    resource: str | None = None,
    row: Row | None = None,
    seq: int | None = None,
) -> AsyncGuard[AsyncPsycopgConnection[Any]]: ...


def psycopg(
    connection: Any,
    lease: Shown,
    *,
    resource: str | None = None,
    row: Row | None = None,
    seq: int | None = None,
) -> Any:
    """Guard a transaction of psycopg 3, with a blocking or an asyncio connection.

    On an idle connection the block is a transaction, which begins with the check; it is committed at its end and
    rolled back on an error. The first block of a holder raises the fence before, in transactions of their own. In a
    transaction that has begun, the guard only checks, and `open` must have been called before it began.

    Args:
        connection: yours; nothing else uses it meanwhile.
        lease: who asks.
        resource: what the fence protects; the locked name by default.
        row: keep the fence in a column of one row, and not in the table of fences.
        seq: the number of this operation, from 1, rising: a delayed duplicate of it is refused. Exclusive leases only.

    Raises, on entering:
        LeaseLost: the lease is lost already; nothing was asked.
        StaleToken: a later holder has been here; nothing was done, and the lease is lost.
        StaleOperation: `seq` was done before.
        NotRaised: the transaction has begun, and the fence was not opened before; nothing was done.
        ForeignToken, FenceRegression: the tokens cannot be compared, or went backwards. See the operator's page.
        MissingTable, MissingRow: there is no fence.
        UsageError: an argument is wrong.
        The driver's own errors: under REPEATABLE READ and SERIALIZABLE, 40001 where the fence was raised since the
            snapshot. Nothing was done; run the transaction again, and the check will tell.

    Cancellation: the transaction is rolled back.
    """
    section, is_async = _section("psycopg", connection, lease, resource, row, seq)
    return (AsyncGuard if is_async else Guard)(connection, section)


def asyncpg(
    connection: AsyncPGConnection | PoolConnectionProxy,
    lease: Shown,
    *,
    resource: str | None = None,
    row: Row | None = None,
    seq: int | None = None,
) -> AsyncGuard[Any]:
    """Guard a transaction of asyncpg; as `psycopg`."""
    return AsyncGuard(connection, _section("asyncpg", connection, lease, resource, row, seq)[0])


def pymysql(
    connection: PyMySQLConnection,
    lease: Shown,
    *,
    resource: str | None = None,
    row: Row | None = None,
    seq: int | None = None,
) -> Guard[PyMySQLConnection]:
    """Guard a transaction of PyMySQL, with MySQL or MariaDB; as `psycopg`.

    Under REPEATABLE READ, MySQL's default, a snapshot from before the raise is `NotRaised`, and not 40001.
    """
    return Guard(connection, _section("pymysql", connection, lease, resource, row, seq)[0])


@overload
def sqlalchemy(
    connection: SyncAlchemy,
    lease: Shown,
    *,
    resource: str | None = None,
    row: Row | None = None,
    seq: int | None = None,
) -> Guard[SyncAlchemy]: ...


@overload
def sqlalchemy(
    connection: AsyncAlchemy,
    lease: Shown,
    *,
    resource: str | None = None,
    row: Row | None = None,
    seq: int | None = None,
) -> AsyncGuard[AsyncAlchemy]: ...


def sqlalchemy(
    connection: Any,
    lease: Shown,
    *,
    resource: str | None = None,
    row: Row | None = None,
    seq: int | None = None,
) -> Any:
    """Guard a transaction of SQLAlchemy 2; as `psycopg`.

    Takes a `Connection`, a `Session` (scoped or not), and their asyncio twins, over PostgreSQL, SQLite, MySQL or
    MariaDB. What a session flushes when it commits is under the same check, which lasts until then.
    """
    section, is_async = _section("sqlalchemy", connection, lease, resource, row, seq)
    return (AsyncGuard if is_async else Guard)(connection, section)


def django(
    connection: D, lease: Shown, *, resource: str | None = None, row: Row | None = None, seq: int | None = None
) -> Guard[D]:
    """Guard a transaction of Django's; as `psycopg`.

    On a connection outside of `atomic()` the block is one, to be committed at its end. Inside of one, and under
    ATOMIC_REQUESTS, it only checks, and `open` must have been called before that began.

    Takes `django.db.connection`, or one of `django.db.connections`. The app `tenure.integrations.django` has the
    migration and a system check.
    """
    return Guard(connection, _section("django", connection, lease, resource, row, seq)[0])


def open(connection: Any, lease: Shown, *, resource: str | None = None, row: Row | None = None) -> Any:
    """Raise the fence now, committed; call it before a transaction of your own begins, and read nothing before.

    Whoever works on several resources opens all of them before reading any.

    Args:
        connection: idle, of any driver that has a guard; with an asyncio connection, await the result.
        lease: who asks.
        resource: what the fence protects; the locked name by default.
        row: keep the fence in a column of one row.

    Raises:
        UsageError: a transaction has begun, or an argument is wrong; nothing was done.
        As the guards.
    """
    roots = {kind.__module__.partition(".")[0] for kind in type(connection).__mro__}
    for driver in _DRIVERS:
        if driver in roots:
            section, is_async = _section(driver, connection, lease, resource, row, None)
            return section.open() if is_async else run(section.open())
    raise UsageError(f"connection: no guard knows {type(connection).__name__}; there are {', '.join(_DRIVERS)}")


def schema(dialect: str) -> str:
    """The definition of the tables of fences, as SQL for your own migrations; `tenure fence schema` prints the same.

    Args:
        dialect: "postgresql", "sqlite", or "mysql" (MariaDB too).

    Raises:
        UsageError: there is no such dialect.
    """
    if dialect not in DIALECTS:
        raise UsageError(f"dialect: {', '.join(DIALECTS)}, and not {dialect!r}")
    return definition("fence", dialect)


def _section(
    driver: str, connection: Any, lease: Shown, resource: str | None, row: Row | None, seq: int | None
) -> tuple[Section, bool]:
    database: Database = import_module(f"tenure.sql.drivers.{driver}").adapt(connection)
    if row is not None and resource is not None:
        raise UsageError("resource: the row is what its own fence protects")
    proof, holder = prove(lease, resource, seq, label=None if row is None else row.resource)
    place = table(database.dialect, proof.resource) if row is None else row.place(database.dialect)
    return Section(database, place, proof, holder), database.is_async
