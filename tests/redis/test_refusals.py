"""What a server says instead of an answer: each refusal ends in a typed error, and all is well when it is over."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

from tenure import Client, IncompatibleStore, LossReason, OutcomeUnknown, StoreUnavailable, TenureError, UnsafeSetup
from tenure.engines.redis import scripts
from tenure.engines.redis.life import SPOKEN
from tenure.model import LeaseState
from tenure.observe.events import Lost, Renewed, Suspect
from tenure.runtimes import native
from tests.faces.watched import Attempt, Looped, Told, has_paid, waits
from tests.redis.rig import listens
from tests.servers import redis
from tests.servers.processes import HOST, until
from tests.servers.redis import RedisServer
from tests.servers.resp import ReplyError
from tests.timing import SLACK, Bound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faces.watched import AnyClient
    from tests.servers.redis import Program

pytestmark = pytest.mark.skipif(redis.missing() is not None, reason=redis.missing() or "")

TTL: Final = 1.8
PERIOD: Final = TTL / 3
LONG: Final = 60.0


@pytest.fixture
def server() -> Iterator[RedisServer]:
    extra = [
        "busy-reply-threshold 50",
        "loading-process-events-interval-bytes 1024",
        # The folder of the snapshots is one of the guarded settings.
        "enable-protected-configs yes",
    ]
    with RedisServer(persistence="rdb", extra=extra) as server:
        yield server


# -- troubles that pass -----------------------------------------------------------------------------------------------


def says(server: RedisServer, code: str, *words: str) -> bool:
    """Whether a command is refused with a code."""
    try:
        server.cli(*words)
    except ReplyError as error:
        return str(error).startswith(code)
    return False


@contextlib.contextmanager
def busy(server: RedisServer) -> Iterator[None]:
    """A script of somebody else's that does not end."""
    with server.connect() as connection:
        connection.send("EVAL", "while true do end", "0")
        until(lambda: says(server, "BUSY", "PING"), "the server is busy")
        try:
            yield
        finally:
            server.cli("SCRIPT", "KILL")
            with pytest.raises(ReplyError, match="killed"):
                connection.read()


@contextlib.contextmanager
def loading(server: RedisServer) -> Iterator[None]:
    """A restart with much to load."""
    server.cli("DEBUG", "POPULATE", "20000")
    server.cli("CONFIG", "SET", "key-load-delay", "500")
    server.cli("CONFIG", "REWRITE")
    server.cli("SAVE")
    server.kill()
    server.spawn()
    until(lambda: says(server, "LOADING", "DBSIZE"), "the server loads")
    try:
        yield
    finally:
        server.cli("CONFIG", "SET", "key-load-delay", "0")
        server.wait_ready()


@contextlib.contextmanager
def demoted(server: RedisServer) -> Iterator[None]:
    server.cli("REPLICAOF", "127.0.0.1", "1")
    try:
        yield
    finally:
        server.cli("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def masterless(server: RedisServer) -> Iterator[None]:
    server.cli("CONFIG", "SET", "replica-serve-stale-data", "no")
    with demoted(server):
        yield


@contextlib.contextmanager
def full(server: RedisServer) -> Iterator[None]:
    server.cli("CONFIG", "SET", "maxmemory", "1")
    try:
        yield
    finally:
        server.cli("CONFIG", "SET", "maxmemory", "0")


@contextlib.contextmanager
def diskless(server: RedisServer) -> Iterator[None]:
    """The folder of its snapshots is gone."""
    gone = os.path.join(server.folder, "gone")
    os.mkdir(gone)
    server.cli("CONFIG", "SET", "dir", gone)
    os.rmdir(gone)
    server.cli("BGSAVE")
    until(lambda: says(server, "MISCONF", "SET", "k", "v"), "the server refuses to write")
    try:
        yield
    finally:
        server.cli("CONFIG", "SET", "dir", server.folder)
        server.cli("SAVE")


@contextlib.contextmanager
def disk_full(server: RedisServer) -> Iterator[None]:
    """Its append-only file cannot grow: what it asks the kernel to write fails, as on a full disk."""
    server.cli("CONFIG", "SET", "appendonly", "yes")
    until(lambda: server.info("persistence")["aof_rewrite_in_progress"] == "0", "its file is complete")
    before = resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    until(lambda: says(server, "MISCONF", "SET", "k", "v"), "the server refuses to write")
    try:
        yield
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, before)
        until(lambda: not says(server, "MISCONF", "SET", "k", "v"), "it writes again")
        server.cli("CONFIG", "SET", "appendonly", "no")


