"""What a step reads, draws and judges after it has waited (rule C2); each trap was met on a real server."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from typing import TYPE_CHECKING

import psycopg
import pytest

from tenure import Client, StoreUnavailable, UnsafeSetup
from tenure.engines.postgres.link import Cut, dial, wait_here
from tenure.ports import ClaimRef, Standing
from tenure.runtimes.blocking import run
from tests.faces.watched import Attempt
from tests.postgres.rig import LONG, Shelf, locked, waits_for_a_lock
from tests.servers import clock, pgbouncer
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import PostgresServer
from tests.timing import Bound, in_time

if TYPE_CHECKING:
    from collections.abc import Iterator


def waited(shelf: Shelf) -> tuple[float, float]:
    """Enter a claim whose name's row is locked by a stranger for a while.

    Returns:
        By how much its number, and the end of its session less its ttl, are later than the end of the wait: seconds.
    """
    shelf.close("first", 1, "n", shelf.enter("first", 1, "n").number)
    with locked(shelf.server, shelf.schema, "names", "n"):
        attempt = Attempt(lambda: shelf.enter("second", 1, "n", ttl=LONG))
        waits_for_a_lock(shelf.server)
        time.sleep(0.3)
        ((now,),) = shelf.run("SELECT extract(epoch FROM clock_timestamp())::float8")
    place = attempt.outcome()
    ((until_us,),) = shelf.run("SELECT until_us FROM %S.sessions WHERE id = 'second'")
    return place.number / 1e6 - now, until_us / 1e6 - LONG - now


def test_numbers_and_times_are_from_after_the_wait(shelf: Shelf) -> None:
    number_late, until_late = waited(shelf)
    assert number_late > 0
    assert until_late > 0


def test_positive_control_a_clock_that_is_read_before_the_wait_is_found_out(shelf: Shelf) -> None:
    shelf.replace(
        ("    last_number := lock_name(p_name);\n", "    at := now_us();\n    last_number := lock_name(p_name);\n"),
        (
            "        at := now_us();\n        IF FOUND THEN\n            IF s.ended",
            "        IF FOUND THEN\n            IF s.ended",
        ),
    )
    number_late, until_late = waited(shelf)
    assert number_late < 0
    assert until_late < 0


# -- a heartbeat that is not committed yet ----------------------------------------------------------------------------


def beaten(shelf: Shelf) -> tuple[Standing, bool]:
    """A holder's heartbeat is under way while its session seems to be over; then it is answered: it lives.

    Returns:
        Where the waiter behind it stands afterwards, and whether the holder's claim does.
    """
    held = shelf.enter("holder", 1, "n", ttl=0.3)
    waits = shelf.enter("waiter", 1, "n")
    mine = ClaimRef("waiter", 1, "n", waits.number)
    with psycopg.connect(shelf.server.url) as beating:
        query = f'SELECT "{shelf.schema}".heartbeat(1, %s, %s, 9000, %s, 60000000, false)'
        row = beating.execute(query.encode(), [shelf.store._known.id, "", "holder"]).fetchone()
        assert row is not None
        in_time(row[0][0] == "lives", "the heartbeat, before the session is over")
        time.sleep(0.4)
        look = Attempt(lambda: run(shelf.store.look(mine, 5.0)))
        time.sleep(0.2)
        beating.commit()
    look.outcome()
    (stands,) = run(shelf.store.standing([ClaimRef("holder", 1, "n", held.number)], 5.0))
    return run(shelf.store.look(mine, 5.0)).standing, stands


def test_a_heartbeat_in_mid_commit_is_not_taken_for_dead(shelf: Shelf) -> None:
    assert beaten(shelf) == (Standing.WAITS, True)


def test_positive_control_judged_by_a_plain_read_it_is(shelf: Shelf) -> None:
    shelf.replace(("ELSE 0 END <= at\n        FOR UPDATE SKIP LOCKED;", "ELSE 0 END <= at;"))
    assert beaten(shelf) == (Standing.HOLDS, False)


def test_a_session_whose_row_is_locked_is_looked_at_again_soon_and_not_for_ever(shelf: Shelf) -> None:
    shelf.enter("holder", 1, "n", ttl=0.2)
    number = shelf.enter("waiter", 1, "n").number
    mine = ClaimRef("waiter", 1, "n", number)
    time.sleep(0.25)
    with locked(shelf.server, shelf.schema, "sessions", "holder"):
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        place = run(shelf.store.look(mine, 5.0))
        assert place.standing is Standing.WAITS
        assert 0.01 < place.peers[0].due - before < Bound(0.1)
    assert run(shelf.store.look(mine, 5.0)).standing is Standing.HOLDS


# -- isolation --------------------------------------------------------------------------------------------------------


@pytest.fixture
def repeatable(server: PostgresServer) -> Iterator[None]:
    server.run("ALTER ROLE tenure SET default_transaction_isolation = 'repeatable read'")
    yield
    server.run("ALTER ROLE tenure RESET default_transaction_isolation")


@pytest.mark.usefixtures("repeatable")
def test_another_default_isolation_is_overridden_on_a_connection_of_our_own(
    server: PostgresServer, schema: str
) -> None:
    shelf = Shelf(server, schema)
    assert shelf.enter("s", 1, "n").standing is Standing.HOLDS
    shelf.wire.shut()


@pytest.mark.usefixtures("repeatable")
def test_another_default_isolation_that_cannot_be_overridden_is_refused(server: PostgresServer, schema: str) -> None:
    shelf = Shelf(server, schema, options="")
    with pytest.raises(UnsafeSetup, match="ALTER ROLE"):
        shelf.enter("s", 1, "n")
    assert shelf.run("SELECT count(*) FROM %S.names") == [(0,)]
    shelf.wire.shut()


@pytest.mark.skipif(pgbouncer.missing() is not None, reason=str(pgbouncer.missing()))
@pytest.mark.usefixtures("repeatable")
def test_a_pooler_in_between_makes_no_difference_to_that(server: PostgresServer, schema: str) -> None:
    with (
        PgBouncer(server) as pooler,
        Client(f"{pooler.url}?schema={schema}&create=yes") as client,
        pytest.raises(UnsafeSetup, match="ALTER ROLE"),
    ):
        client.lock("n").acquire()


# -- answers ----------------------------------------------------------------------------------------------------------


def test_rows_whose_commit_fails_are_no_answer(shelf: Shelf) -> None:
    shelf.run(
        "CREATE FUNCTION %S.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not at the commit'; END $$"
    )
    shelf.run(
        "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON %S.claims DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION %S.refuse()"
    )
    with pytest.raises(StoreUnavailable, match="not at the commit"):
        shelf.enter("s", 1, "n")
    assert shelf.run("SELECT count(*) FROM %S.claims") == [(0,)]


def _drip(source: socket.socket, sink: socket.socket) -> None:
    while data := source.recv(4096):
        for byte in data:
            sink.sendall(bytes([byte]))
            time.sleep(0.0002)


def test_an_answer_that_comes_in_pieces_is_one(server: PostgresServer) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    ends: list[socket.socket] = []

    def serve() -> None:
        theirs, _ = listener.accept()
        ours = socket.create_connection(("127.0.0.1", server.port))
        theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ends.extend((theirs, ours))
        threading.Thread(target=_drip, args=(theirs, ours), daemon=True).start()
        _drip(ours, theirs)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    link = dial(f"postgresql://tenure@127.0.0.1:{listener.getsockname()[1]}/postgres", 20.0, wait_here)
    assert json.loads(link.ask(b"SELECT json_build_array(1, $1::text)", [b"two"], 10.0, wait_here).value) == [1, "two"]
    assert link.ask(b"SELECT nothing", [], 10.0, wait_here).state == "42703"
    assert link.ask(b"SELECT 1", [], 10.0, wait_here).value == b"1"
    link.close()
    thread.join(10)
    for end in (*ends, listener):
        end.close()


def test_what_certainly_had_no_effect_and_may_pass_is_tried_again(shelf: Shelf) -> None:
    shelf.run("CREATE SEQUENCE %S.tries")
    shelf.run(
        "CREATE FUNCTION %S.refuse() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS "
        "$$ BEGIN IF nextval('%S.tries') < 3 THEN RAISE serialization_failure; END IF; RETURN NEW; END $$"
    )
    shelf.run("CREATE TRIGGER refuse BEFORE INSERT ON %S.claims FOR EACH ROW EXECUTE FUNCTION %S.refuse()")
    place = shelf.enter("s", 1, "n")
    assert place.standing is Standing.HOLDS
    shelf.run("ALTER SEQUENCE %S.tries RESTART")
    shelf.run("ALTER SEQUENCE %S.tries INCREMENT BY -1 MINVALUE -100000")
    with pytest.raises(StoreUnavailable, match="several times"):
        shelf.enter("s", 2, "m")


def test_a_stranger_who_locks_a_name_costs_a_certain_no_and_leaves_nobody_waiting(shelf: Shelf) -> None:
    shelf.close("s", 1, "n", shelf.enter("s", 1, "n").number)
    with locked(shelf.server, shelf.schema, "names", "n"):
        for claim in range(2, 8):
            begun = time.monotonic()
            with pytest.raises(StoreUnavailable, match="row of this name locked"):
                run(shelf.store.look(ClaimRef("s", claim, "n", 0), 0.3))
            assert time.monotonic() - begun < Bound(0.6)
            beat = run(shelf.store.heartbeat("s", LONG, False, 5.0))
            assert not beat.over
        assert len(shelf.links) == 1, "the connection is as good as before"
        assert shelf.run("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == [(0,)]


def test_a_statement_timeout_of_somebody_elses_is_a_certain_no(server: PostgresServer, schema: str) -> None:
    server.run("ALTER ROLE tenure SET statement_timeout = '150ms'")
    try:
        shelf = Shelf(server, schema)
        shelf.close("s", 1, "n", shelf.enter("s", 1, "n").number)
        with locked(server, schema, "names", "n"), pytest.raises(StoreUnavailable, match="57014"):
            shelf.enter("s", 2, "n")
        assert shelf.enter("s", 3, "n").standing is Standing.HOLDS
        shelf.wire.shut()
    finally:
        server.run("ALTER ROLE tenure RESET statement_timeout")


def test_a_server_that_takes_no_writes_is_looked_for_anew(server: PostgresServer, schema: str) -> None:
    shelf = Shelf(server, schema)
    server.run("ALTER ROLE tenure SET default_transaction_read_only = on")
    try:
        shelf.wire.forget()
        with pytest.raises(StoreUnavailable, match="no writes"):
            shelf.enter("s", 1, "n")
    finally:
        server.run("BEGIN READ WRITE; ALTER ROLE tenure RESET default_transaction_read_only; COMMIT")
    assert shelf.enter("s", 1, "n").standing is Standing.HOLDS
    shelf.wire.shut()


def test_a_connection_that_was_cut_says_so(shelf: Shelf) -> None:
    shelf.enter("s", 1, "n")
    (link,) = shelf.links
    shelf.run("SELECT pg_terminate_backend(%s)", link.backend_pid)
    time.sleep(0.2)
    assert link.is_stale()
    with contextlib.suppress(Cut):
        # The server's farewell, or the end behind it, as it comes.
        assert link.ask(b"SELECT 1", [], 5.0, wait_here).is_fatal


# -- numbers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clocked() -> Iterator[PostgresServer]:
    if reason := clock.missing():
        pytest.skip(reason)
    with PostgresServer(clock=True) as server:
        yield server


def collected(shelf: Shelf) -> tuple[int, int]:
    """The last number before a name's row is collected and the clock set back, and the first after it."""
    before = shelf.enter("s", 1, "n").number
    shelf.close("s", 1, "n", before)
    assert run(shelf.store.collect(5.0, 0.0)) == 1
    assert shelf.run("SELECT count(*) FROM %S.names") == [(0,)]
    shelf.server.clock.jump(-3600.0)
    try:
        return before, shelf.enter("t", 1, "n").number
    finally:
        shelf.server.clock.jump(3600.0)


