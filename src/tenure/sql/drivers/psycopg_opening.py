"""A transaction of psycopg's that begins with its first statement: one round trip, and nothing planned anew.

Promises: the transaction and the row are those that psycopg's own BEGIN and cursor give, and until whoever opened it
ends it, `commit` and `rollback` of the connection refuse, as in psycopg's own blocks. Does not promise to open one:
where it does not, nothing has begun, and psycopg's own way is to be taken.

BEGIN and the statement are kept by the server under names, and run in a pipeline of libpq's, by what psycopg gives in
public: `pgconn`, `generators` and `Connection.wait`. As psycopg's own, they are prepared once the statement has been
used `prepare_threshold` times. Names go without notice: psycopg drops them all after a rollback, and so does DISCARD
ALL, and behind a pooler the next server may not know them. That is an error before any work was done; psycopg's own way
is taken then, and the names are made anew after as many uses.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from psycopg import Pipeline, ProgrammingError
from psycopg.errors import DuplicatePreparedStatement, InvalidSqlStatementName, error_from_result
from psycopg.generators import execute, fetch_many, send
from psycopg.pq import ExecStatus, TransactionStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGresult

    from tenure.sql.statements import Statement

BEGIN: Final = b"tenure_begin"

FAILED: Final = ExecStatus.FATAL_ERROR
SYNC: Final = ExecStatus.PIPELINE_SYNC

TEXTS: Final = (25, 1043)
"""text and varchar, as `pg_type` numbers them; what else a fence has are whole numbers."""

_HAS_PIPELINES: Final = Pipeline.is_supported()

_uses: Final[WeakKeyDictionary[Any, dict[bytes, int]]] = WeakKeyDictionary()
"""How often a connection has used each statement, since it last lost their names."""


def opened(connection: Any, first: Statement, values: Mapping[str, Any]) -> PQGen[list[tuple[Any, ...]] | None]:
    """Begin a transaction with a statement: a generator for `connection.wait`.

    Returns:
        The rows, of whole numbers and texts, of which there is one or none. None if psycopg is to begin: the connection
        has settings that BEGIN would have to say, is in a pipeline, or wants nothing prepared; the statement is not
        prepared yet, or gone; or a value is no string.
    """
    if not _is_plain(connection, values):
        return None
    pgconn, threshold, name = connection.pgconn, connection.prepare_threshold, first.name
    uses = _uses.get(connection)
    if uses is None:
        uses = _uses[connection] = {}
    used = uses.get(name, 0)
    if used <= threshold:
        if used == threshold:
            yield from _prepare(connection, BEGIN, b"BEGIN")
            yield from _prepare(connection, name, first.numbered.encode())
        uses[name] = used + 1
        if used < threshold:
            return None
    pgconn.enter_pipeline_mode()
    pgconn.send_query_prepared(BEGIN, None)
    pgconn.send_query_prepared(name, [_encoded(connection, values[key]) for key in first.order])
    try:
        result = yield from _answer(connection)
    except InvalidSqlStatementName:
        uses.clear()
        if pgconn.transaction_status != TransactionStatus.IDLE:
            pgconn.send_query(b"ROLLBACK")
            yield from execute(pgconn)
        return None
    if not result.ntuples:
        return []
    row: list[tuple[Any, int]] = [(result.get_value(0, at), result.ftype(at)) for at in range(result.nfields)]
    return [tuple([_decoded(connection, value) if kind in TEXTS else int(value) for value, kind in row])]


def forbid(connection: Any) -> None:
    """Have `commit` and `rollback` refuse, which psycopg does only in what it began by itself."""
    connection.commit = connection.rollback = _refuse


def forbid_async(connection: Any) -> None:
    """As `forbid`."""
    connection.commit = connection.rollback = _refuse_async


def allow(connection: Any) -> None:
    """Have them as they were."""
    for method in ("commit", "rollback"):
        vars(connection).pop(method, None)


def close_if_interrupted(connection: Any) -> None:
    """Close a connection that Ctrl-C left in the middle of a pipeline: nobody knows what its server has yet to say."""
    if connection.pgconn.pipeline_status:
        connection.pgconn.finish()


def forget(connection: Any) -> None:
    """Take all names for lost after a rollback, as most are, before an error says so."""
    _uses.pop(connection, None)


def _refuse() -> None:
    raise ProgrammingError("explicit commit() and rollback() are forbidden in the block of a guard, which does either")


async def _refuse_async() -> None:
    _refuse()


def _is_plain(connection: Any, values: Mapping[str, Any]) -> bool:
    """Whether there is nothing that only psycopg's own way does."""
    return (
        connection.prepare_threshold is not None
        and connection.isolation_level is None
        and connection.read_only is None
        and connection.deferrable is None
        and not connection.pgconn.pipeline_status
        and _HAS_PIPELINES
        and set(map(type, values.values())) == {str}
    )


def _prepare(connection: Any, name: bytes, text: bytes) -> PQGen[None]:
    connection.pgconn.enter_pipeline_mode()
    connection.pgconn.send_prepare(name, text)
    with suppress(DuplicatePreparedStatement):  # It outlived a rollback.
        yield from _answer(connection)


def _answer(connection: Any) -> PQGen[PGresult]:
    """End a pipeline, and return the answer to its last command."""
    pgconn = connection.pgconn
    pgconn.pipeline_sync()
    yield from send(pgconn)
    results: list[PGresult] = []
    while (answer := (yield from fetch_many(pgconn))[-1]).status != SYNC:
        results.append(answer)
    pgconn.exit_pipeline_mode()
    for result in results:
        if result.status == FAILED:
            raise error_from_result(result, encoding=connection.info.encoding)
    return results[-1]


def _encoded(connection: Any, value: str) -> bytes:
    # What the encoding is called takes longer to ask than the rest does.
    return value.encode() if value.isascii() else value.encode(connection.info.encoding)


def _decoded(connection: Any, value: bytes) -> str:
    return value.decode() if value.isascii() else value.decode(connection.info.encoding)
