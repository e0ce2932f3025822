"""Each finding of the doctor changes when what it is about changes on a real server."""

from __future__ import annotations

import asyncio
import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from tenure import AcquireTimeout, AsyncClient, Client, Grade, OutcomeUnknown, StoreUnavailable, UnsafeSetup
from tenure.engines.redis import doctor, facts, losses
from tenure.engines.redis.facts import Rights, Server, Transport, needed
from tests.docs.blocks import ROOT
from tests.servers import certificates as openssl
from tests.servers import clock as clocks
from tests.servers import redis as rig
from tests.servers.certificates import make_certificates
from tests.servers.processes import until
from tests.servers.proxy import Proxy
from tests.servers.redis import Persistence, RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tenure import Finding, Report

pytestmark = pytest.mark.skipif(rig.missing() is not None, reason=str(rig.missing()))

OK, INFO, WARNING, DANGER = Grade
WORD = "hunter2:@/"
FULL = "~* &* +@all"
USERS = {
    "app": f"on >{WORD} {FULL}",
    "plain": f"on >x {FULL} -config",
    "blind": f"on >x {FULL} -config -info",
    "dumb": f"on >x {FULL} -zadd -blpop",
    "locked-out": "on >x ~{other:0}:* &* +@all",
    "restricted": "on >x -@all +multi +discard +ping",
    "single": f"on >x {FULL} -multi",
}
SETTINGS = {"maxmemory": "0", "maxmemory-policy": "noeviction", "min-replicas-to-write": "0", "maxclients": "10000"}


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    with RedisServer(password=WORD, users=USERS, persistence="always") as started:
        yield started


@pytest.fixture
def server(shared: RedisServer) -> Iterator[RedisServer]:
    """A server that nobody could find fault with; what a test changes of `SETTINGS` and data is taken back."""
    yield shared
    for name, value in SETTINGS.items():
        shared.cli("CONFIG", "SET", name, value)
    shared.cli("FLUSHALL")


def examine(url: str, **settings: Any) -> Report:
    return Client(url, **settings).doctor()


def find(report: Report, name: str) -> Finding:
    [found] = [finding for finding in report.findings if finding.name == name]
    return found


def grade(url: str, name: str, **settings: Any) -> Grade:
    return find(examine(url, **settings), name).grade


def as_user(server: RedisServer, user: str) -> Server:
    """The server as a user sees it, for judging it changed a little."""
    from tenure.engines.redis.dial import dialer
    from tenure.engines.redis.url import parse

    questions = facts.Questions(dialer(parse(server.url_as(user, WORD if user == "app" else "x"))))
    try:
        return questions.server()
    finally:
        questions.close()


# -- the whole ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
def test_nothing_is_found_where_nothing_is_wrong(server: RedisServer, protocol: int) -> None:
    report = examine(f"{server.url_as('app', WORD)}/2?protocol={protocol}")
    assert [finding for finding in report.findings if finding.grade is not OK] == []
    assert {finding.name for finding in report.findings} == {
        "version", "role", "cluster", "scripts", "info", "persistence", "eviction", "replication", "clock_offset",
        "numbers", "format", "round_trip", "transport", "connections",
    }  # fmt: skip
    assert report.engine == "redis"
    assert report.worst is OK
    assert report.capabilities == Client(server.url).capabilities | {"durable_tokens"}
    assert find(report, "version").found.startswith("Redis ") or "Valkey" in find(report, "version").found


def test_the_async_client_finds_the_same(server: RedisServer) -> None:
    async def scenario() -> Report:
        return await AsyncClient(server.url).doctor()

    report, other = asyncio.run(scenario()), examine(server.url)
    assert [(f.name, f.grade) for f in report.findings] == [(f.name, f.grade) for f in other.findings]


def test_the_worst_comes_first(server: RedisServer) -> None:
    server.cli("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")
    report = examine(server.url_as("plain", "x"))
    grades = [finding.grade for finding in report.findings]
    assert grades == sorted(grades, reverse=True)
    assert report.worst is DANGER


def test_nothing_on_the_server_changes_and_no_connection_stays(server: RedisServer) -> None:
    with Client(server.url) as client, client.lock("n"):
        before = server.cli("DEBUG", "DIGEST")
        server.cli("CONFIG", "RESETSTAT")
        client.doctor()
        assert "cmdstat_exec" not in server.info("commandstats")
        assert server.cli("DEBUG", "DIGEST") == before
    until(lambda: server.info("clients")["connected_clients"] == "1", "only the one who asks is connected")
    server.cli("FLUSHALL")
    examine(server.url)
    assert server.cli("DBSIZE") == 0


