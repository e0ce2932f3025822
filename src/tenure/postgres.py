"""A name held by a transaction of your own in PostgreSQL, on your own connection.

Promises: from `hold` until the transaction ends nobody else holds the name, neither by a lease nor by a transaction;
the token is larger than every earlier one of the name and smaller than every later one; it is good with your commit
and gone with your rollback, and then is not given to anybody else.
Does not promise an end: there is no ttl, and a transaction that is left open keeps the name, as it keeps its rows.
PostgreSQL's `idle_in_transaction_session_timeout` is the remedy. Nor a place in the queue: whoever waits for a lease
goes first.

Leases of the same schema and namespace are what it excludes and waits for. It needs no client and no session.
"""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, overload

from tenure import config
from tenure.core import timeout_error
from tenure.engines.postgres.store import FORMAT, SPOKEN, queue_of
from tenure.engines.postgres.url import schema_name
from tenure.errors import IncompatibleStore, UnsafeSetup, UsageError
from tenure.fencing import Row
from tenure.fencing.database.guard import Section
from tenure.fencing.database.places import table
from tenure.fencing.rule import RESOURCE_BYTES, prove
from tenure.model import Grant
from tenure.runtimes import native
from tenure.runtimes.blocking import run
from tenure.sql.dialects import POSTGRESQL
from tenure.sql.statements import statement

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from psycopg import AsyncConnection as AsyncPsycopgConnection
    from psycopg import Connection as PsycopgConnection
    from sqlalchemy import Connection as AlchemyConnection
    from sqlalchemy.ext.asyncio import AsyncConnection as AsyncAlchemyConnection
    from sqlalchemy.ext.asyncio import AsyncSession as AsyncAlchemySession
    from sqlalchemy.ext.asyncio import async_scoped_session
    from sqlalchemy.orm import Session as AlchemySession
    from sqlalchemy.orm import scoped_session

    from tenure.model import Seconds
    from tenure.sql.ports import Database

    BlockingConnection = PsycopgConnection[Any] | AlchemyConnection | AlchemySession | scoped_session[Any]
    AsyncConnection = (
        AsyncPsycopgConnection[Any] | AsyncAlchemyConnection | AsyncAlchemySession | async_scoped_session[Any]
    )

DRIVERS: Final = ("psycopg", "asyncpg", "sqlalchemy", "django")

WAIT_MOST: Final = 86_400.0

_MISSING: Final = ("3F000", "42883", "42P01")
"""There is no such schema, function or table."""


@overload
def hold(
    connection: BlockingConnection,
    name: str,
    *,
    wait: Seconds = 10.0,
    fence: str | Row | None = None,
    schema: str = "tenure",
    namespace: str | None = None,
) -> Grant: ...


@overload
def hold(
    connection: AsyncConnection,
    name: str,
    *,
    wait: Seconds = 10.0,
    fence: str | Row | None = None,
    schema: str = "tenure",
    namespace: str | None = None,
) -> Awaitable[Grant]: ...


@overload
def hold(
    connection: Any,
    name: str,
    *,
    wait: Seconds = 10.0,
    fence: str | Row | None = None,
    schema: str = "tenure",
    namespace: str | None = None,
) -> Any: ...


