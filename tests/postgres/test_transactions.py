"""A name held by a transaction of the caller's own, beside leases: exclusion, numbers, waits and ends."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tenure import AcquireTimeout, Client, IncompatibleStore, StoreUnavailable, UnsafeSetup, UsageError, fencing
from tenure import postgres as tenure_postgres
from tenure.errors import StaleToken
from tenure.ports import ClaimRef, Standing
from tenure.runtimes import native
from tenure.runtimes.blocking import run
from tests.faces.programs import output
from tests.faces.watched import Attempt, Looped, waits
from tests.postgres.connections import CONNECTIONS, AsyncPG, Blocking
from tests.postgres.rig import LONG, Shelf, locked, waits_for_a_lock
from tests.servers import clock, pgbouncer, postgres
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import PostgresServer
from tests.servers.processes import until
from tests.timing import SLACK

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing()))

GRANTS_WHATEVER = ("SELECT pg_try_advisory_xact_lock_shared(name_lock(p_name))", "SELECT true")
"""Steps that take no notice of transactions."""

SEES_NO_CLAIM = (
    ("c.name = p_name AND ends_us(c) > now_us() LIMIT 1", "false"),
    ("            is_free := is_over(c, at);\n", "            is_free := true;\n"),
)
"""Transactions that take no notice of claims."""


class Held(Shelf):
    """A shelf, and transactions that hold its names under the namespace of its tests."""

    def hold(self, by: Blocking, name: str = "n", wait: float = 0.0) -> int:
        """The token; steps know the name as `tenure:NAME`."""
        return by.hold(name, wait=wait, schema=self.schema).token


@pytest.fixture
def shelf(server: PostgresServer, schema: str) -> Iterator[Held]:
    shelf = Held(server, schema)
    yield shelf
    shelf.wire.shut()


@pytest.fixture
def own(server: PostgresServer) -> Iterator[Blocking]:
    """A connection of the user's own."""
    with Blocking(server.url) as own:
        yield own


@pytest.fixture
def other(server: PostgresServer) -> Iterator[Blocking]:
    with Blocking(server.url) as other:
        yield other


# -- each driver, beside each face ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONNECTIONS)
@pytest.mark.parametrize("face", [Client, Looped])
def test_leases_and_transactions_exclude_each_other_and_their_tokens_rise(
    server: PostgresServer, url: str, schema: str, kind: str, face: Any
) -> None:
    with face(url) as client, Client(url) as witness, CONNECTIONS[kind](server.url) as own:
        first = client.lock("n").acquire()
        with pytest.raises(AcquireTimeout, match=rf"'n' was not granted .*\(token {first.token}\); 0 waiting") as busy:
            own.hold("n", wait=0.05, schema=schema)
        assert busy.value.queue is not None
        assert [holder.token for holder in busy.value.queue.holders] == [first.token]
        first.release()
        grant = own.hold("n", wait=5, schema=schema)
        assert grant.token == grant.floor > first.token
        assert grant.authority == client._core.authority
        assert client.lock("n").try_acquire() is None
        waiting: Attempt[Any] = Attempt(client.lock("n", wait=20).acquire)
        waits(witness, "n")
        own.commit()
        committed = native.now()
        lease = waiting.outcome()
        assert waiting.ended_at - committed < SLACK
        assert lease.token > grant.token
        lease.release()


def test_django_holds_a_name_in_an_atomic_block(server: PostgresServer, url: str, schema: str) -> None:
    code = """
from django.conf import settings
named = dict(NAME="postgres", USER="tenure", HOST="127.0.0.1", PORT=int(sys.argv[1]))
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", **named}})
import django
django.setup()
from django.db import connection, transaction
from tenure import postgres
for schema in (sys.argv[2], "nowhere"):
    try:
        with transaction.atomic():
            say(postgres.hold(connection, "n", schema=schema).name)
        postgres.hold(connection, "n", schema=schema)
    except tenure.TenureError as error:
        say(type(error).__name__)
connection.close()
"""
    Client(url).migrate()
    assert output(code, str(server.port), schema) == ["n", "UsageError", "IncompatibleStore"]