def test_no_secret_is_in_anything(server: RedisServer) -> None:
    for url in (server.url, server.url_as("app", WORD)):
        client = Client(url)
        report = client.doctor()
        for text in (repr(report), repr(client)):
            assert WORD not in text
            assert "hunter2" not in text
    wrong = server.url_as("app", "wr0ng-secret")
    with pytest.raises(UnsafeSetup) as caught:
        examine(wrong)
    assert "wr0ng" not in str(caught.value)


def test_who_cannot_be_asked_raises(server: RedisServer) -> None:
    with pytest.raises(UnsafeSetup, match="wants a password"):
        examine(f"redis://{server.host}:{server.port}")
    with RedisServer() as gone:
        url = gone.url
    with pytest.raises(StoreUnavailable):
        examine(url)


def test_a_server_that_loads_its_data_is_unavailable() -> None:
    slow = ["key-load-delay 20000", "loading-process-events-interval-bytes 1024"]
    with RedisServer(persistence="rdb", extra=slow) as server:
        server.cli("DEBUG", "POPULATE", "200", "k", "4096")
        server.shut()
        server.spawn()
        until(lambda: _answers(server), "it listens")
        with pytest.raises(StoreUnavailable, match="LOADING"):
            examine(server.url)


def _answers(server: RedisServer) -> bool:
    try:
        server.cli("INFO")
    except OSError:
        return False
    return True


# -- what it is -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "found", "expected"),
    [
        ({"redis_version": "6.0.16"}, "Redis 6.0.16", DANGER),
        ({"redis_version": "6.2.0"}, "Redis 6.2.0", OK),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.0", "server_name": "valkey"}, "Valkey 8.1.0", OK),
        ({}, "Redis of an unknown version", INFO),
    ],
)
def test_the_version(info: dict[str, str], found: str, expected: Grade) -> None:
    finding = doctor.version(Server("redis://h", False, info, {}, {}, ""))
    assert finding.found.startswith(found)
    assert finding.grade is expected


def test_a_replica_is_dangerous_and_its_master_is_warned_of_fail_overs(server: RedisServer) -> None:
    assert find(examine(server.url), "replication").grade is OK
    with RedisServer(password=WORD, users=USERS, replica_of=server) as replica:
        replica.wait_replicated()
        assert grade(replica.url, "role") is DANGER
        assert grade(replica.url_as("blind", "x"), "role") is DANGER
        report = examine(server.url)
        assert find(report, "role").grade is OK
        assert find(report, "replication")[1:3] == (WARNING, "1 replicas, min-replicas-to-write 0")
        server.cli("CONFIG", "SET", "min-replicas-to-write", "1")
        until(lambda: grade(server.url, "replication") is INFO, "the replica follows closely enough")
        server.cli("CONFIG", "SET", "min-replicas-to-write", "2")
        assert "NOREPLICAS" in find(examine(server.url), "replication").means


def test_sentinels_without_a_replica_cannot_fail_over(server: RedisServer) -> None:
    alone = as_user(server, "app")
    assert losses.replication(alone).grade is OK
    assert losses.replication(alone._replace(is_watched=True)).grade is WARNING


def test_a_node_of_a_cluster_wants_another_scheme() -> None:
    with RedisServer(node_timeout_ms=1000) as node:
        finding = find(examine(node.url), "cluster")
        assert finding.grade is DANGER
        assert "redis+cluster://" in finding.change


# -- what this user may do ------------------------------------------------------------------------------------------


def test_every_command_of_the_scripts_is_probed() -> None:
    # A new one needs its arguments in _SHAPES: with too few, the server complains of that before it looks at rights.
    assert set(needed()) - set(facts._SHAPES) - {"TIME"} == set()
    assert {"ZADD", "HMGET", "BLPOP", "RPUSH", "TIME"} <= set(needed())


def test_each_probe_is_queued_by_a_server_that_forbids_nothing(server: RedisServer) -> None:
    with server.connect() as connection:
        connection.call("AUTH", WORD)
        connection.call("MULTI")
        for name, arguments in facts._SHAPES.items():
            assert connection.call(name, "k", *arguments) == "QUEUED"


def test_what_a_user_may_not_run_is_named(server: RedisServer) -> None:
    finding = find(examine(server.url_as("dumb", "x")), "scripts")
    assert finding.grade is DANGER
    assert finding.found == "this user may not run BLPOP, ZADD"
    finding = find(examine(server.url_as("locked-out", "x")), "scripts")
    assert finding.grade is DANGER
    assert finding.found == "this user may not touch the keys {tenure:0}:*"
    assert grade(server.url_as("locked-out", "x"), "scripts", namespace="other") is OK