def hold(
    connection: Any,
    name: str,
    *,
    wait: Seconds = 10.0,
    fence: str | Row | None = None,
    schema: str = "tenure",
    namespace: str | None = None,
) -> Any:
    """Hold a name until the transaction of this connection ends, or is rolled back to a savepoint from before.

    The transaction must be READ COMMITTED. What it reads after the call is what earlier holders have committed; what
    it has read before may be out of date by now, so let this be its first statement. Two names are taken in one order
    everywhere, as rows are, or PostgreSQL ends one of the transactions as a deadlock.

    Args:
        connection: yours, of psycopg, asyncpg, SQLAlchemy or Django, with an asyncio connection await the result. In
            a transaction, or set up so that its first statement begins one.
        name: what is locked, as `Client.lock` has it.
        wait: seconds to wait for whoever holds it, up to a day; 0 only tries. They are spent in one statement, so
            `statement_timeout` counts too.
        fence: the resource whose fence, in the table of fences, is raised in this transaction too, or the `Row` that
            carries it: a lease's holder who comes too late is then refused by its guard. Waits for the transactions
            that such a holder has open under its guard.
        schema: where the tables of tenure are.
        namespace: as the clients have it; by default what TENURE_NAMESPACE says, or "tenure".

    Returns:
        The proof, as that of a lease. Show its token to nobody outside of this transaction before the commit. Asked
        again in one transaction, it holds a larger token.

    Raises:
        AcquireTimeout: the wait is over; nothing is held, and the transaction is as it was. Tells who holds the name
            and how many wait.
        UsageError: an argument is wrong, the transaction is not READ COMMITTED, or there is none, as under autocommit;
            nothing is held.
        UnsafeSetup: this user may not use the schema; or the last number was given. Nothing is held.
        IncompatibleStore: the schema has no tables of this release. Nothing is held.
        StaleToken, ForeignToken, MissingTable, MissingRow: of the fence. The name is held, and goes with the rollback.
        The driver's own errors: a deadlock, `statement_timeout`, a lost connection, a read-only transaction. Nothing
            is held once the transaction is rolled back.

    Cancellation: roll the transaction back, as after any interrupted statement; then nothing is held.
    """
    database = _adapted(connection)
    key = f"{config.checked_namespace(namespace)}:{config.name(name)}"
    if fence is not None and not isinstance(fence, Row):
        config.text("fence", fence, RESOURCE_BYTES, 1)
    seconds = config.seconds("wait", wait, 0.0, WAIT_MOST)
    holding = _hold(database, name, key, seconds, schema_name(schema), fence)
    return holding if database.is_async else run(holding)


def _adapted(connection: Any) -> Database:
    roots = {kind.__module__.partition(".")[0] for kind in type(connection).__mro__}
    for driver in DRIVERS:
        if driver in roots:
            database: Database = import_module(f"tenure.sql.drivers.{driver}").adapt(connection)
            if database.dialect is not POSTGRESQL:
                raise UsageError(f"connection: PostgreSQL is needed, and this is {database.dialect.name}")
            return database
    raise UsageError(f"connection: one of {', '.join(DRIVERS)} is needed, not {type(connection).__name__}")


async def _hold(database: Database, name: str, key: str, wait: Seconds, schema: str, fence: str | Row | None) -> Grant:
    # The schema's name is letters, digits and underscores, and every value is a placeholder's.
    call = statement(f'SELECT "{schema}".hold(:format, :name, :wait)')
    try:
        row = await database.fetch(call, {"format": FORMAT, "name": key, "wait": int(wait * 1e6)})
    except Exception as error:
        explained = _explained(error, schema)
        if explained is None:
            raise
        raise explained from error
    verdict, *more = json.loads(row[0] if row else "[null]")
    if verdict == "holds":
        if not database.has_begun():
            raise UsageError("connection: no transaction has begun, as under autocommit: the name was held for nothing")
        number, store = more
        grant = Grant(name, number, number, f"postgresql:{store}/{key.partition(':')[0]}")
        if fence is not None:
            await _section(database, grant, fence).join()
        return grant
    if verdict == "busy":
        raise timeout_error(name, wait, queue_of(name, more[0]), native.utc(), own=0)
    if verdict == "isolation":
        raise UsageError(f"connection: the transaction is {more[0].upper()}, and READ COMMITTED is needed")
    if verdict == "exhausted":
        raise UnsafeSetup("the name has given its last number, 2^53 - 1; a clock was wrong. Nothing is held")
    raise IncompatibleStore(
        f"the schema {schema!r} has format {more}, and this release speaks {SPOKEN}",
        in_force=more[0] if more else None,
        spoken=SPOKEN,
    )


def _section(database: Database, grant: Grant, fence: str | Row) -> Section:
    if isinstance(fence, Row):
        return Section(database, fence.place(database.dialect), prove(grant, label=fence.resource)[0], None)
    proof, _ = prove(grant, fence)
    return Section(database, table(database.dialect, proof.resource), proof, None)


def _explained(error: Exception, schema: str) -> Exception | None:
    """A refusal in the words of tenure; None for what else a driver raises, which stays as it is."""
    # SQLAlchemy keeps the driver's error as `orig`, Django as the context.
    told = getattr(error, "orig", None) or error.__context__ or error
    state = getattr(error, "sqlstate", None) or getattr(told, "sqlstate", None)
    said = str(told).partition("\n")[0]
    if state in _MISSING:
        return IncompatibleStore(
            f"the schema {schema!r} has no tables of this release: {said}; run `tenure migrate URL` as the user who "
            "owns them, or name another schema",
            spoken=SPOKEN,
        )
    if state == "42501":
        return UnsafeSetup(f"a right is missing: {said}; run GRANT USAGE ON SCHEMA {schema} TO this user")
    return None