def test_numbers_rise_over_the_collection_of_their_row(clocked: PostgresServer, schema: str) -> None:
    before, after = collected(Shelf(clocked, schema))
    assert after > before


def test_positive_control_a_row_that_begins_at_nothing_falls_back(clocked: PostgresServer, schema: str) -> None:
    shelf = Shelf(clocked, schema)
    shelf.replace(("SET last = (SELECT retired FROM genesis)", "SET last = 0"))
    before, after = collected(shelf)
    assert after < before


def test_a_name_that_is_held_or_was_used_lately_is_not_collected(shelf: Shelf) -> None:
    shelf.enter("s", 1, "held")
    shelf.close("s", 2, "used", shelf.enter("s", 2, "used").number)
    assert run(shelf.store.collect(5.0, 60.0)) == 0
    assert run(shelf.store.collect(5.0, 0.0)) == 1
    assert shelf.run("SELECT name FROM %S.names") == [("held",)]


def crashed(server: PostgresServer, shelf: Shelf) -> tuple[int, int]:
    """The last number before a crash that forgets it, with the clock set back, and the first after it."""
    before = 0
    for claim in range(1, 20):
        before = shelf.enter("s", claim, "n").number
        shelf.close("s", claim, "n", before)
    server.restart()
    server.clock.jump(-3600.0)
    try:
        after = shelf.enter("t", 1, "n").number
    finally:
        server.clock.jump(3600.0)
    return before, after