def test_the_rule_that_is_proposed_is_the_one_that_helps(server: RedisServer) -> None:
    url = server.url_as("restricted", "x")
    finding = find(examine(url), "scripts")
    assert finding.grade is DANGER
    command, verb, user, *rules = finding.change.split()
    assert [command, verb, user] == ["ACL", "SETUSER", "USER"]
    server.cli("ACL", "SETUSER", "restricted", *rules)
    try:
        report = examine(url)
        assert find(report, "scripts").grade is OK
        assert find(report, "info").grade is OK
        with Client(url) as client, Client(url) as other:
            with client.lock("n"), pytest.raises(AcquireTimeout):
                other.lock("n", wait=0.2).acquire()
            with other.lock("n"):
                pass
    finally:
        server.cli("ACL", "SETUSER", "restricted", "reset", *USERS["restricted"].split())


def test_the_documented_rights_are_enough(server: RedisServer) -> None:
    [line] = [line for line in (ROOT / "docs/redis.md").read_text("utf-8").splitlines() if "needs the rights" in line]
    commands, keys = re.findall("`([^`]+)`", line)
    server.cli("ACL", "SETUSER", "documented", "on", ">x", keys.replace("NAMESPACE", "tenure"), *commands.split())
    try:
        assert grade(server.url_as("documented", "x"), "scripts") is INFO
        server.cli("ACL", "SETUSER", "documented", "+multi", "+discard")
        assert grade(server.url_as("documented", "x"), "scripts") is OK
        server.cli("ACL", "SETUSER", "documented", "-@scripting")
        assert grade(server.url_as("documented", "x"), "scripts") is DANGER
    finally:
        server.cli("ACL", "DELUSER", "documented")


def test_without_transactions_nothing_is_tried(server: RedisServer) -> None:
    report = examine(server.url_as("single", "x"))
    assert find(report, "scripts").grade is INFO
    assert find(report, "scripts").change == "ACL SETUSER single +multi +discard"
    assert server.cli("DBSIZE") == 0


def test_a_renamed_command_is_missed() -> None:
    with RedisServer(extra=['rename-command EVALSHA ""']) as server:
        assert find(examine(server.url), "scripts").found == "this user may not run EVALSHA"


def test_without_info_a_lost_store_is_noticed_late(server: RedisServer) -> None:
    assert grade(server.url_as("plain", "x"), "info") is OK
    report = examine(server.url_as("blind", "x"))
    assert find(report, "info").grade is WARNING
    unknown = {f.name for f in report.findings if f.grade is INFO and "not known" in f.found}
    assert unknown == {"persistence", "eviction", "replication", "connections"}
    assert "durable_tokens" not in report.capabilities


# -- what it keeps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("persistence", "expected", "found"),
    [
        ("none", WARNING, "none: "),
        ("rdb", WARNING, "snapshots only (save 3600 1 300 100 60 10000)"),
        ("everysec", INFO, "append-only file, synced each second"),
        ("always", OK, "append-only file, synced at each write: "),
    ],
)
def test_what_a_crash_loses(persistence: Persistence, expected: Grade, found: str) -> None:
    with RedisServer(persistence=persistence, users={"plain": USERS["plain"]}) as server:
        finding = find(examine(server.url), "persistence")
        assert finding.grade is expected
        assert finding.found.startswith(found)
        # A managed service hides CONFIG; INFO tells the half of it.
        finding = find(examine(server.url_as("plain", "x")), "persistence")
        assert finding.grade is (INFO if persistence in ("everysec", "always") else WARNING)
        assert "not known" in finding.found


def test_a_synced_file_that_is_not_synced_while_it_is_rewritten() -> None:
    with RedisServer(persistence="always", extra=["no-appendfsync-on-rewrite yes"]) as server:
        assert grade(server.url, "persistence") is INFO
        server.cli("CONFIG", "SET", "appendfsync", "no")
        assert grade(server.url, "persistence") is WARNING


