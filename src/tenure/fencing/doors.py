"""The guards by the name of their driver. A driver is imported when its guard is first made.

Each takes a connection of the user's and what shows that somebody holds the name: a lease of either client, its
`Grant`, the `Proof` that a request brought, or a positive whole number that came from elsewhere (for which only
`StaleToken` can be told, and `resource` must be said).
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from tenure.errors import UsageError
from tenure.fencing.database.guard import AsyncGuard, Guard, Section
from tenure.fencing.database.places import Row, table
from tenure.fencing.rule import prove
from tenure.runtimes.blocking import run
from tenure.sql.dialects import DIALECTS
from tenure.sql.statements import schema as definition

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from sqlite3 import Connection as SQLite3Connection

    from asyncpg import Connection as AsyncPGConnection
    from asyncpg.pool import PoolConnectionProxy
    from psycopg import AsyncConnection as AsyncPsycopgConnection
    from psycopg import Connection as PsycopgConnection
    from pymysql import Connection as PyMySQLConnection
    from redis import Redis, RedisCluster
    from redis.asyncio import Redis as AsyncRedis
    from redis.asyncio import RedisCluster as AsyncRedisCluster
    from sqlalchemy import Connection as AlchemyConnection
    from sqlalchemy.ext.asyncio import AsyncConnection as AsyncAlchemyConnection
    from sqlalchemy.ext.asyncio import AsyncSession as AsyncAlchemySession
    from sqlalchemy.ext.asyncio import async_scoped_session
    from sqlalchemy.orm import Session as AlchemySession
    from sqlalchemy.orm import scoped_session

    from tenure.fencing.files.guard import FileGuard
    from tenure.fencing.keyspace.guard import AsyncRedisGuard, RedisGuard
    from tenure.fencing.keyspace.section import Section as KeyspaceSection
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


@overload
def redis(
    connection: Redis | RedisCluster, lease: Shown, *, resource: str | None = None, seq: int | None = None
) -> RedisGuard: ...


@overload
def redis(
    connection: AsyncRedis | AsyncRedisCluster, lease: Shown, *, resource: str | None = None, seq: int | None = None
) -> AsyncRedisGuard: ...


def redis(connection: Any, lease: Shown, *, resource: str | None = None, seq: int | None = None) -> Any:
    """Guard keys of Redis or Valkey, with a blocking or an asyncio client of redis-py, of one server or a cluster.

    The first block raises the fence, committed. In a block, every command of the object that it is given, and every
    pipeline of it, is one script, which checks first. There is no transaction to be rolled back: a step that was
    answered is done. Read through the same object, and only in the block. A guard has one block at a time: threads and
    tasks that work side by side make one each.

    The fence is the key `tenure:fence:{RESOURCE}`, a hash without a TTL. In a cluster the keys of a step must share
    its slot, so they carry the hash tag `{RESOURCE}`.

    Replies look as with `protocol=2`. Whole numbers above 2^53 are rounded in them (not in the keys), for they pass
    through Lua; a command has at most 7,000 words. A request is sent once, whatever the client's `retry` says.

    Args:
        connection: yours; its connections are used, and it may be used by others meanwhile.
        lease: who asks.
        resource: what the fence protects; the locked name by default.
        seq: the number of this block's one writing step, from 1, rising: a delayed duplicate of it is refused, and
            another one is a `UsageError`. Exclusive leases only.

    Raises, on entering:
        LeaseLost: the lease is lost already; nothing was asked.
        StaleToken: a later holder has been here; nothing was done, and the lease is lost.
        StaleOperation: `seq` was done before.
        ForeignToken, FenceRegression: the tokens cannot be compared, or went backwards. See the operator's page.
        OutcomeUnknown: no answer came; the fence was raised or not, which is harmless.
        StoreUnavailable: the server cannot be reached; nothing was done.
        UsageError: an argument is wrong.
        redis.exceptions.ResponseError: the server refuses: NoPermissionError, ReadOnlyError, OutOfMemoryError, ...;
            nothing was done.

    Cancellation: nothing but the fence may have been raised; harmless.
    """
    from tenure.fencing.keyspace.guard import AsyncRedisGuard, RedisGuard

    section, is_async = _keyspace(connection, lease, resource, seq)
    return (AsyncRedisGuard if is_async else RedisGuard)(section, connection)


def file(path: str | os.PathLike[str], lease: Shown) -> FileGuard:
    """Guard a file of a local file system, which is replaced as a whole.

    Entering raises the fence, durably; then read. What is written in the block lies beside the file, and takes its
    place at the end of the block, in one step and under a check; after an error nothing has changed. A crash leaves the
    old content or the new one.

    The fence is `.NAME.tenure-fence` beside the file, and what it protects is the file: there is no `resource`.
    Permissions, access lists and, where this user may, the owner are kept. A symbolic link stays one. Programs that
    write the file without the guard are not held up. It blocks: under asyncio, run the block with `asyncio.to_thread`.

    Args:
        path: the file, which need not exist yet; its folder must.
        lease: who asks.

    Raises, on entering and at the end of the block; the file is as it was:
        LeaseLost: the lease is lost already; nothing was asked.
        StaleToken: a later holder has been here, and the lease is lost.
        NotRaised: the fence was removed during the block.
        ForeignToken, FenceRegression: the tokens cannot be compared, or went backwards. See the operator's page.
        IncompatibleStore: what lies at the fence's path is none.
        UnsafeSetup: the folder is not writable, or on a network file system.
        UsageError: an argument is wrong: a folder that is not there, a file with hard links, ...
        OSError: the disk is full, ...
    Raises at the end of the block:
        OutcomeUnknown: the file was replaced, and its disk did not say that it will remember.
    """
    from tenure.fencing.files.guard import FileGuard

    return FileGuard(path, lease)


def open(connection: Any, lease: Shown, *, resource: str | None = None, row: Row | None = None) -> Any:
    """Raise the fence now, committed; call it before a transaction of your own begins, and read nothing before.

    Whoever works on several resources opens all of them before reading any.

    Args:
        connection: idle, of any driver that has a guard, or the path of a file; with an asyncio connection, await the
            result.
        lease: who asks.
        resource: what the fence protects; the locked name by default.
        row: keep the fence in a column of one row.

    Raises:
        UsageError: a transaction has begun, or an argument is wrong; nothing was done.
        As the guards.
    """
    if isinstance(connection, str) or hasattr(connection, "__fspath__"):
        if row is not None or resource is not None:
            raise UsageError("a file is what its own fence protects: neither resource nor row can be said")
        file(connection, lease).open()
        return None
    roots = {kind.__module__.partition(".")[0] for kind in type(connection).__mro__}
    if "redis" in roots:
        if row is not None:
            raise UsageError("row: Redis has none")
        keyspace, is_async = _keyspace(connection, lease, resource, None)
        return keyspace.open() if is_async else run(keyspace.open())
    for driver in _DRIVERS:
        if driver in roots:
            section, is_async = _section(driver, connection, lease, resource, row, None)
            return section.open() if is_async else run(section.open())
    raise UsageError(f"connection: no guard knows {type(connection).__name__}; there are {', '.join(_DRIVERS)}, redis")


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


@cache
def _adapter(driver: str) -> Callable[[Any], Database]:
    """Imported once: to find an imported module again takes longer than to make a guard."""
    adapt: Callable[[Any], Database] = import_module(f"tenure.sql.drivers.{driver}").adapt
    return adapt


def _section(
    driver: str, connection: Any, lease: Shown, resource: str | None, row: Row | None, seq: int | None
) -> tuple[Section, bool]:
    database = _adapter(driver)(connection)
    if row is not None and resource is not None:
        raise UsageError("resource: the row is what its own fence protects")
    proof, holder = prove(lease, resource, seq, label=None if row is None else row.resource)
    place = table(database.dialect, proof.resource) if row is None else row.place(database.dialect)
    return Section(database, place, proof, holder), database.is_async


def _keyspace(connection: Any, lease: Shown, resource: str | None, seq: int | None) -> tuple[KeyspaceSection, bool]:
    from tenure.fencing.keyspace.section import Section as KeyspaceSection
    from tenure.fencing.keyspace.wires import wire

    reached = wire(connection)
    return KeyspaceSection(reached, *prove(lease, resource, seq)), reached.is_async