def test_autocommit_is_refused_by_each_driver(server: PostgresServer, url: str, schema: str) -> None:
    Client(url).migrate()
    with Blocking(server.url) as own, AsyncPG(server.url) as other:
        own.connection.autocommit = True
        other.rollback()
        for each in (own, other):
            with pytest.raises(UsageError, match="autocommit"):
                each.hold("n", schema=schema)
        with own.connection.transaction():
            assert own.hold("n", schema=schema).token


# -- what a claim does while a transaction holds ----------------------------------------------------------------------


def intruders(shelf: Held, own: Blocking) -> set[str]:
    """By which of the steps a claim is granted while a transaction holds its name."""
    shelf.hold(own)
    name, granted = "tenure:n", set()
    if shelf.enter("s", 1, name, at_once=True).standing is Standing.HOLDS:
        return {"a try"}
    first, second = (shelf.enter("s", claim, name) for claim in (2, 3))
    if Standing.HOLDS in (first.standing, second.standing):
        granted.add("an enqueue")
    shelf.close("s", 2, name, first.number)
    if shelf.run("SELECT floor > 0 FROM %S.claims") != [(False,)]:
        granted.add("a release of the place in front")
    if run(shelf.store.look(ClaimRef("s", 3, name, second.number), 5.0)).standing is Standing.HOLDS:
        granted.add("a look")
    empty = "tenure:empty"
    shelf.close(
        "s", 9, empty, shelf.enter("s", 9, empty).number
    )  # from now on the name has a row, and its case is usual
    shelf.hold(own, "empty")
    if shelf.enter("s", 10, empty, opening=False).standing is Standing.HOLDS:
        granted.add("an enqueue as usual")
    own.rollback()
    assert run(shelf.store.look(ClaimRef("s", 3, name, second.number), 5.0)).standing is Standing.HOLDS
    return granted


def test_no_step_grants_a_name_that_a_transaction_holds(shelf: Held, own: Blocking) -> None:
    assert intruders(shelf, own) == set()


@pytest.mark.parametrize(
    ("changes", "by"),
    [
        ([GRANTS_WHATEVER], "a try"),
        ([("cardinality(needed) > 0 OR NOT is_open(p_name);", "cardinality(needed) > 0;")], "a try"),
        ([("IF NOT is_queued AND is_open(p_name) THEN", "IF NOT is_queued THEN")], "an enqueue as usual"),
        ([("coalesce(is_free, is_open(p_name))", "true")], "a release of the place in front"),
        ([("IF told = 0 AND NOT is_open(p_name) THEN", "IF false THEN")], "a look"),
    ],
)
def test_positive_control_a_step_that_does_not_ask_grants_it(
    shelf: Held, own: Blocking, changes: list[tuple[str, str]], by: str
) -> None:
    shelf.replace(*changes)
    assert by in intruders(shelf, own)


def test_a_lease_waits_for_a_transaction_no_longer_than_it_was_told_and_says_for_whom(
    url: str, schema: str, own: Blocking
) -> None:
    with Client(url, ttl=LONG) as client:
        client.open()
        own.hold("n", schema=schema)
        begun = native.now()
        with pytest.raises(AcquireTimeout, match="a transaction") as caught:
            client.lock("n").acquire(wait=0.4)
        assert 0.4 <= native.now() - begun < 0.4 + SLACK
        (holder,) = caught.value.queue.holders if caught.value.queue else ()
        assert holder.pid == own.connection.info.backend_pid
        until(lambda: client.inspect("n").waiters == (), "what was given up is closed")
        other = client.lock("other").acquire()
        assert other.held
        own.commit()
        assert client.inspect("n").holders == ()


def test_positive_control_a_locked_row_would_be_an_error_long_before(
    server: PostgresServer, url: str, schema: str
) -> None:
    with Client(url, ttl=1.2) as client:
        client.lock("n").acquire().release()
        with locked(server, schema, "names", "tenure:n"), pytest.raises(StoreUnavailable):
            client.lock("n", wait=20).acquire()


