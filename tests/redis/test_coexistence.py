"""Beside locks of the kind SET NX PX: redis-py's Lock and tenure keep each other out, and neither starves the other."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

import pytest
import redis as redis_py

from tenure import AcquireTimeout, Client, IncompatibleStore, LeaseLost, LossReason, UsageError
from tenure.engines.redis import scripts
from tenure.engines.redis.life import Life
from tenure.engines.redis.store import RedisStore
from tenure.observe.events import Lost, Renewed
from tenure.runtimes import native
from tests.faces.watched import LONG, Attempt, Looped, Told, waits
from tests.redis.mixed_fleet import contend
from tests.redis.rig import TTL, TURN_OFF, is_told, through
from tests.servers import redis
from tests.servers.processes import PATIENCE, until
from tests.timing import SLACK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faces.watched import AnyClient
    from tests.servers.proxy import Proxy
    from tests.servers.redis import RedisServer

pytestmark = pytest.mark.skipif(redis.missing() is not None, reason=redis.missing() or "")

OPTION: Final = "?plain_key=lock:{name}"
KEY: Final = "lock:n"


@pytest.fixture
def plain(server: RedisServer) -> Iterator[redis_py.Redis]:
    with redis_py.Redis(port=server.port) as plain:
        yield plain


@pytest.fixture(params=[Client, Looped])
def client(request: pytest.FixtureRequest, server: RedisServer) -> Iterator[AnyClient]:
    with request.param(server.url + OPTION, ttl=TTL) as client:
        yield client


@pytest.fixture
def ours(server: RedisServer) -> Iterator[Client]:
    with Client(server.url + OPTION, ttl=TTL) as client:
        yield client


# -- a fleet ----------------------------------------------------------------------------------------------------------


def test_a_mixed_fleet_never_overlaps_also_when_some_are_killed(server: RedisServer) -> None:
    outcome = contend(server.url, 300, kills=2)
    if outcome.stalls:
        # Locks may have ended in the hands of those who held them: a host so busy proves nothing.
        server.cli("FLUSHALL")
        outcome = contend(server.url, 300, kills=2)
    print(outcome)
    assert outcome.overlaps == 0
    assert min(outcome.rounds.values()) > 30, "one kind starves the other"


def test_positive_control_without_plain_keys_a_mixed_fleet_overlaps(server: RedisServer) -> None:
    outcome = contend(server.url, 150, option="")
    print(outcome)
    assert outcome.overlaps > 0


# -- one and the other ------------------------------------------------------------------------------------------------


def test_whoever_holds_a_plain_key_keeps_us_out_until_he_lets_go(client: AnyClient, plain: redis_py.Redis) -> None:
    for ttl in (LONG, None):
        theirs = plain.lock(KEY, timeout=ttl)
        assert theirs.acquire(blocking=False)
        assert client.lock("n").try_acquire() is None
        attempt: Attempt[Any] = Attempt(client.lock("n", wait=PATIENCE).acquire)
        until(lambda: _waiting(plain), "it waits")
        theirs.release()
        since = native.now()
        lease = attempt.outcome()
        assert attempt.ended_at - since < 0.1 + SLACK
        lease.release()


def test_we_are_let_in_when_a_plain_key_expires_and_not_before(client: AnyClient, plain: redis_py.Redis) -> None:
    since = native.now()
    assert plain.set(KEY, "theirs", nx=True, px=700)
    lease = client.lock("n", wait=PATIENCE).acquire()
    assert 0.7 <= native.now() - since < 0.8 + SLACK
    lease.release()


def test_we_keep_out_whoever_goes_by_the_plain_key(client: AnyClient, plain: redis_py.Redis) -> None:
    theirs = plain.lock(KEY, timeout=LONG, sleep=0.01)
    for shared in (False, True):
        lease = client.lock("n", shared=shared).acquire()
        assert not theirs.acquire(blocking=False)
        lease.release()
        assert theirs.acquire(blocking=False)
        theirs.release()


def test_the_key_is_held_as_long_as_anybody_holds(ours: Client, plain: redis_py.Redis) -> None:
    first, second = (ours.lock("n", shared=True).acquire() for _ in range(2))
    first.release()
    assert not plain.set(KEY, "theirs", nx=True)
    second.release()
    assert plain.set(KEY, "theirs", nx=True)
    plain.delete(KEY)
    permits = [ours.semaphore("n", 2).acquire() for _ in range(2)]
    permits[0].release()
    assert not plain.set(KEY, "theirs", nx=True)
    permits[1].release()
    assert plain.get(KEY) is None


def test_a_lock_in_a_hash_is_honoured_too(ours: Client, plain: redis_py.Redis) -> None:
    plain.hset(KEY, "a library's uuid:1", "1")
    assert ours.lock("n").try_acquire() is None
    plain.delete(KEY)
    with ours.lock("n", wait=PATIENCE):
        assert plain.type(KEY) == b"string"


def test_the_next_in_the_queue_looks_on_when_the_first_gives_up(server: RedisServer, plain: redis_py.Redis) -> None:
    with Client(server.url + OPTION, ttl=LONG) as one, Client(server.url + OPTION, ttl=LONG) as two:
        theirs = plain.lock(KEY, timeout=LONG)
        theirs.acquire()
        first: Attempt[Any] = Attempt(one.lock("n", wait=1).acquire)
        waits(one, "n")
        second: Attempt[Any] = Attempt(two.lock("n", wait=PATIENCE).acquire)
        waits(one, "n", 2)
        assert isinstance(first.end(), AcquireTimeout)
        theirs.release()
        since = native.now()
        second.outcome().release()
        assert second.ended_at - since < 0.1 + SLACK


# -- whose time is over -----------------------------------------------------------------------------------------------


def test_a_holder_that_is_cut_off_is_told_before_the_plain_key_ends(
    server: RedisServer, proxy: Proxy, plain: redis_py.Redis
) -> None:
    told = Told()
    with Client(through(proxy) + OPTION, ttl=TTL, on_event=told) as client:
        lease = client.lock("n").acquire()
        proxy.cut()
        proxy.refuse()
        theirs = plain.lock(KEY, timeout=LONG, sleep=0.001)
        assert theirs.acquire(blocking_timeout=PATIENCE)
        taken_at = native.now()
        at = told.wait(Lost)
        assert lease.lost is LossReason.DEADLINE
        assert at < taken_at < lease.deadline + SLACK
        proxy.heal()
        # What it owes, its close above all, does not touch the key of the next.
        until(lambda: not client._core.ledger.debts, "the keeper has paid")
        assert theirs.owned()


def test_the_heartbeat_keeps_the_key(ours: Client, plain: redis_py.Redis) -> None:
    with ours.lock("n") as lease:
        since = native.now()
        until(lambda: native.now() > since + 1.5 * TTL, "the first key would be over")
        assert lease.held
        assert 0 < plain.pttl(KEY) <= TTL * 1000


# -- a key that is lost -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_taken", [False, True])
def test_who_loses_the_key_is_told_with_the_next_heartbeat(
    server: RedisServer, plain: redis_py.Redis, is_taken: bool
) -> None:
    told = Told()
    with Client(server.url + OPTION, ttl=TTL, on_event=told) as client, Client(server.url + OPTION, ttl=LONG) as other:
        lease = client.lock("n").acquire()
        bystander = client.lock("m").acquire()
        attempt: Attempt[Any] = Attempt(other.lock("n", wait=PATIENCE).acquire)
        waits(other, "n")
        since = native.now()
        plain.delete(KEY)
        if is_taken:
            assert plain.set(KEY, "theirs", nx=True)
        is_told(lease, told, since)
        assert bystander.held
        if is_taken:
            assert other.inspect("n").holders == ()
            plain.delete(KEY)
        successor = attempt.outcome()
        assert attempt.ended_at > told.at(Lost)
        assert successor.token > lease.token
        successor.release()
        bystander.release()


def test_a_release_says_that_the_key_was_lost(ours: Client, plain: redis_py.Redis) -> None:
    for taken in (False, True):
        lease = ours.lock("n").acquire()
        plain.delete(KEY)
        if taken:
            plain.set(KEY, "theirs")
        with pytest.raises(LeaseLost):
            lease.release()
        assert plain.get(KEY) == (b"theirs" if taken else None)


# -- turns ------------------------------------------------------------------------------------------------------------


class _Busy:
    """Threads that keep a queue from ever being empty."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._is_over = threading.Event()
        self._attempts = [Attempt(self._work) for _ in range(3)]

    def _work(self) -> bool:
        while not self._is_over.is_set():
            with self._client.lock("n", wait=PATIENCE):
                self._is_over.wait(0.005)
        return True

    def __enter__(self) -> None:
        until(lambda: self._client.inspect("n").waiters, "they are busy")

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for attempt in self._attempts:
            attempt.outcome()


