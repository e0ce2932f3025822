"""What an error of redis-py, or of a server, leaves known about a request."""

from __future__ import annotations

import pytest
from redis import exceptions

from tenure.engines.redis.explain import explain
from tenure.errors import IncompatibleStore, OutcomeUnknown, StoreUnavailable, TenureError, UnsafeSetup
from tests.servers import redis as rig
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.skipif(rig.missing() is not None, reason=str(rig.missing()))


@pytest.mark.parametrize(
    ("error", "sent", "expected"),
    [
        (exceptions.ConnectionError("Error 111"), False, StoreUnavailable),
        (exceptions.ConnectionError("Error 111"), True, OutcomeUnknown),
        (exceptions.TimeoutError("Timeout"), False, StoreUnavailable),
        (exceptions.TimeoutError("Timeout"), True, OutcomeUnknown),
        (TimeoutError(), False, StoreUnavailable),
        (ConnectionResetError(104, "reset"), True, OutcomeUnknown),
        (exceptions.InvalidResponse("Protocol error"), False, IncompatibleStore),
        (exceptions.InvalidResponse("Protocol error"), True, OutcomeUnknown),
        (exceptions.BusyLoadingError("Redis is loading", status_code="LOADING"), True, StoreUnavailable),
        (exceptions.OutOfMemoryError("not allowed", status_code="OOM"), True, StoreUnavailable),
        (exceptions.NoPermissionError("this user has", status_code="NOPERM"), True, UnsafeSetup),
        (exceptions.AuthenticationError("Invalid Username or Password"), True, UnsafeSetup),
    ],
)
def test_an_error_says_what_became_of_the_request(error: Exception, sent: bool, expected: type[TenureError]) -> None:
    assert type(explain(error, sent=sent)) is expected


SCRIPT = " script: 0a2039f54162398850b57ff8fbbb34a660d8c70b, on @user_script:1."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("LOADING Redis is loading the dataset in memory", StoreUnavailable),
        ("MASTERDOWN Link with MASTER is down", StoreUnavailable),
        ("BUSY Redis is busy running a script.", StoreUnavailable),
        ("NOSCRIPT No matching script.", StoreUnavailable),
        ("READONLY You can't write against a read only replica.", StoreUnavailable),
        ("READONLY You can't write against a read only replica." + SCRIPT, StoreUnavailable),
        ("OOM command not allowed" + SCRIPT, StoreUnavailable),
        ("MISCONF Redis is configured to save RDB snapshots" + SCRIPT, StoreUnavailable),
        ("NOREPLICAS Not enough good replicas to write." + SCRIPT, StoreUnavailable),
        ("ERR Script killed by user with SCRIPT KILL..." + SCRIPT, StoreUnavailable),
        ("ERR max number of clients reached", StoreUnavailable),
        ("ASK 3999 127.0.0.1:6381", StoreUnavailable),
        ("TRYAGAIN Multiple keys request during rehashing of slot", StoreUnavailable),
        ("CLUSTERDOWN The cluster is down", StoreUnavailable),
        ("MOVED 3999 127.0.0.1:6381", UnsafeSetup),
        ("CROSSSLOT Keys in request don't hash to the same slot", UnsafeSetup),
        ("NOAUTH Authentication required.", UnsafeSetup),
        ("WRONGPASS invalid username-password pair or user is disabled.", UnsafeSetup),
        ("NOPERM this user has no permissions to run the 'evalsha' command", UnsafeSetup),
        ("ERR unknown command 'EVALSHA', with args beginning with: ", UnsafeSetup),
        ("ERR The user executing the script can't run this command or subcommand" + SCRIPT, OutcomeUnknown),
        ("NOPERM this user has no permissions" + SCRIPT, OutcomeUnknown),
        ("WRONGTYPE Operation against a key holding the wrong kind of value" + SCRIPT, OutcomeUnknown),
        ("ERR user_script:1: boom" + SCRIPT, OutcomeUnknown),
        ("MYERR of a later release", OutcomeUnknown),
    ],
)
def test_a_servers_error_says_what_became_of_the_request(text: str, expected: type[TenureError]) -> None:
    found = explain(exceptions.ResponseError(text), at="redis://h:6379/0")
    assert type(found) is expected
    assert str(found).startswith("redis://h:6379/0: ")
    assert str(found).endswith(text.partition(", with args")[0])


def test_what_an_unknown_command_was_given_is_not_repeated() -> None:
    """Servers quote it as they like; a password may be among it, and be cut."""
    for text in (
        "ERR unknown command `AUTH`, with args beginning with: `u`, `a secr`, ",
        "ERR unknown command 'AUTH', with args beginning with: 'u' 'a secr' ",
    ):
        assert "secr" not in str(explain(exceptions.ResponseError(text)))


@pytest.mark.parametrize(
    "text",
    [
        "ERR The user executing the script can't run this command or subcommand" + SCRIPT,
        "ERR The user executing the script can't access at least one of the keys mentioned" + SCRIPT,
        "ERR Error running script (call to f_0a): @user_script:9: @user_script: 9: The user executing the script can't",
        "ERR ACL failure in script: User app has no permissions to run the 'time' command script: on @user_script:14.",
        "ERR Unknown Redis command called from script" + SCRIPT,
    ],
)
def test_a_right_that_a_script_lacks_is_told_and_final_where_half_of_it_may_be_done(text: str) -> None:
    error = exceptions.ResponseError(text)
    for found, kind in ((explain(error), OutcomeUnknown), (explain(error, repeatable=True), UnsafeSetup)):
        assert type(found) is kind
        assert "`tenure doctor` says which" in str(found)


def test_a_full_server_refuses_a_script_before_its_first_write_or_not_at_all() -> None:
    """On this the table rests: OOM cannot strike a script that has written."""
    with RedisServer() as own, own.connect() as connection:
        connection.call("SET", "a", 1)
        connection.call("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(Exception, match="OOM"):
            connection.call("EVAL", "redis.call('GET', 'a') redis.call('SET', 'b', 1)", 0)
        assert connection.call("EVAL", "redis.call('DEL', 'a') redis.call('SET', 'b', 1) return 1", 0) == 1
        assert connection.call("EXISTS", "a", "b") == 1


def test_a_command_that_a_user_may_not_run_ends_a_script_and_leaves_what_it_wrote() -> None:
    """On this the table rests: such an error is no refusal."""
    with RedisServer(users={"app": "on >p ~* &* +@all -lpush"}) as own, own.connect() as connection:
        connection.call("AUTH", "app", "p")
        with pytest.raises(Exception, match="@user_script") as caught:
            connection.call("EVAL", "redis.call('SET', 'a', 1) redis.call('LPUSH', 'l', 1)", 0)
        assert connection.call("EXISTS", "a") == 1
        assert type(explain(exceptions.ResponseError(str(caught.value)))) is OutcomeUnknown