TROUBLES: Final[dict[str, Callable[[RedisServer], contextlib.AbstractContextManager[None]]]] = {
    "BUSY": busy,
    "LOADING": loading,
    "READONLY": demoted,
    "MASTERDOWN": masterless,
    "OOM": full,
    "MISCONF": diskless,
    "MISCONF, a full disk": disk_full,
}


def held_through(server: RedisServer, told: Told, name: str, client: AnyClient, keeper: Client) -> None:
    code = name.partition(",")[0]
    lease = keeper.lock("held").acquire()
    released = client.lock("released").acquire()
    with TROUBLES[name](server):
        begun = native.now()
        # The connection that a restart cut may first have to tell.
        with pytest.raises((StoreUnavailable, OutcomeUnknown)) as caught:
            client.lock("n", wait=0.3).acquire()
        assert native.now() - begun < Bound(1.5)
        if isinstance(caught.value, StoreUnavailable):
            assert code in str(caught.value)
        with pytest.raises(StoreUnavailable, match=code):
            client.lock("n", wait=0).acquire()
        released.release()  # raises nothing: the keeper repeats it
        if name == "OOM":
            assert keeper.names() == ["held"], "what gives memory back is not refused for the lack of it"
        if name != "OOM":
            told.wait(Suspect)
        assert lease.held
    over = native.now()
    at = told.wait(Renewed, over)
    print(f"{name}: renewed {at - over:.3f} s after it was over, ttl {TTL:g} s")
    assert at - over < PERIOD + SLACK
    assert lease.held
    assert lease.state is LeaseState.HELD
    until(lambda: has_paid(client), "the keeper has paid")
    assert keeper.names() == ["held"]
    for one in ("n", "released"):
        again = client.lock(one, wait=5).acquire()
        assert again.token > released.token
        again.release()
    lease.release()


@pytest.mark.parametrize("name", TROUBLES)
@pytest.mark.parametrize("face", [Client, Looped])
def test_a_refusal_is_typed_costs_no_lease_and_passes(server: RedisServer, name: str, face: Any) -> None:
    told = Told()
    with face(server.url, ttl=TTL) as client, Client(server.url, ttl=TTL, on_event=told) as keeper:
        client.lock("warm").acquire().release()
        held_through(server, told, name, client, keeper)


def test_a_full_server_goes_on_renewing_and_closing(server: RedisServer) -> None:
    told = Told()
    with Client(server.url, ttl=0.6, on_event=told) as client:
        lease = client.lock("n").acquire()
        with full(server):
            since = native.now()
            with pytest.raises(StoreUnavailable, match="OOM"):
                client.lock("more").acquire()
            until(lambda: told.count(Renewed) >= 4 or told.at(Lost), "renewed beyond its first deadline")
            assert native.now() - since > 0.6
            assert lease.held
            assert not told.at(Suspect)
            lease.release()
            until(lambda: has_paid(client), "also what was abandoned is closed")
            assert client.names() == []


def test_a_trouble_that_outlasts_the_deadline_costs_the_lease(server: RedisServer) -> None:
    told = Told()
    with Client(server.url, ttl=0.6, on_event=told) as client:
        lease = client.lock("n").acquire()
        with demoted(server):
            at = told.wait(Lost)
            assert lease.lost is LossReason.DEADLINE
            assert lease.deadline <= at < lease.deadline + 0.1
        with client.lock("n", wait=5) as again:
            assert again.token > lease.token