def test_a_transaction_that_waits_keeps_no_claim_from_its_turn(url: str, schema: str, own: Blocking) -> None:
    """Claims go first, however long a transaction has waited; it gets the name when nobody is left."""
    with Client(url) as client, Client(url) as second:
        lease = client.lock("n").acquire()
        holding = Attempt(lambda: own.hold("n", wait=20, schema=schema))
        waiting: Attempt[Any] = Attempt(second.lock("n", wait=20).acquire)
        waits(client, "n")
        lease.release()
        successor = waiting.outcome()
        assert not holding.ended_at
        successor.release()
        assert holding.outcome().token > successor.token


# -- what a transaction does while a claim holds ----------------------------------------------------------------------


def test_positive_control_a_transaction_that_does_not_look_holds_beside_a_lease(shelf: Held, own: Blocking) -> None:
    shelf.enter("s", 1, "tenure:n")
    with pytest.raises(AcquireTimeout):
        shelf.hold(own)
    own.rollback()
    shelf.replace(*SEES_NO_CLAIM)
    assert shelf.hold(own)


def test_after_a_wait_in_vain_the_transaction_is_as_it_was(
    server: PostgresServer, shelf: Held, own: Blocking, other: Blocking
) -> None:
    own.connection.execute("CREATE TEMP TABLE kept AS SELECT 1 AS one")
    own.connection.execute("SET LOCAL lock_timeout = '7s'")
    shelf.hold(other)
    begun = native.now()
    with pytest.raises(AcquireTimeout):
        shelf.hold(own, wait=0.3)
    assert 0.3 <= native.now() - begun < 0.3 + SLACK
    assert own.connection.execute("SELECT one, current_setting('lock_timeout') FROM kept").fetchone() == (1, "7s")
    ours = own.connection.info.backend_pid
    assert server.run("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = %s", ours) == [(0,)]
    other.commit()
    assert shelf.hold(own)
    assert own.connection.execute("SELECT current_setting('lock_timeout')").fetchone() == ("7s",)


def test_a_savepoint_lets_go_of_what_was_held_since(shelf: Held, own: Blocking, other: Blocking) -> None:
    own.connection.execute("SAVEPOINT before")
    first = shelf.hold(own)
    with pytest.raises(AcquireTimeout, match=f"pid {own.connection.info.backend_pid} \\(a transaction;"):
        shelf.hold(other)
    own.connection.execute("ROLLBACK TO before")
    assert shelf.hold(other) > first


def buried(shelf: Held, own: Blocking) -> tuple[bool, bool]:
    """A dead client has two names, and a transaction takes one of them.

    Returns:
        Whether it gets it, and whether somebody else gets the other one meanwhile.
    """
    for claim, name in ((1, "tenure:n"), (2, "tenure:m")):
        shelf.enter("dead", claim, name, ttl=0.05)
    threading.Event().wait(0.1)
    token = shelf.hold(own, wait=5.0)
    return token > 0, shelf.enter("alive", 1, "tenure:m", at_once=True).standing is Standing.HOLDS


def test_the_dead_are_passed_over_and_nobody_else_waits_for_that(shelf: Held, own: Blocking) -> None:
    assert buried(shelf, own) == (True, True)
    own.commit()
    # Whoever comes next removes what was passed over.
    assert shelf.enter("alive", 2, "tenure:n").standing is Standing.HOLDS


def test_positive_control_a_death_that_is_latched_until_the_commit_keeps_others_waiting(
    shelf: Held, own: Blocking
) -> None:
    shelf.replace(("        RAISE SQLSTATE 'TN003';\n", "        RETURN drawn;\n"))
    assert buried(shelf, own) == (True, False)


