"""What the guards of PostgreSQL rest on, between real transactions of a real server."""

from __future__ import annotations

import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import IsolationLevel, errors
from psycopg.pq import Trace, TransactionStatus

from tenure import fencing
from tenure.errors import NotRaised, StaleOperation, StaleToken, UsageError
from tenure.fencing import doors
from tenure.fencing.database import places
from tenure.sql.dialects import POSTGRESQL
from tenure.sql.drivers import psycopg_opening
from tests.fencing.conftest import new_url
from tests.fencing.stores import PsycopgSession
from tests.servers import pgbouncer
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import PostgresServer
from tests.servers.processes import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.fencing.servers import Servers

RESOURCE: dict[str, Any] = {"resource": "orders"}
HOLD = 0.3
"""Seconds that a transaction of the old holder is open."""

STRICT = (IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE)


@pytest.fixture
def connect(servers: Servers) -> Iterator[Callable[[], psycopg.Connection[Any]]]:
    """Makes connections to a database with the tables."""
    url = new_url(servers, "postgresql")
    made: list[psycopg.Connection[Any]] = []

    def make() -> psycopg.Connection[Any]:
        made.append(psycopg.connect(url))
        return made[-1]

    session = PsycopgSession(url)
    for coroutine in (session.prepare(), session.close()):
        with pytest.raises(StopIteration):
            coroutine.send(None)
    yield make
    for connection in made:
        connection.close()