def test_forgotten_scripts_are_sent_again(server: RedisServer) -> None:
    told = Told()
    with Looped(server.url, ttl=TTL) as looped, Client(server.url, ttl=TTL, on_event=told) as client:
        held = client.lock("held").acquire()
        for one in (client, looped):
            server.cli("SCRIPT", "FLUSH")
            lease = one.lock("n").acquire()
            server.cli("SCRIPT", "FLUSH")
            lease.release()
        server.cli("SCRIPT", "FLUSH")
        assert client.names() == ["held"]
        server.cli("SCRIPT", "FLUSH")
        told.wait(Renewed, native.now())
        assert not told.at(Suspect)
        held.release()


# -- troubles that last -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["redis", "redis-6.2", "valkey"])
@pytest.mark.parametrize("right", ["time", "hset", "exists"])
def test_a_right_that_the_first_script_lacks_is_told_at_once(program: Program, right: str) -> None:
    """In another script it may have come half-way, and then nobody knows what became of the request."""
    if reason := redis.missing(program):
        pytest.skip(reason)
    with RedisServer(program=program, users={"app": f"on >x ~* &* +@all -{right}"}) as server:
        begun = native.now()
        with pytest.raises(UnsafeSetup, match="`tenure doctor` says which"), Client(server.url_as("app", "x")):
            pass
        assert native.now() - begun < Bound(2.0)


def test_a_server_that_says_yes_to_everything_is_no_redis_server() -> None:
    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    while said := connection.recv(65_536):
                        connection.sendall(b"+OK\r\n" * (said.count(b"\r\n*") + 1))

    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        with (
            pytest.raises(IncompatibleStore, match="this is no Redis server"),
            Client(f"redis://{HOST}:{listener.getsockname()[1]}"),
        ):
            pass


# -- waiters ----------------------------------------------------------------------------------------------------------


def refused_waits(server: RedisServer, client: AnyClient, witness: Client) -> int:
    """How many connections a waiter makes in half a second, while its mailbox is refused."""
    attempt: Attempt[Any] = Attempt(client.lock("n", wait=1.0).acquire)
    waits(witness, "n")
    before = int(server.info("stats")["total_connections_received"])
    threading.Event().wait(0.5)
    made = int(server.info("stats")["total_connections_received"]) - before
    assert isinstance(attempt.end(), TenureError)
    return made


@pytest.mark.parametrize("face", [Client, Looped])
def test_a_waiter_whose_mailbox_is_refused_does_not_storm_the_server(face: Any) -> None:
    users = {"app": "on >x ~* &* +@all -blpop"}
    with RedisServer(users=users) as server:
        url = server.url_as("app", "x")
        with Client(url, ttl=LONG) as holder, face(url, ttl=TTL) as client:
            held = holder.lock("n").acquire()
            made = refused_waits(server, client, holder)
            print(f"{made} connections in half a second")
            assert made < 25
            # Without a mailbox the next heartbeat lists the grant.
            attempt: Attempt[Any] = Attempt(client.lock("n", wait=10).acquire)
            waits(holder, "n")
            begun = native.now()
            held.release()
            attempt.outcome().release()
            assert attempt.ended_at - begun < PERIOD + SLACK


def test_a_waiter_hears_again_after_its_server_was_demoted_for_a_while(server: RedisServer) -> None:
    with Client(server.url, ttl=LONG) as holder, Client(server.url, ttl=LONG) as client:
        held = holder.lock("n").acquire()
        attempt = Attempt(client.lock("n", wait=20).acquire)
        waits(holder, "n")
        listens(server)
        with demoted(server):
            until(lambda: server.info("clients")["blocked_clients"] == "0", "its mailbox is refused")
        listens(server)
        begun = native.now()
        held.release()
        attempt.outcome().release()
        assert attempt.ended_at - begun < SLACK


# -- genesis ---------------------------------------------------------------------------------------------------------

GENESIS: Final = "{tenure:0}:genesis"


def everything(server: RedisServer) -> dict[str, str]:
    """All keys, as they are."""
    return {key: server.cli("DUMP", key) for key in server.cli("KEYS", "*")}


