"""What a replica has not acknowledged is not handed out, nor extended: `?acknowledge=1`, on a master with a replica.

The replica stands still or is cut off, so that what the master does is not in it.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import pytest

from tenure import Client, LossReason, OutcomeUnknown, UnsafeSetup
from tenure.engines.redis import scripts
from tenure.engines.redis.engine import RedisEngine
from tenure.engines.redis.engine_cluster import ClusterEngine
from tenure.engines.redis.life import Life
from tenure.engines.redis.store import RedisStore
from tenure.model import EXCLUSIVE
from tenure.observe.events import Lost, Renewed, Suspect
from tenure.ports import Entry, SessionCard, Standing
from tenure.runtimes import native
from tenure.runtimes.blocking import run
from tests.faces.watched import LONG, Attempt, Looped, Told, has_paid, waits
from tests.redis.rig import TTL, listens, socket_wire
from tests.servers import redis
from tests.servers.processes import PATIENCE, until
from tests.servers.redis import RedisServer
from tests.servers.redis_cluster import RedisCluster
from tests.servers.redis_sentinels import Sentinels
from tests.timing import SLACK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.redis import Program

pytestmark = pytest.mark.skipif(redis.missing() is not None, reason=redis.missing() or "")

OPTION: Final = "?acknowledge=1"
PROGRAMS: Final[tuple[Program, ...]] = ("redis", "valkey")
"""One where a connection is asked to wait for whatever was written before, and one where for what it wrote itself."""

CLUSTER: Final = "cluster"
WATCHED: Final = "sentinels"


class Pair:
    """A master and its replica.

    Attributes:
        plain: the master's URL, without the option.
        engine: of that URL.
    """

    engine: type[RedisEngine | ClusterEngine] = RedisEngine

    def __init__(self, stack: ExitStack, program: Program) -> None:
        self.master = stack.enter_context(RedisServer(program=program))
        self.replica = stack.enter_context(RedisServer(program=program, replica_of=self.master))
        self.replica.wait_replicated()
        self.plain = self.master.url

    @property
    def url(self) -> str:
        return self.plain + OPTION

    def cut(self) -> None:
        """From here on the replica follows nobody, and neither of the two can know that it is not to come back."""
        self.replica.cli("CONFIG", "SET", "masterauth", "a password that the master does not want")
        self.master.cli("CLIENT", "KILL", "TYPE", "replica")

    def fail_over(self) -> RedisServer:
        """The master is gone; the replica takes over."""
        self.master.kill()
        self.replica.cli("REPLICAOF", "NO", "ONE")
        return self.replica


class ClusterPair(Pair):
    """They are all of a cluster, in which nobody is promoted."""

    engine = ClusterEngine

    def __init__(self, stack: ExitStack) -> None:
        cluster = stack.enter_context(RedisCluster(masters=1, replicas=1, node_timeout_ms=60_000))
        (self.master,), (self.replica,) = cluster.masters, cluster.replicas
        self.replica.wait_replicated()
        self.plain = f"redis+cluster://{self.master.host}:{self.master.port}"


class WatchedPair(Pair):
    """They are found by way of sentinels, who do not mind a replica that stands still."""

    def __init__(self, stack: ExitStack) -> None:
        sentinels = stack.enter_context(Sentinels())
        self.master, self.replica = sentinels.servers
        self.replica.wait_replicated()
        hosts = ",".join(f"{host}:{port}" for host, port in sentinels.addresses)
        self.plain = f"redis+sentinel://{hosts}/{sentinels.name}"


@pytest.fixture(scope="module", params=[*PROGRAMS, CLUSTER, WATCHED])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    program: Program = request.param if request.param in PROGRAMS else "redis"
    if reason := redis.missing(program):
        pytest.skip(reason)
    with ExitStack() as stack:
        if request.param == CLUSTER:
            yield ClusterPair(stack)
        elif request.param == WATCHED:
            yield WatchedPair(stack)
        else:
            yield Pair(stack, program)


@pytest.fixture
def still(pair: Pair) -> Iterator[RedisServer]:
    """The replica, which may be stopped."""
    pair.master.cli("FLUSHALL")
    yield pair.replica
    pair.replica.cont()


@pytest.fixture
def lost_pair() -> Iterator[Pair]:
    """One that may be broken."""
    with ExitStack() as stack:
        yield Pair(stack, "redis")


@pytest.mark.parametrize("kind", [Client, Looped])
def test_a_grant_is_handed_out_once_a_replica_has_it(pair: Pair, still: RedisServer, kind: Any) -> None:
    with kind(pair.url, ttl=TTL) as client:
        client.lock("n").acquire().release()
        still.stop()
        with pytest.raises(OutcomeUnknown, match="0 of the 1 replicas"):
            client.lock("n", wait=0.1).acquire()
        until(lambda: has_paid(client), "what it may have been granted was given back")
        attempt: Attempt[Any] = Attempt(client.lock("n", wait=PATIENCE).acquire)
        since = native.now()
        until(lambda: native.now() > since + TTL / 2, "it has asked more than once")
        assert not attempt.ended_at
        still.cont()
        attempt.outcome().release()


@pytest.mark.parametrize("kind", [Client, Looped])
def test_a_server_that_has_to_learn_the_script_first_answers_in_time_too(server: RedisServer, kind: Any) -> None:
    """Else the connection were given up, and with it whatever else is under way on it."""
    with kind(server.url + OPTION, ttl=LONG) as client:
        server.cli("SCRIPT", "FLUSH")
        with pytest.raises(OutcomeUnknown, match="0 of the 1 replicas"):
            client.lock("n", wait=1).acquire()


@pytest.mark.parametrize("pair", PROGRAMS, indirect=True)
def test_with_plain_keys_too_what_is_not_acknowledged_is_not_handed_out(pair: Pair, still: RedisServer) -> None:
    with Client(f"{pair.url}&plain_key=lock:{{name}}", ttl=TTL) as client:
        client.lock("n").acquire().release()
        still.stop()
        with pytest.raises(OutcomeUnknown):
            client.lock("n", wait=0.1).acquire()
        until(lambda: has_paid(client), "what it may have been granted was given back")
        assert not pair.master.cli("EXISTS", "lock:n")
        still.cont()
        with client.lock("n", wait=PATIENCE):
            assert pair.master.cli("EXISTS", "lock:n")


def test_positive_control_without_the_option_it_is_handed_out_at_once(pair: Pair, still: RedisServer) -> None:
    with Client(pair.plain, ttl=TTL) as client:
        still.stop()
        client.lock("n", wait=0.1).acquire().release()


def is_served_without_acknowledgement(pair: Pair, still: RedisServer, kind: Any = Client) -> bool:
    """A waiter is told by mail that it holds, while the replica stands still."""
    with Client(pair.plain, ttl=LONG) as holder, kind(pair.url, ttl=LONG) as waiter:
        lease = holder.lock("n").acquire()
        attempt: Attempt[Any] = Attempt(waiter.lock("n", wait=PATIENCE).acquire)
        waits(holder, "n")
        listens(pair.master)
        # Whatever the waiter's connections have done so far is in the replica.
        with pair.master.connect() as connection:
            connection.call("SET", "mark", "1")
            assert connection.call("WAIT", 1, 5000) == 1
        still.stop()
        lease.release()
        since = native.now()
        until(lambda: native.now() > since + SLACK, "the mail has come")
        is_served = attempt.ended_at > 0
        still.cont()
        attempt.outcome().release()
        return is_served


@pytest.mark.parametrize("kind", [Client, Looped])
def test_a_grant_that_comes_by_mail_waits_for_its_acknowledgement(pair: Pair, still: RedisServer, kind: Any) -> None:
    assert not is_served_without_acknowledgement(pair, still, kind)


def test_positive_control_a_waiter_that_takes_its_mail_for_the_grant(
    pair: Pair, still: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox: Any = pair.engine.mailbox

    def trusting(self: Any, runtime: Any) -> Any:
        made: Any = mailbox(self, runtime)
        made.hints_only = False
        return made

    monkeypatch.setattr(pair.engine, "mailbox", trusting)
    assert is_served_without_acknowledgement(pair, still)


@pytest.mark.parametrize("pair", ["valkey"], indirect=True)
def test_positive_control_a_look_that_writes_nothing(
    pair: Pair, still: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is acknowledged at once, where only that counts which a connection wrote itself."""
    read = scripts._read
    monkeypatch.setattr(scripts, "_read", lambda name: read(name).replace(b"if ARGV[7] == '1' then", b"if false then"))
    scripts.script.cache_clear()
    try:
        assert is_served_without_acknowledgement(pair, still)
    finally:
        scripts.script.cache_clear()