def beaten(shelf: Held, own: Blocking) -> bool:
    """Whether a transaction gets a name whose holder seems dead while its heartbeat is in mid-commit."""
    shelf.enter("holder", 1, "tenure:n", ttl=0.3)
    with psycopg.connect(shelf.server.url) as beating:
        query = f'SELECT "{shelf.schema}".heartbeat(1, %s, %s, 9000, %s, 60000000, false)'
        beating.execute(query.encode(), [shelf.store._known.id, "", "holder"])
        threading.Event().wait(0.4)
        holding = Attempt(lambda: shelf.hold(own, wait=0.8))
        threading.Event().wait(0.2)
        beating.commit()
    error = holding.end()
    assert error is None or isinstance(error, AcquireTimeout)
    return error is None


def test_a_holder_whose_heartbeat_is_in_mid_commit_is_not_taken_for_dead(shelf: Held, own: Blocking) -> None:
    assert not beaten(shelf, own)


def test_positive_control_by_a_plain_read_it_is(shelf: Held, own: Blocking) -> None:
    shelf.replace(("ELSE 0 END <= at\n        FOR UPDATE SKIP LOCKED;", "ELSE 0 END <= at;"))
    assert beaten(shelf, own)


# -- numbers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clocked() -> Iterator[PostgresServer]:
    if reason := clock.missing():
        pytest.skip(reason)
    with PostgresServer(clock=True) as server:
        yield server


def drawn(server: PostgresServer, shelf: Held) -> list[int]:
    """Numbers of one name as the clock is set back: rolled back, a transaction's, a lease's, a transaction's."""
    with Blocking(server.url) as own:
        numbers = [shelf.hold(own)]
        own.rollback()
        server.clock.jump(-3600.0)
        try:
            numbers.append(shelf.hold(own))
            own.commit()
            numbers.append(shelf.enter("s", 1, "tenure:n").number)
            shelf.close("s", 1, "tenure:n", numbers[-1])
            numbers.append(shelf.hold(own))
        finally:
            server.clock.jump(3600.0)
    return numbers


def test_numbers_rise_over_rollbacks_and_between_both_kinds(clocked: PostgresServer, schema: str) -> None:
    numbers = drawn(clocked, Held(clocked, schema))
    assert numbers == sorted(set(numbers))


def number_from_before(shelf: Held) -> bool:
    """Whether a number that was drawn before a wait is below one that a transaction was given during the wait."""
    shelf.close("s", 1, "n", shelf.enter("s", 1, "n").number)
    with ThreadPoolExecutor(1) as pool, locked(shelf.server, shelf.schema, "names", "n"):
        late = pool.submit(shelf.enter, "s", 2, "n", opening=False)
        waits_for_a_lock(shelf.server)
        ((given,),) = shelf.run("SELECT setval('%S.given', %s)", int(native.utc() * 1e6) + 60_000_000)
    return bool(late.result().number < given)


def test_a_number_drawn_before_a_wait_is_drawn_again_if_a_transaction_got_a_larger_one(shelf: Held) -> None:
    assert not number_from_before(shelf)


def test_positive_control_without_a_look_at_what_transactions_got_it_is_not(shelf: Held) -> None:
    shelf.replace(("greatest(base, pg_sequence_last_value('given'))", "base"))
    assert number_from_before(shelf)


@pytest.mark.parametrize(
    "change",
    [
        ("            PERFORM setval('given', drawn);\n", ""),
        ("g.base + 1, (SELECT last_value FROM given) + 1);\n    IF new", "g.base + 1);\n    IF new"),
        ("drawn := greatest(counter + 1, ", "drawn := greatest("),
    ],
)
def test_positive_control_without_one_of_their_sources_they_fall(
    clocked: PostgresServer, schema: str, change: tuple[str, str]
) -> None:
    shelf = Held(clocked, schema)
    shelf.replace(change)
    with Blocking(clocked.url) as own:
        ahead = shelf.enter("s", 9, "tenure:n").number
        shelf.close("s", 9, "tenure:n", ahead)
        if "counter" in change[0]:
            clocked.clock.jump(-3600.0)
            try:
                assert shelf.hold(own) < ahead
            finally:
                clocked.clock.jump(3600.0)
            return
    numbers = drawn(clocked, shelf)
    assert numbers != sorted(set(numbers))