def test_a_busy_queue_leaves_others_their_turn(ours: Client, plain: redis_py.Redis) -> None:
    with _Busy(ours):
        for _ in range(2):
            theirs = plain.lock(KEY, timeout=LONG)
            assert theirs.acquire(blocking_timeout=PATIENCE)
            theirs.release()


def test_positive_control_without_turns_others_starve(
    ours: Client, plain: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = scripts._read
    monkeypatch.setattr(
        scripts, "_read", lambda name: read(name).replace(b"local TURN = 1000000 ", b"local TURN = 1e15 ")
    )
    scripts.script_beside.cache_clear()
    try:
        with _Busy(ours):
            assert not plain.lock(KEY, timeout=LONG).acquire(blocking_timeout=3)
    finally:
        scripts.script_beside.cache_clear()


# -- who differs ------------------------------------------------------------------------------------------------------


def test_clients_never_differ_about_the_keys(server: RedisServer, plain: redis_py.Redis) -> None:
    with Client(server.url + OPTION) as first, Client(server.url) as second:
        lease = second.lock("n").acquire()
        assert plain.exists(KEY), "whoever is told nothing goes by what is in force"
        with pytest.raises(IncompatibleStore, match=r"told 'other:\{name\}'"):
            Client(server.url + "?plain_key=other:{name}").open()
        assert first.lock("n").try_acquire() is None
        lease.release()


def test_a_store_that_has_none_is_not_given_any(server: RedisServer) -> None:
    with Client(server.url) as client, client.lock("n"), pytest.raises(IncompatibleStore, match="'none'"):
        Client(server.url + OPTION).open()


# -- when the last host has moved -------------------------------------------------------------------------------------


def turn_off(server: RedisServer) -> None:
    """What the documents say."""
    assert server.cli("EVAL", TURN_OFF, "1", "{tenure:0}:genesis") == 1
    assert server.cli("EVAL", TURN_OFF, "1", "{tenure:0}:genesis") is None


@pytest.mark.parametrize("kind", [Client, Looped])
def test_plain_keys_can_be_turned_off_under_clients_that_are_at_work(
    server: RedisServer, plain: redis_py.Redis, kind: Any
) -> None:
    with Client(server.url + OPTION):
        pass
    told = Told()
    with (
        kind(server.url, ttl=TTL, on_event=told) as client,
        kind(server.url, ttl=LONG) as other,
        Client(server.url, ttl=LONG) as witness,
    ):
        lease = client.lock("n").acquire()
        assert plain.exists(KEY)
        waiter: Attempt[Any] = Attempt(other.lock("n", wait=PATIENCE).acquire)
        waits(witness, "n")
        plain.set("lock:m", "somebody else's")
        barred: Attempt[Any] = Attempt(client.lock("m", wait=PATIENCE).acquire)
        waits(witness, "m")
        assert not witness.inspect("m").holders
        turn_off(server)
        since = native.now()
        barred.outcome().release()
        assert barred.ended_at - since < 0.1 + SLACK, "nobody honours that key any more"
        told.wait(Renewed, since)
        until(lambda: not plain.exists(KEY), "nobody keeps the key any more")
        assert lease.held
        assert not told.at(Lost)
        assert not waiter.ended_at
        lease.release()
        successor = waiter.outcome()
        assert successor.token > lease.token
        successor.release()
        client.lock("n").acquire().release()
        assert not plain.exists(KEY)
        with kind(server.url) as newcomer:
            assert newcomer._core.authority == witness._core.authority, "a fence goes on taking its tokens"


def overlaps_after_a_lost_key(server: RedisServer, plain: redis_py.Redis) -> bool:
    """Somebody deletes the key, another client sees it, and plain keys are turned off before the holder is told."""
    with Client(server.url + OPTION):
        pass
    told = Told()
    with Client(server.url, ttl=3 * TTL, on_event=told) as client, Client(server.url, ttl=LONG) as other:
        lease = client.lock("n").acquire()
        told.wait(Renewed)
        plain.delete(KEY)
        assert other.lock("n").try_acquire() is None
        assert lease.held
        turn_off(server)
        successor = other.lock("n", wait=PATIENCE).acquire()
        overlap = lease.held
        assert overlap or lease.lost is LossReason.STORE_LOST
        successor.release()
        return overlap


def test_who_has_lost_the_key_is_told_also_if_they_are_turned_off_meanwhile(
    server: RedisServer, plain: redis_py.Redis
) -> None:
    assert not overlaps_after_a_lost_key(server, plain)


def test_positive_control_a_change_of_the_record_that_is_no_other_life(
    server: RedisServer, plain: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def adopt(self: Life, store_id: str, spoken: int, template: str) -> None:
        self.id, self.format, self.template = store_id, spoken, template
        self._name()

    monkeypatch.setattr(Life, "adopt", adopt)
    assert overlaps_after_a_lost_key(server, plain)


@pytest.mark.parametrize("kind", [Client, Looped])
def test_who_still_has_the_option_is_refused_and_keeps_others_out_until_its_deadline(
    server: RedisServer, kind: Any
) -> None:
    told = Told()
    with kind(server.url + OPTION, ttl=TTL, on_event=told) as late, kind(server.url, ttl=LONG) as client:
        lease = late.lock("n").acquire()
        turn_off(server)
        attempt: Attempt[Any] = Attempt(client.lock("n", wait=PATIENCE).acquire)
        with pytest.raises(IncompatibleStore, match=r"are 'none'.*Leave the option plain_key out"):
            late.lock("m").acquire()
        successor = attempt.outcome()
        assert told.at(Lost) < attempt.ended_at
        assert lease.lost is LossReason.DEADLINE
        assert successor.token > lease.token
        successor.release()
    with pytest.raises(IncompatibleStore, match="Leave the option plain_key out"), kind(server.url + OPTION):
        pass


def test_a_release_that_does_not_know_plain_keys_is_kept_out(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(server.url + OPTION):
        monkeypatch.setattr(RedisStore, "_spoken", (1,))
        with pytest.raises(IncompatibleStore) as caught:
            Client(server.url).open()
        assert (caught.value.in_force, caught.value.spoken) == (2, (1,))


def test_whoever_makes_a_lost_store_anew_keeps_the_template(server: RedisServer, plain: redis_py.Redis) -> None:
    with Client(server.url + OPTION), Client(server.url) as client:
        server.cli("FLUSHALL")
        with client.lock("n"):
            assert plain.exists(KEY)


def test_a_name_whose_key_is_one_of_the_queues_own_is_refused(server: RedisServer) -> None:
    with Client(server.url + "?plain_key={name}") as client:
        before = server.info("stats")["total_commands_processed"]
        with pytest.raises(UsageError, match="would be one of the keys"):
            client.lock("{tenure:0}:genesis").acquire()
        assert int(server.info("stats")["total_commands_processed"]) <= int(before) + 1, "nothing was sent but INFO"
        client.lock("{tenure}:genesis").acquire().release()


def _waiting(plain: redis_py.Redis) -> bool:
    """Whether somebody is in the queue."""
    return bool(plain.exists("{tenure:0}:q:n"))