@pytest.mark.parametrize("pair", ["valkey"], indirect=True)
@pytest.mark.parametrize("again", [True, False])
def test_a_repeat_waits_for_what_the_first_has_written(pair: Pair, still: RedisServer, again: bool) -> None:
    """`again` False is the control: a repeat that writes nothing is acknowledged at once."""
    card = SessionCard("s", LONG, "", "", "", 1)
    entry = Entry(card, True, False, 1, "tenure:n", EXCLUSIVE, 0.0, "", False, False)
    with socket_wire(pair.master) as lost, socket_wire(pair.master) as wire:
        run(RedisStore(lost, "tenure", Life(), native.now).enter(entry, 5.0))
        store = RedisStore(wire, "tenure", Life(), native.now, acknowledge=1)
        run(store.authority(5.0))
        pair.master.cli("WAIT", 1, 5000)
        still.stop()
        run(RedisStore(lost, "tenure", Life(), native.now).heartbeat("s", LONG, False, 5.0))
        repeat = entry._replace(opening=False, again=again)
        if again:
            with pytest.raises(OutcomeUnknown):
                run(store.enter(repeat, 1.0))
        else:
            assert run(store.enter(repeat, 1.0)).standing is Standing.HOLDS


def test_a_heartbeat_that_is_not_acknowledged_extends_nothing(pair: Pair, still: RedisServer) -> None:
    told = Told()
    with Client(pair.url, ttl=TTL, on_event=told) as client:
        lease = client.lock("n").acquire()
        still.stop()
        deadline = lease.deadline
        told.wait(Suspect)
        assert lease.held
        at = told.wait(Lost)
        assert lease.lost is LossReason.DEADLINE
        assert at < deadline + TTL / 3 + SLACK, "one heartbeat may have been acknowledged just before"