def test_two_transactions_side_by_side_never_set_the_numbers_back(shelf: Held) -> None:
    """One draws under another name's lock; what it sets must not be below what the first has set."""

    def many(name: str) -> list[int]:
        found = []
        with Blocking(shelf.server.url) as own:
            for _ in range(60):
                found.append(shelf.hold(own, name, wait=5.0))
                own.rollback()
        return found

    attempts = [Attempt(lambda name=name: many(name)) for name in ("a", "b", "c")]  # type: ignore[misc]
    numbers = [attempt.outcome() for attempt in attempts]
    assert all(each == sorted(set(each)) for each in numbers)
    assert len({number for each in numbers for number in each}) == 180


# -- ends and refusals ------------------------------------------------------------------------------------------------


def test_a_transaction_whose_backend_is_ended_holds_no_more(
    server: PostgresServer, url: str, schema: str, own: Blocking
) -> None:
    with Client(url) as client:
        client.open()
        token = own.hold("n", schema=schema).token
        waiting: Attempt[Any] = Attempt(client.lock("n", wait=20).acquire)
        waits(client, "n")
        (holder,) = client.inspect("n").holders
        server.run("SELECT pg_terminate_backend(%s)", holder.pid)
        assert waiting.outcome().token > token
        waiting.outcome().release()


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_snapshot_from_before_the_wait_is_refused(shelf: Held, own: Blocking, level: str) -> None:
    own.connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}".encode())
    with pytest.raises(UsageError, match=level):
        shelf.hold(own)
    assert own.connection.execute("SELECT 1").fetchone() == (1,)


def test_wrong_arguments_are_refused_before_anything_is_sent(own: Blocking) -> None:
    for wrong in ({"name": ""}, {"wait": -1}, {"wait": None}, {"schema": 'x"y'}, {"namespace": "a:b"}, {"fence": 7}):
        with pytest.raises(UsageError):
            own.hold(**({"name": "n"} | wrong))
    with pytest.raises(UsageError, match="psycopg"):
        tenure_postgres.hold(object(), "n")
    assert own.connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_a_schema_without_tables_and_a_missing_right_are_typed(server: PostgresServer, url: str, schema: str) -> None:
    with Blocking(server.url) as own, pytest.raises(IncompatibleStore, match="tenure migrate"):
        own.hold("n", schema="nowhere")
    Client(url).migrate()
    server.run(f"CREATE ROLE bare_{schema} LOGIN")
    for kind in CONNECTIONS.values():
        with kind(server.url_as(f"bare_{schema}")) as own, pytest.raises(UnsafeSetup, match="GRANT USAGE"):
            own.hold("n", schema=schema)
    server.run(f"GRANT USAGE ON SCHEMA {schema} TO bare_{schema}")
    with Blocking(server.url_as(f"bare_{schema}")) as own:
        assert own.hold("n", schema=schema).token


def test_two_names_in_two_orders_are_a_deadlock_that_the_server_ends(
    shelf: Held, own: Blocking, other: Blocking
) -> None:
    shelf.hold(own, "a")
    shelf.hold(other, "b")

    def cross(by: Blocking, name: str) -> int:
        try:
            return shelf.hold(by, name, wait=20.0)
        except psycopg.errors.DeadlockDetected:
            by.rollback()
            return 0

    tokens = [attempt.outcome() for attempt in (Attempt(lambda: cross(own, "b")), Attempt(lambda: cross(other, "a")))]
    assert sum(token > 0 for token in tokens) == 1


@pytest.mark.skipif(pgbouncer.missing() is not None, reason=str(pgbouncer.missing()))
def test_a_pooler_in_between_makes_no_difference(
    server: PostgresServer, url: str, schema: str, other: Blocking
) -> None:
    Client(url).migrate()
    with PgBouncer(server) as pooler, Blocking(pooler.url) as own:
        token = own.hold("n", schema=schema).token
        with pytest.raises(AcquireTimeout):
            other.hold("n", wait=0.05, schema=schema)
        own.commit()
        assert other.hold("n", schema=schema).token > token


