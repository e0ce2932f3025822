"""Each thing that a test may ask of a Redis server, asked once."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

import pytest

from tests.servers import certificates, redis
from tests.servers.certificates import make_certificates
from tests.servers.processes import ServerFailed
from tests.servers.redis import Persistence, RedisServer
from tests.servers.resp import Connection, ReplyError, frame

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(redis.missing() is not None, reason=redis.missing() or "")

WORD = 'quo"t\\ed'


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as made:
        yield made


def test_a_server_answers_by_tcp_and_by_unix_socket(server: RedisServer) -> None:
    assert server.cli("SET", "k", b"\x00\xff") == "OK"
    with server.connect("unix") as connection:
        assert connection.call("GET", "k") == "\x00\udcff"
        assert connection.call("GET", "none") is None
        assert connection.call("EVAL", "return {1, 'two', {3}}", 0) == [1, "two", [3]]
        with pytest.raises(ReplyError, match=r"^ERR unknown command"):
            connection.call("NONSENSE")
    assert server.url == f"redis://127.0.0.1:{server.port}"
    assert server.info("server")["process_id"] == str(server.pid)


def test_a_wrong_setting_is_shown() -> None:
    with pytest.raises(ServerFailed, match=r"no-such-setting"):
        RedisServer(extra=["no-such-setting yes"]).__enter__()


@pytest.mark.parametrize(
    ("persistence", "kept"), [("none", None), ("rdb", None), ("everysec", "v"), ("always", "v")], ids=str
)
def test_what_a_killed_server_keeps(persistence: Persistence, kept: str | None) -> None:
    # SIGKILL keeps what was written to the kernel, and with "everysec" that is all: only the sync is late.
    with RedisServer(persistence=persistence) as server:
        server.cli("SET", "k", "v")
        server.restart()
        assert server.cli("GET", "k") == kept


def test_snapshots_keep_all_when_the_server_ends_in_good_order() -> None:
    with RedisServer(persistence="rdb") as server:
        server.cli("SET", "k", "v")
        server.shut()
        server.start()
        assert server.cli("GET", "k") == "v"


def test_a_stopped_server_says_nothing_until_it_goes_on(server: RedisServer) -> None:
    with server.connect(timeout=0.05) as connection:
        server.stop()
        connection.send("PING")
        with pytest.raises(TimeoutError):
            connection.sock.recv(1)
        server.cont()
        connection.sock.settimeout(20)
        assert connection.sock.recv(7) == b"+PONG\r\n"


def test_memory_runs_out_and_keys_are_evicted() -> None:
    with RedisServer(maxmemory="2mb", policy="allkeys-lru") as server:
        for number in range(40):
            server.cli("SET", f"k{number}", "x" * 50_000)
        assert server.cli("DBSIZE") < 40


def test_passwords_and_users() -> None:
    users = {"app": "on >pa:ss ~tenure:* +@all -@dangerous"}
    with RedisServer(password=WORD, users=users) as server:
        assert server.cli("PING") == "PONG"
        assert server.url == f"redis://:quo%22t%5Ced@127.0.0.1:{server.port}"
        assert server.url_as("app", "pa:ss") == f"redis://app:pa%3Ass@127.0.0.1:{server.port}"
        with server.connect() as connection:
            with pytest.raises(ReplyError, match="NOAUTH"):
                connection.call("PING")
            assert connection.call("AUTH", WORD) == "OK"
            assert connection.call("AUTH", "app", "pa:ss") == "OK"
            assert connection.call("SET", "tenure:k", "v") == "OK"
            with pytest.raises(ReplyError, match="NOPERM"):
                connection.call("SET", "other", "v")


@pytest.mark.skipif(certificates.missing() is not None, reason=certificates.missing() or "")
def test_tls_with_users(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    with RedisServer(certificates=made, users={"default": "off", "app": "on >secret ~* +@all"}) as server:
        with server.connect("tls") as connection:
            assert connection.call("AUTH", "app", "secret") == "OK"
            assert connection.call("ACL", "WHOAMI") == "app"
        assert server.tls_url == f"rediss://127.0.0.1:{server.tls_port}"
        stranger = ssl.create_default_context()
        plain = socket.create_connection((server.host, server.tls_port))
        with plain, pytest.raises(ssl.SSLCertVerificationError):
            stranger.wrap_socket(plain, server_hostname="localhost")


def test_a_replica_follows_and_a_wait_counts_it() -> None:
    with RedisServer(password=WORD) as master, RedisServer(password=WORD, replica_of=master) as replica:
        replica.wait_replicated()
        with master.connect() as connection:
            connection.call("AUTH", WORD)
            connection.call("SET", "k", "v")
            assert connection.call("WAIT", 1, 20_000) == 1
        assert replica.cli("GET", "k") == "v"
        assert [master.role, replica.role] == ["master", "slave"]


@pytest.mark.parametrize(
    "message",
    [
        b"+OK\r\n",
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"$4\r\na\r\nb\r\n",
        b"*-1\r\n",
        b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n",
        b"%1\r\n+a\r\n*0\r\n",
        b"|1\r\n+ttl\r\n:3\r\n$1\r\nx\r\n",
        b"_\r\n",
    ],
)
def test_a_message_ends_where_it_ends_and_not_before(message: bytes) -> None:
    assert frame(b"+x\r\n" + message + b"+rest\r\n", 4) == 4 + len(message)
    assert {frame(message[:size]) for size in range(len(message))} == {0}


def test_a_closed_connection_is_an_error(server: RedisServer) -> None:
    with server.connect() as connection:
        assert isinstance(connection, Connection)
        server.kill()
        with pytest.raises(OSError, match=r"clos|reset|pipe"):
            connection.call("PING")