def blocked(connection: psycopg.Connection[Any]) -> bool:
    """Whether somebody waits for a lock of this database."""
    row = connection.execute(
        "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    ).fetchone()
    connection.rollback()
    assert row is not None
    return bool(row[0])


def test_many_workers_of_one_holder_work_side_by_side(connect: Callable[[], Any]) -> None:
    guards = [fencing.psycopg(connect(), 7, **RESOURCE) for _ in range(4)]
    for at, guard in enumerate(guards):
        connection = guard.__enter__()
        connection.execute("INSERT INTO counter VALUES (%s, 0, 0)", (at + 10,))
    for guard in guards:
        guard.__exit__(None, None, None)


def test_a_take_over_waits_for_the_open_transaction_and_then_shuts_the_holder_out(connect: Callable[[], Any]) -> None:
    old, second, new, looks = connect(), connect(), connect(), connect()
    read: list[int] = []

    def take_over() -> None:
        with fencing.psycopg(new, 9, **RESOURCE):
            read.append(new.execute("SELECT v FROM counter WHERE id = 1").fetchone()[0])

    thread = threading.Thread(target=take_over)
    with fencing.psycopg(old, 7, **RESOURCE):
        thread.start()
        until(lambda: blocked(looks), "the raise waits")
        # Announced already: a worker that begins now would make it wait longer.
        with pytest.raises(StaleToken), fencing.psycopg(second, 7, **RESOURCE):
            pass
        old.execute("UPDATE counter SET v = 41 WHERE id = 1")
        assert not read
    thread.join(PATIENCE)
    assert read == [41]
    with pytest.raises(StaleToken), fencing.psycopg(old, 7, **RESOURCE):
        pass


def overlap(connect: Callable[[], Any], stop: threading.Event) -> list[threading.Thread]:
    """Workers of the old holder, whose transactions overlap so that one is always open, until each is refused."""
    count = 6
    begun = threading.Barrier(count + 1)

    def work(connection: psycopg.Connection[Any], at: int) -> None:
        begun.wait(PATIENCE)
        time.sleep(at * HOLD / count)
        try:
            while not stop.is_set():
                with fencing.psycopg(connection, 7, **RESOURCE):
                    connection.execute("SELECT pg_sleep(%s)", (HOLD,))
        except StaleToken:
            pass

    threads = [threading.Thread(target=work, args=(connect(), at)) for at in range(count)]
    for thread in threads:
        thread.start()
    begun.wait(PATIENCE)
    time.sleep(HOLD)
    return threads


@pytest.mark.parametrize("is_announced", [True, False], ids=["announced", "the control: a raise that tells nobody"])
def test_overlapping_transactions_of_the_old_holder_cannot_starve_the_raise(
    connect: Callable[[], Any], is_announced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fencing.open(connect(), 7, **RESOURCE)
    if not is_announced:
        place = places._table(POSTGRESQL)
        monkeypatch.setattr(places, "_table", lambda _: place._replace(raising=place.raising[-1:]))
        monkeypatch.setattr(doors, "table", places.table.__wrapped__)
    stop = threading.Event()
    threads = overlap(connect, stop)
    took: list[float] = []

    def take_over(connection: Any, began: float) -> None:
        fencing.open(connection, 9, **RESOURCE)
        took.append(time.monotonic() - began)

    raising = threading.Thread(target=take_over, args=(connect(), time.monotonic()))
    raising.start()
    # One round of transactions that had begun, and not a second one.
    raising.join(5 * HOLD)
    was_done = bool(took)
    stop.set()
    for thread in [*threads, raising]:
        thread.join(PATIENCE)
    assert was_done is is_announced
    assert took


@pytest.mark.parametrize("level", STRICT, ids=lambda level: level.name)
def test_under_a_snapshot_the_work_sees_what_was_there_when_the_fence_rose(
    connect: Callable[[], Any], level: IsolationLevel
) -> None:
    old, new = connect(), connect()
    new.isolation_level = level
    with fencing.psycopg(old, 7, **RESOURCE):
        old.execute("UPDATE counter SET v = 41 WHERE id = 1")
    with fencing.psycopg(new, 9, **RESOURCE):
        assert new.execute("SELECT v FROM counter WHERE id = 1").fetchone() == (41,)
        assert new.execute("SHOW transaction_isolation").fetchone() == (level.name.lower().replace("_", " "),)


@pytest.mark.parametrize("level", STRICT, ids=lambda level: level.name)
def test_a_snapshot_from_before_the_raise_is_40001_and_the_next_try_tells(
    connect: Callable[[], Any], level: IsolationLevel
) -> None:
    old, new = connect(), connect()
    fencing.open(new, 7, **RESOURCE)
    old.isolation_level = level
    old.execute("SELECT v FROM counter")
    fencing.open(new, 9, **RESOURCE)
    with pytest.raises(psycopg.errors.SerializationFailure), fencing.psycopg(old, 7, **RESOURCE):
        pass
    old.rollback()
    with pytest.raises(StaleToken), fencing.psycopg(old, 7, **RESOURCE):
        pass


@pytest.mark.parametrize("level", STRICT, ids=lambda level: level.name)
def test_a_snapshot_from_before_the_first_raise_does_not_know_the_fence(
    connect: Callable[[], Any], level: IsolationLevel
) -> None:
    one = connect()
    one.isolation_level = level
    one.execute("SELECT v FROM counter")
    fencing.open(connect(), 7, **RESOURCE)
    with pytest.raises(NotRaised), fencing.psycopg(one, 7, **RESOURCE):
        pass


def test_two_holders_that_raise_for_the_first_time_at_once_end_up_in_order(connect: Callable[[], Any]) -> None:
    for attempt in range(20):
        name = f"r{attempt}"
        refused: list[int] = []
        start = threading.Barrier(2)

        def come(
            connection: Any, token: int, name: str = name, start: Any = start, refused: list[int] = refused
        ) -> None:
            start.wait(PATIENCE)
            try:
                fencing.open(connection, token, resource=name)
            except StaleToken:
                refused.append(token)

        threads = [threading.Thread(target=come, args=(connect(), token)) for token in (7, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert refused in ([], [7])
        with pytest.raises(StaleToken), fencing.psycopg(connect(), 7, resource=name):
            pass
        fencing.open(connect(), 9, resource=name)


@pytest.mark.parametrize("seq", [1, None], ids=["numbered", "the control: not numbered"])
def test_of_many_copies_of_one_operation_that_race_one_is_done(connect: Callable[[], Any], seq: int | None) -> None:
    outcomes: list[str] = []
    start = threading.Barrier(6)

    def send(connection: Any) -> None:
        start.wait(PATIENCE)
        try:
            with fencing.psycopg(connection, 7, seq=seq, **RESOURCE):
                connection.execute("UPDATE counter SET v = v + 1 WHERE id = 1")
            outcomes.append("done")
        except StaleOperation:
            outcomes.append("refused")

    threads = [threading.Thread(target=send, args=(connect(),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    done = 6 if seq is None else 1
    assert (outcomes.count("done"), len(outcomes)) == (done, 6)
    assert connect().execute("SELECT v FROM counter WHERE id = 1").fetchone() == (done,)


def test_under_autocommit_the_block_is_a_transaction_all_the_same(connect: Callable[[], Any]) -> None:
    one, two = connect(), connect()
    one.autocommit = True
    with pytest.raises(ZeroDivisionError), fencing.psycopg(one, 7, **RESOURCE):
        one.execute("UPDATE counter SET v = 1")
        assert two.execute("SELECT MAX(v) FROM counter").fetchone() == (0,)
        _ = 1 / 0
    assert two.execute("SELECT MAX(v) FROM counter").fetchone() == (0,)


def test_a_commit_inside_of_the_block_is_refused(connect: Callable[[], Any]) -> None:
    one = connect()
    with pytest.raises(psycopg.ProgrammingError, match="commit"), fencing.psycopg(one, 7, **RESOURCE):
        one.commit()


def test_savepoints_and_rows_of_any_kind_are_the_users_own(connect: Callable[[], Any]) -> None:
    one = connect()
    one.row_factory = psycopg.rows.dict_row
    with fencing.psycopg(one, 7, **RESOURCE):
        with pytest.raises(psycopg.errors.UniqueViolation), one.transaction():
            one.execute("INSERT INTO counter VALUES (1, 0, 0)")
        one.execute("UPDATE counter SET v = 5 WHERE id = 1")
    assert one.execute("SELECT v FROM counter WHERE id = 1").fetchone() == {"v": 5}


def test_a_rollback_by_the_drivers_own_signal_passes(connect: Callable[[], Any]) -> None:
    one = connect()
    with fencing.psycopg(one, 7, **RESOURCE):
        one.execute("UPDATE counter SET v = 5")
        raise psycopg.Rollback
    assert one.execute("SELECT MAX(v) FROM counter").fetchone() == (0,)


def test_a_failed_transaction_is_not_worked_in(connect: Callable[[], Any]) -> None:
    one = connect()
    with pytest.raises(psycopg.errors.UndefinedTable):
        one.execute("SELECT * FROM nowhere")
    with pytest.raises(psycopg.errors.InFailedSqlTransaction), fencing.psycopg(one, 7, **RESOURCE):
        pass
    with pytest.raises(UsageError):
        fencing.open(one, 7, **RESOURCE)


# -- blocks of psycopg that begin with their check -------------------------------------------------------------------


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
    [("prepare_threshold", None), ("isolation_level", STRICT[0]), ("read_only", False), ("deferrable", False)],
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