# The log is not written but when it is asked for, so that a kill loses what was not synced.
LAZY = ["wal_writer_delay=10s", "wal_writer_flush_after=1GB"]


def test_numbers_rise_over_a_crash_that_forgets_commits_which_were_not_synced(schema: str) -> None:
    if reason := clock.missing():
        pytest.skip(reason)
    with PostgresServer(clock=True, fsync=True, extra=LAZY) as server:
        shelf = Shelf(server, schema, commits="off")
        before, after = crashed(server, shelf)
        assert after > before
        assert shelf.run("SELECT base > 0 FROM %S.genesis") == [(True,)]


def test_positive_control_without_a_ceiling_that_is_synced_they_fall(schema: str) -> None:
    if reason := clock.missing():
        pytest.skip(reason)
    with PostgresServer(clock=True, fsync=True, extra=LAZY) as server:
        shelf = Shelf(server, schema, commits="off")
        shelf.replace(("AND current_setting('synchronous_commit') = 'off' THEN", "AND false THEN"))
        before, after = crashed(server, shelf)
        assert after < before


# -- what waits for the disk ------------------------------------------------------------------------------------------


def granted_over_a_crash(shelf: Shelf) -> bool:
    """Whether a grant that a release has told stands after a crash that loses what was not synced."""
    first = shelf.enter("first", 1, "n")
    waits = shelf.enter("second", 1, "n")
    assert waits.standing is Standing.WAITS
    assert shelf.close("first", 1, "n", first.number)
    shelf.server.restart()
    return run(shelf.store.standing([ClaimRef("second", 1, "n", waits.number)], 5.0))[0]