# -- with a fence -----------------------------------------------------------------------------------------------------


def late(server: PostgresServer, url: str, schema: str, *, fenced: bool, commits: bool = True) -> None:
    """A lease's holder is robbed without knowing, a transaction does its work, and the first one writes after it."""
    if server.run("SELECT to_regclass('tenure_fence')") == [(None,)]:
        server.run(fencing.schema("postgresql"))
    resource = f"of {schema}, {commits}"
    with Client(url) as client, psycopg.connect(server.url) as late, Blocking(server.url) as own:
        lease = client.lock("n").acquire()
        fencing.open(late, lease, resource=resource)
        client.steal("n", lease.token)
        own.hold("n", wait=5, schema=schema, fence=resource if fenced else None)
        (own.commit if commits else own.rollback)()
        with fencing.psycopg(late, lease.grant, resource=resource) as guarded:
            guarded.execute("SELECT 1")


def test_a_fence_that_a_transaction_raised_refuses_the_late_holder_of_a_lease(
    server: PostgresServer, url: str, schema: str
) -> None:
    with pytest.raises(StaleToken):
        late(server, url, schema, fenced=True)


def test_positive_control_without_a_fence_or_a_commit_the_late_holder_writes(
    server: PostgresServer, url: str, schema: str
) -> None:
    late(server, url, schema, fenced=False)
    late(server, url, schema, fenced=True, commits=False)


# -- all together -----------------------------------------------------------------------------------------------------


class Ledger:
    """A count that is read and written in two steps, and the tokens under which it was."""

    def __init__(self, shelf: Held) -> None:
        self.shelf = shelf
        shelf.run("CREATE TABLE %S.ledger (count integer, token bigint)")
        shelf.run("INSERT INTO %S.ledger VALUES (0, 0)")

    def add(self, connection: Any, token: int) -> None:
        query = f'SELECT count FROM "{self.shelf.schema}".ledger ORDER BY count DESC LIMIT 1'  # noqa: S608 - ours
        (count,) = connection.execute(query.encode()).fetchone()
        threading.Event().wait(0.002)
        insert = f'INSERT INTO "{self.shelf.schema}".ledger VALUES (%s, %s)'  # noqa: S608 - our schema
        connection.execute(insert.encode(), [count + 1, token])

    def is_right(self) -> bool:
        """Each count once, and under a larger token than the one before."""
        rows = self.shelf.run("SELECT count, token FROM %S.ledger ORDER BY count, token")
        counts, tokens = zip(*rows, strict=True)
        return list(counts) == list(range(len(rows))) and list(tokens) == sorted(set(tokens))


def mingled(shelf: Held, url: str, turns: int) -> bool:
    """Leases and transactions of many connections, some rolled back; whether each turn saw the one before."""
    ledger = Ledger(shelf)

    def leases() -> None:
        with Client(url) as client, psycopg.connect(shelf.server.url, autocommit=True) as connection:
            for _ in range(turns):
                with client.lock("n", wait=60) as lease:
                    ledger.add(connection, lease.token)
                threading.Event().wait(0.03)  # or no transaction ever finds the queue empty

    def transactions() -> None:
        with Blocking(shelf.server.url) as own:
            for turn in range(turns):
                token = shelf.hold(own, wait=60.0)
                ledger.add(own.connection, token)
                (own.rollback if turn % 4 == 3 else own.commit)()

    threads = [Attempt(each) for each in (leases, transactions) * 3]
    assert [thread.end() for thread in threads] == [None] * 6
    return ledger.is_right()


def test_leases_and_transactions_together_lose_no_update(shelf: Held, url: str) -> None:
    assert mingled(shelf, url, 20)


@pytest.mark.parametrize("changes", [[GRANTS_WHATEVER], SEES_NO_CLAIM], ids=["steps", "transactions"])
def test_positive_control_with_one_side_blind_they_do(shelf: Held, url: str, changes: Any) -> None:
    shelf.replace(*changes)
    assert not mingled(shelf, url, 20)