@pytest.mark.parametrize("face", [Client, Looped])
@pytest.mark.parametrize(
    ("field", "value", "says", "in_force"),
    [
        ("format", "99", "format 99", 99),
        ("format", "two", "format two", None),
        ("partitions", "8", "8 partitions", 1),
        ("last", "soon", "damaged", 1),
    ],
)
def test_a_genesis_record_that_is_not_understood_is_refused_and_nothing_is_touched(
    server: RedisServer, face: Any, field: str, value: str, says: str, in_force: int | None
) -> None:
    with Client(server.url) as client, client.lock("n"):
        pass
    server.cli("HSET", GENESIS, field, value)
    before = everything(server)
    with pytest.raises(IncompatibleStore, match=says) as refused, face(server.url):
        pass
    assert (refused.value.in_force, refused.value.spoken) == (in_force, SPOKEN)
    assert everything(server) == before


@pytest.mark.parametrize("step", scripts.STEPS)
@pytest.mark.parametrize(("field", "value"), [("format", "99"), ("id", "another")])
def test_every_script_compares_format_and_id_before_it_touches_anything(
    server: RedisServer, step: str, field: str, value: str
) -> None:
    """Rule B12: in a roll-out the format is raised under clients that are at work."""
    with Client(server.url) as client, client.lock("n"):
        pass
    text = scripts.script(step).by_text[1]
    arguments = ["1", GENESIS, "1", server.cli("HGET", GENESIS, "id"), *["0"] * 12]
    server.cli("HSET", GENESIS, field, value)
    before = everything(server)
    assert server.cli("EVAL", text, *arguments)[0] == "genesis"
    assert everything(server) == before
    # The control: without the comparison the script goes on.
    compares = b"if genesis[1] ~= ARGV[1] or genesis[2] ~= ARGV[2] then"
    assert text.count(compares) == 1
    with contextlib.suppress(ReplyError):
        assert server.cli("EVAL", text.replace(compares, b"if false then"), *arguments)[0] != "genesis"


def test_a_format_that_is_raised_stops_the_next_step_and_costs_no_lease_at_once(server: RedisServer) -> None:
    with Client(server.url, ttl=LONG) as client:
        lease = client.lock("a").acquire()
        server.cli("HSET", GENESIS, "format", "99")
        before = everything(server)
        for ask in (client.lock("b").acquire, lambda: client.inspect("a"), lambda: client.steal("a", lease.token)):
            with pytest.raises(IncompatibleStore, match="format 99"):
                ask()
        assert everything(server) == before
        server.cli("HSET", GENESIS, "format", "1")
        lease.check()
        lease.release()
        assert client.names() == []


# -- secrets ----------------------------------------------------------------------------------------------------------

SECRET: Final = "correct-horse"  # noqa: S105 - a test's
WRONG: Final = "battery-staple"


def words_of(error: BaseException | None) -> str:
    """All that an error and its causes say."""
    said = []
    while error is not None:
        said += [str(error), repr(error), repr(error.args), *getattr(error, "__notes__", [])]
        error = error.__cause__ or error.__context__
    return " ".join(said)


@pytest.mark.parametrize("face", [Client, Looped])
def test_no_password_is_shown(face: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    users = {"app": f"on >{SECRET} ~* &* +@all"}
    with RedisServer(password=SECRET, users=users) as server:
        for user in ("", "app"):
            with pytest.raises(UnsafeSetup) as caught, face(server.url_as(user, WRONG)):
                pass
            said = words_of(caught.value)
            assert "WRONGPASS" in said
            assert WRONG not in said
        with face(server.url_as("app", SECRET), ttl=0.6) as client:
            lease = client.lock("n").acquire()
            assert SECRET not in repr(getattr(client, "client", client))
            assert SECRET not in repr(lease)
            # Its password is changed in mid-life: what it is told is logged.
            server.cli("ACL", "SETUSER", "app", "resetpass", ">other")
            server.cli("CLIENT", "KILL", "USER", "app")
            until(lambda: lease.lost, "its deadline has passed")
            with pytest.raises(UnsafeSetup) as refused:
                client.lock("n", wait=0).acquire()
            assert SECRET not in words_of(refused.value)
        assert "renewal failed" in caplog.text
        assert SECRET not in caplog.text
        assert WRONG not in caplog.text