def test_a_grant_is_synced_before_it_is_told_and_what_was_before_it_too(schema: str) -> None:
    with PostgresServer(fsync=True, extra=LAZY) as server:
        assert granted_over_a_crash(Shelf(server, schema))


def test_positive_control_a_grant_that_is_not_synced_is_lost(schema: str) -> None:
    with PostgresServer(fsync=True, extra=LAZY) as server:
        shelf = Shelf(server, schema)
        told = "            PERFORM settle(p_name, at, p_number, '');\n            PERFORM relax();\n        END IF;\n"
        shelf.replace((told, f"{told}        _ := set_config('synchronous_commit', 'off', true);\n"))
        shelf.enter("other", 1, "m")  # so that not everything is lost
        assert not granted_over_a_crash(shelf)


def extended_over_a_crash(shelf: Shelf) -> bool:
    """Whether a session lives on that was extended by a claim which waits, and then came a crash."""
    shelf.enter("holder", 1, "n")
    shelf.enter("waiter", 1, "m", ttl=3.0)
    assert shelf.enter("waiter", 2, "n", ttl=LONG, opening=False, extend=True).standing is Standing.WAITS
    shelf.server.restart()
    ((left,),) = shelf.run(
        "SELECT until_us / 1e6 - extract(epoch FROM clock_timestamp()) FROM %S.sessions WHERE id = 'waiter'"
    )
    return bool(left > 10)


def test_an_extended_session_is_synced_whatever_else_is_not(schema: str) -> None:
    with PostgresServer(fsync=True, extra=LAZY) as server:
        assert extended_over_a_crash(Shelf(server, schema))


def test_positive_control_an_extension_that_is_not_synced_is_lost(schema: str) -> None:
    with PostgresServer(fsync=True, extra=LAZY) as server:
        shelf = Shelf(server, schema)
        shelf.replace(("                is_extended := true;\n", ""))
        assert not extended_over_a_crash(shelf)


def test_a_release_that_a_crash_brought_back_is_repeated_by_its_client(schema: str) -> None:
    with PostgresServer(fsync=True, extra=LAZY) as server:
        url = f"{server.url}?schema={schema}&create=yes"
        # A renewal after the start, which a busy machine makes slow, in time for the lease and for whoever waits.
        with Client(url, ttl=15.0) as client, Client(url) as other:
            kept = client.lock("kept").acquire()
            client.lock("n").acquire().release()
            server.restart()
            assert client.names() == ["kept", "n"], "the release was synced: this test shows nothing"
            with other.lock("n", wait=14.0):
                assert kept.held
            kept.release()