def test_a_disk_that_fails_is_dangerous() -> None:
    with RedisServer(persistence="rdb") as server:
        os.mkdir(os.path.join(server.folder, "dump.rdb"))
        server.cli("BGSAVE")
        until(lambda: server.info("persistence")["rdb_last_bgsave_status"] == "err", "the snapshot fails")
        assert "MISCONF" in find(examine(server.url), "persistence").means
        server.cli("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
        assert grade(server.url, "persistence") is WARNING


@pytest.mark.parametrize(
    ("maxmemory", "policy", "expected"),
    [
        ("0", "noeviction", OK),
        ("100mb", "noeviction", OK),
        ("100mb", "volatile-lru", INFO),
        ("0", "volatile-lru", OK),
        ("0", "allkeys-lru", WARNING),
        ("100mb", "allkeys-lru", DANGER),
        ("100mb", "allkeys-random", DANGER),
    ],
)
def test_what_is_evicted(server: RedisServer, maxmemory: str, policy: str, expected: Grade) -> None:
    server.cli("CONFIG", "SET", "maxmemory", maxmemory, "maxmemory-policy", policy)
    for user in ("app", "plain"):
        assert grade(server.url_as(user, WORD if user == "app" else "x"), "eviction") is expected


def test_a_memory_that_is_nearly_full() -> None:
    with RedisServer(maxmemory="100mb") as server:
        assert grade(server.url, "eviction") is OK
        server.cli("CONFIG", "SET", "maxmemory", str(int(server.info("memory")["used_memory"]) + 20_000))
        assert "OOM" in find(examine(server.url), "eviction").means


# -- clocks and times -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(clocks.missing() is not None, reason=str(clocks.missing()))
def test_clocks_that_differ_and_numbers_that_are_ahead() -> None:
    with RedisServer(clock=True) as server:
        assert grade(server.url, "clock_offset") is OK
        server.clock.jump(2.0)
        finding = find(examine(server.url), "clock_offset")
        assert finding.grade is WARNING
        assert finding.found.startswith(("the server's clock is +2.0", "the server's clock is +1.99"))
        assert grade(server.url, "clock_offset", ttl=5) is DANGER
        server.clock.jump(-6.0)
        assert "-4.0" in find(examine(server.url), "clock_offset").found
        assert grade(server.url, "clock_offset") is DANGER
        server.clock.jump(4.0)

        with Client(server.url) as client, client.lock("n"):
            pass
        assert grade(server.url, "numbers") is OK
        server.clock.jump(-3600.0)
        finding = find(examine(server.url), "numbers")
        assert finding.grade is WARNING
        assert "3599." in finding.found or "3600.0" in finding.found
        assert grade(server.url, "numbers", namespace="unused") is OK


def test_numbers_that_no_client_would_open(server: RedisServer) -> None:
    with Client(server.url):
        pass
    server.cli("HSET", "{tenure:0}:genesis", "last", 2**52)
    assert grade(server.url, "numbers") is DANGER
    with pytest.raises(UnsafeSetup), Client(server.url):
        pass


def test_a_format_that_no_client_would_open(server: RedisServer) -> None:
    with Client(server.url):
        pass
    assert grade(server.url, "format") is OK
    server.cli("HSET", "{tenure:0}:genesis", "format", 99)
    assert grade(server.url, "format") is DANGER
    server.cli("HSET", "{tenure:0}:genesis", "format", 1, "partitions", 8)
    assert grade(server.url, "format") is DANGER


@pytest.mark.parametrize(("policy", "expected"), [("noeviction", OK), ("volatile-lru", WARNING)])
def test_plain_keys_may_be_evicted(server: RedisServer, policy: str, expected: Grade) -> None:
    assert all(finding.name != "plain_keys" for finding in examine(server.url).findings)
    with Client(f"{server.url}?plain_key=lock:{{name}}", namespace="beside"):
        server.cli("CONFIG", "SET", "maxmemory-policy", policy)
        found = find(examine(server.url, namespace="beside"), "plain_keys")
        assert found.grade is expected
        assert "'lock:{name}'" in found.found


def test_plain_keys_that_this_user_may_not_touch(server: RedisServer) -> None:
    with Client(f"{server.url}?plain_key=lock:{{name}}", namespace="beside"):
        pass
    server.cli("ACL", "SETUSER", "kept_out", "on", ">x", "~{beside:*", "+@all")
    try:
        with Client(server.url_as("kept_out", "x"), namespace="beside") as client:
            with pytest.raises(OutcomeUnknown, match="`tenure doctor` says which"):
                client.lock("n", wait=0.1).acquire()
            found = find(client.doctor(), "scripts")
            assert (found.grade, found.found) == (DANGER, "this user may not touch the keys lock:*")
            server.cli(*found.change.split())
            client.lock("n", wait=5).acquire().release()
            assert find(client.doctor(), "scripts").grade is OK
    finally:
        server.cli("ACL", "DELUSER", "kept_out")


def test_round_trips_against_the_ttl(monkeypatch: pytest.MonkeyPatch) -> None:
    with RedisServer() as server, Proxy(server.address) as proxy:
        url = f"redis://{proxy.address[0]}:{proxy.address[1]}"
        finding = find(examine(url), "round_trip")
        assert finding.grade is OK
        assert " of 20; ttl 30 s" in finding.found
        monkeypatch.setattr(facts, "SAMPLING_MOST", 0.1)
        proxy.delay(0.04)
        finding = find(examine(url, ttl=3), "round_trip")
        assert finding.grade is WARNING
        # On a slow network twenty would take longer than anybody wants to wait.
        assert " of 3; ttl 3 s" in finding.found
        assert grade(url, "round_trip", ttl=0.4) is DANGER


# -- the connection -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(openssl.missing() is not None, reason=str(openssl.missing()))
def test_who_may_listen(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    with RedisServer(certificates=made, password=WORD) as server:
        found = find(examine(f"{server.tls_url}?ca={made.authority}"), "transport")
        assert found[1:3] == (OK, "TLS, the server's certificate is checked, with a password")
        assert grade(f"{server.tls_url}?verify=none", "transport") is WARNING
        assert grade(server.url, "transport") is OK
    with RedisServer() as server:
        assert "without a password" in find(examine(f"redis+unix://{server.socket_path}"), "transport").found


@pytest.mark.parametrize("has_password", [True, False])
def test_a_plain_connection_that_leaves_the_host(server: RedisServer, has_password: bool) -> None:
    away = Transport(is_local=False, is_encrypted=False, is_verified=False, has_password=has_password)
    timing = facts.Timing(0.001, 0.001, 20, 0.0, 0.0)
    all_facts = facts.Facts(as_user(server, "app"), away, Rights(), timing, None, True, "tenure")
    assert doctor.transport(all_facts).grade is WARNING
    assert doctor.transport(all_facts._replace(transport=away._replace(is_local=True))).grade is OK


def test_connections_that_run_out(server: RedisServer) -> None:
    finding = find(examine(server.url), "connections")
    assert finding.grade is OK
    assert "this client uses at most 10" in finding.found
    server.cli("CONFIG", "SET", "maxclients", "8")
    assert grade(server.url, "connections") is WARNING


# -- require={"durable_tokens"} -------------------------------------------------------------------------------------


def test_durable_tokens_are_granted_where_the_server_keeps_them(server: RedisServer) -> None:
    client = Client(server.url, require={"durable_tokens", "fifo"})
    assert "durable_tokens" not in client.capabilities, "nobody has asked yet"
    with client:
        assert "durable_tokens" in client.capabilities
        with client.lock("n"):
            pass

    async def scenario() -> frozenset[str]:
        async with AsyncClient(server.url, require="durable_tokens") as client:
            return client.capabilities

    assert "durable_tokens" in asyncio.run(scenario())


@pytest.mark.parametrize(
    ("setting", "value", "good"),
    [
        ("appendonly", "no", "yes"),
        ("appendfsync", "everysec", "always"),
        ("no-appendfsync-on-rewrite", "yes", "no"),
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
    ],
)
def test_durable_tokens_are_refused_by_the_setting_that_loses_them(setting: str, value: str, good: str) -> None:
    with RedisServer(persistence="always") as server:
        server.cli("CONFIG", "SET", setting, value)
        client = Client(server.url, require={"durable_tokens"})
        with pytest.raises(UnsafeSetup, match=f"durable_tokens: {setting} is {value}; set it to {good}, [^;]*$"):
            client.open()
        assert server.cli("DBSIZE") == 0, "nothing was touched"
        assert "durable_tokens" not in examine(server.url).capabilities
        server.cli("CONFIG", "SET", setting, good)
        with client:
            assert "durable_tokens" in client.capabilities


def test_durable_tokens_are_refused_by_who_does_not_tell_or_may_be_replaced(server: RedisServer) -> None:
    with pytest.raises(UnsafeSetup, match=r"appendfsync is not known; let this user ask"):
        Client(server.url_as("plain", "x"), require={"durable_tokens"}).open()
    sound = as_user(server, "app")
    assert losses.in_the_way_of_durable_tokens(sound) == []
    for change in ({"is_watched": True}, {"info": {**sound.info, "role": "slave"}}):
        assert len(losses.in_the_way_of_durable_tokens(sound._replace(**change))) == 1
    failing = {**sound.info, "aof_last_write_status": "err"}
    assert len(losses.in_the_way_of_durable_tokens(sound._replace(info=failing))) == 1


def test_nothing_is_asked_where_nothing_is_required(server: RedisServer) -> None:
    server.cli("CONFIG", "RESETSTAT")
    with Client(server.url, require={"fifo"}) as client, client.lock("n"):
        pass
    assert "cmdstat_config|get" not in server.info("commandstats")
    with Client(server.url, require={"durable_tokens"}):
        pass
    assert "cmdstat_config|get" in server.info("commandstats")