@pytest.mark.parametrize("pair", [CLUSTER], indirect=True)
def test_positive_control_the_keeper_of_a_cluster_that_takes_any_answer(
    pair: Pair, still: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heartbeats in all partitions are asked about once, and not each by itself."""
    monkeypatch.setattr(RedisStore, "_check_acknowledged", lambda *_: None)
    with Client(pair.url, ttl=TTL) as client:
        lease = client.lock("n").acquire()
        still.stop()
        since = native.now()
        until(lambda: native.now() > since + 1.5 * TTL, "its deadline was moved")
        assert lease.held


def test_a_replica_that_comes_back_in_time_costs_no_lease(pair: Pair, still: RedisServer) -> None:
    told = Told()
    with Client(pair.url, ttl=3 * TTL, on_event=told) as client:
        lease = client.lock("n").acquire()
        still.stop()
        told.wait(Suspect)
        still.cont()
        told.wait(Renewed, native.now())
        assert lease.held
        lease.release()


@pytest.mark.parametrize("kind", [Client, Looped])
def test_a_user_who_may_not_ask_the_replicas_is_told_at_opening(kind: Any) -> None:
    rights = "+@read +@write +@scripting +@connection +info +time -wait"
    with RedisServer(users={"app": f"on >secret ~{{tenure:* {rights}"}) as server:
        url = server.url_as("app", "secret")
        with pytest.raises(UnsafeSetup, match="wait"), kind(url + OPTION):
            pass
        with kind(url) as client:
            client.lock("n").acquire().release()


# -- a fail-over to a replica that lacks the last writes ---------------------------------------------------------------


def test_what_a_fail_over_would_lose_was_never_handed_out(lost_pair: Pair) -> None:
    with Client(lost_pair.url, ttl=LONG) as client:
        client.lock("warm").acquire().release()
        lost_pair.cut()
        with pytest.raises(OutcomeUnknown):
            client.lock("n", wait=0.1).acquire()
        with Client(lost_pair.fail_over().url) as other:
            other.lock("n").acquire().release()


def test_positive_control_without_the_option_two_hold_after_a_fail_over(lost_pair: Pair) -> None:
    with Client(lost_pair.master.url, ttl=LONG) as client:
        client.lock("warm").acquire().release()
        lost_pair.cut()
        lease = client.lock("n").acquire()
        with Client(lost_pair.fail_over().url) as other, other.lock("n", wait=1):
            assert lease.held, "two at a time"
