"""Blocks of psycopg that begin with their check, in one pipeline of prepared statements."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import IsolationLevel, errors
from psycopg.pq import Trace, TransactionStatus

from tenure import fencing
from tenure.errors import StaleToken
from tenure.sql.drivers import psycopg_opening
from tests.servers import pgbouncer
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import PostgresServer
from tests.servers.processes import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fencing.servers import Servers

from tests.fencing.connections import RESOURCE, blocked, connect

__all__ = ["connect"]


def messages(connection: psycopg.Connection[Any], work: Callable[[], object]) -> list[str]:
    """What libpq sends meanwhile, without what ends a pipeline."""
    with tempfile.TemporaryFile() as file:
        connection.pgconn.trace(file.fileno())
        connection.pgconn.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)
        work()
        connection.pgconn.untrace()
        file.seek(0)
        sent = [line.split("\t", 2)[2] for line in file.read().decode().splitlines() if line.startswith("F\t")]
    return [line for line in sent if line.startswith(("Query", "Bind", "Sync"))]


def block(connection: psycopg.Connection[Any], token: int = 7) -> None:
    with fencing.psycopg(connection, token, **RESOURCE):
        pass


@pytest.fixture
def prepared(connect: Callable[[], Any]) -> psycopg.Connection[Any]:
    """A connection whose blocks begin with their check."""
    connection = connect()
    connection.prepare_threshold = 0
    block(connection)
    block(connection)
    return connection  # type: ignore[no-any-return]


def test_a_block_that_does_nothing_waits_for_the_server_twice(prepared: psycopg.Connection[Any]) -> None:
    sent = [line.partition("\t")[0] for line in messages(prepared, lambda: block(prepared))]
    assert sent == ["Bind", "Bind", "Sync", "Query"]


def test_the_check_is_prepared_when_it_has_been_used_as_often_as_psycopg_wants(connect: Callable[[], Any]) -> None:
    connection = connect()
    block(connection)
    assert connection.prepare_threshold == 5
    for _ in range(4):
        assert "BEGIN" in messages(connection, lambda: block(connection))[0]
    assert known(connection) == 0
    block(connection)
    assert known(connection) == 2
    assert "BEGIN" not in messages(connection, lambda: block(connection))[0]


def known(connection: psycopg.Connection[Any]) -> int:
    """How many statements of ours its server knows."""
    row = connection.execute(
        "SELECT COUNT(*) FROM pg_prepared_statements WHERE name LIKE 'tenure%'", prepare=False
    ).fetchone()
    connection.commit()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("loss", ["DISCARD ALL", "DEALLOCATE ALL", "DEALLOCATE tenure_begin"])
def test_a_server_that_has_forgotten_is_asked_as_at_first(prepared: psycopg.Connection[Any], loss: str) -> None:
    prepared.autocommit = True
    prepared.execute(loss.encode())
    prepared.autocommit = False
    with fencing.psycopg(prepared, 7, **RESOURCE):
        prepared.execute("UPDATE counter SET v = v + 1 WHERE id = 1")
        with pytest.raises(psycopg.ProgrammingError):
            prepared.commit()
    block(prepared)
    assert "Bind" in messages(prepared, lambda: block(prepared))[0]
    assert prepared.execute("SELECT v FROM counter WHERE id = 1").fetchone() == (1,)


def test_a_rollback_costs_no_error(prepared: psycopg.Connection[Any]) -> None:
    seen: list[str] = []
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), fencing.psycopg(prepared, 7, **RESOURCE):
            prepared.execute("UPDATE counter SET v = 41 WHERE id = 1")
            _ = 1 / 0
        seen += messages(prepared, lambda: block(prepared))
    assert not [line for line in seen if "ROLLBACK" in line]
    assert prepared.execute("SELECT v FROM counter WHERE id = 1").fetchone() == (0,)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("prepare_threshold", None),
        ("isolation_level", IsolationLevel.SERIALIZABLE),
        ("read_only", False),
        ("deferrable", False),
    ],
)
def test_what_the_connection_is_set_to_counts(prepared: psycopg.Connection[Any], setting: str, value: Any) -> None:
    setattr(prepared, setting, value)
    first = messages(prepared, lambda: block(prepared))[0]
    assert first.startswith('Query\t "BEGIN')
    assert (value is None) is first.endswith('BEGIN"')


def test_in_a_pipeline_of_the_users_a_block_is_what_psycopg_makes_of_it(prepared: psycopg.Connection[Any]) -> None:
    with prepared.pipeline(), fencing.psycopg(prepared, 7, **RESOURCE):
        prepared.execute("UPDATE counter SET v = 5 WHERE id = 1")
    assert prepared.execute("SELECT v FROM counter WHERE id = 1").fetchone() == (5,)


@pytest.mark.parametrize("autocommit", [False, True], ids=["", "autocommit"])
def test_neither_commit_nor_rollback_ends_a_block_from_inside(
    prepared: psycopg.Connection[Any], autocommit: bool
) -> None:
    prepared.autocommit = autocommit
    for end in (psycopg.Connection.commit.__name__, psycopg.Connection.rollback.__name__):
        with fencing.psycopg(prepared, 7, **RESOURCE):
            with pytest.raises(psycopg.ProgrammingError, match="guard"):
                getattr(prepared, end)()
            prepared.execute("UPDATE counter SET v = v + 1 WHERE id = 1")
        getattr(prepared, end)()
    assert prepared.execute("SELECT v FROM counter WHERE id = 1").fetchone() == (2,)


def test_an_error_rolls_a_block_back_and_psycopgs_signal_passes_silently(prepared: psycopg.Connection[Any]) -> None:
    with fencing.psycopg(prepared, 7, **RESOURCE):
        prepared.execute("UPDATE counter SET v = 41 WHERE id = 1")
        raise psycopg.Rollback
    block(prepared)
    with prepared.transaction() as other:
        pass
    with pytest.raises(psycopg.Rollback), fencing.psycopg(prepared, 7, **RESOURCE):
        raise psycopg.Rollback(other)
    assert prepared.info.transaction_status == TransactionStatus.IDLE
    assert prepared.execute("SELECT v FROM counter WHERE id = 1").fetchone() == (0,)


@pytest.mark.parametrize("kind", ["smallint", "integer", "bigint", "numeric(20)"])
def test_a_row_that_is_found_by_a_text_carries_its_fence_as_any_whole_number(
    prepared: psycopg.Connection[Any], kind: str
) -> None:
    prepared.execute(f"CREATE TABLE doc (name text, fence {kind})".encode())
    prepared.execute("INSERT INTO doc VALUES ('große Halle', NULL)")
    prepared.commit()
    row = fencing.Row("doc", {"name": "große Halle"})
    for token in (7, 7, 9):
        with fencing.psycopg(prepared, token, row=row):
            pass
    with pytest.raises(StaleToken), fencing.psycopg(prepared, 7, row=row):
        pass


def test_a_connection_that_is_lost_in_a_block_tells_the_blocks_own_error(
    prepared: psycopg.Connection[Any], connect: Callable[[], Any]
) -> None:
    with pytest.raises(psycopg.errors.AdminShutdown), fencing.psycopg(prepared, 7, **RESOURCE):
        connect().execute("SELECT pg_terminate_backend(%s)", (prepared.info.backend_pid,))
        prepared.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError), fencing.psycopg(prepared, 7, **RESOURCE):
        pass


def test_a_check_that_waits_can_be_interrupted(prepared: psycopg.Connection[Any], connect: Callable[[], Any]) -> None:
    raising, looks = connect(), connect()
    raising.execute("SELECT * FROM tenure_fence FOR UPDATE")
    interrupted: list[type[BaseException]] = []

    def wait() -> None:
        try:
            block(prepared)
        except psycopg.errors.QueryCanceled as error:
            interrupted.append(type(error))

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: blocked(looks), "the check waits")
    prepared.cancel()
    thread.join(PATIENCE)
    assert interrupted == [psycopg.errors.QueryCanceled]
    raising.rollback()
    block(prepared)


@pytest.mark.parametrize("where", ["send", "fetch_many"])
def test_ctrl_c_between_two_steps_of_the_opening_leaves_no_connection_that_is_half_way(
    prepared: psycopg.Connection[Any], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strike(_: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(psycopg_opening, where, strike)
    with pytest.raises(KeyboardInterrupt):
        block(prepared)
    assert prepared.closed


@pytest.mark.skipif(pgbouncer.missing() is not None, reason=str(pgbouncer.missing()))
@pytest.mark.parametrize("threshold", [None, 0], ids=["none is prepared", "the control: they are, and get lost"])
def test_behind_a_pooler_no_block_is_lost_or_done_twice(threshold: int | None) -> None:
    """PgBouncer in transaction mode, and more connections than it has servers."""
    lost = (errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement, errors.ProtocolViolation)
    with PostgresServer() as server, PgBouncer(server, pool=2) as pool:
        server.run(fencing.schema("postgresql"))
        server.run("CREATE TABLE counted (n bigint NOT NULL)")
        server.run("INSERT INTO counted VALUES (0)")

        def work() -> tuple[int, int]:
            done = failed = 0
            with psycopg.connect(pool.url, prepare_threshold=threshold) as connection:
                for turn in range(100):
                    try:
                        with fencing.psycopg(connection, 7, resource="r"):
                            connection.execute("UPDATE counted SET n = n + 1")
                            if turn % 7 == 0:
                                raise psycopg.Rollback
                    except lost:
                        failed += 1
                    else:
                        done += turn % 7 != 0
            return done, failed

        with ThreadPoolExecutor(6) as threads:
            done, failed = map(sum, zip(*threads.map(lambda _: work(), range(6)), strict=True))
        assert server.run("SELECT n FROM counted") == [(done,)]
        assert (failed > 0) == (threshold is not None)


def test_an_opening_that_is_cancelled_leaves_an_idle_connection(servers: Servers, connect: Callable[[], Any]) -> None:
    other = connect()
    block(other)
    watching = connect()
    watching.autocommit = True

    async def main() -> None:
        url = other.info.dsn
        async with await psycopg.AsyncConnection.connect(url, prepare_threshold=0, autocommit=True) as connection:

            async def enter() -> None:
                async with fencing.psycopg(connection, 7, **RESOURCE):
                    pass

            await enter()
            await enter()
            other.execute("SELECT * FROM tenure_fence FOR UPDATE")
            task = asyncio.create_task(enter())
            await asyncio.to_thread(until, lambda: blocked(watching), "the check waits")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert connection.info.transaction_status is TransactionStatus.IDLE
            await connection.commit()  # refused in a block alone
            other.rollback()
            await enter()

    asyncio.run(main())
