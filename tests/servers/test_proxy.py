"""The network's faults, each shown once between a client and a real server."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.servers import redis
from tests.servers.processes import PATIENCE, until
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer
from tests.servers.resp import Connection, frame

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(redis.missing() is not None, reason=redis.missing() or "")


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    with RedisServer() as made:
        yield made


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    shared.cli("FLUSHALL")
    return shared


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    with Proxy(server.address, frame=frame) as made:
        yield made


def connect(proxy: Proxy) -> Connection:
    return Connection(socket.create_connection(proxy.address, PATIENCE))


@pytest.fixture
def client(proxy: Proxy) -> Iterator[Connection]:
    with connect(proxy) as made:
        assert made.call("PING") == "PONG"
        yield made


def hears_nothing(sock: socket.socket) -> bool:
    """Whether nothing comes for a short while; a wrong proxy would not always be caught, a right one never is."""
    sock.settimeout(0.03)
    try:
        return not sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(PATIENCE)


def test_large_values_pass_whole_also_to_a_slow_reader(proxy: Proxy, client: Connection) -> None:
    value = "x" * 20_000_000
    assert client.call("SET", "k", value) == "OK"
    client.send("GET", "k")
    until(lambda: proxy.held("replies"), "the client's buffers are full")
    assert client.read() == value


def test_a_cut_resets_all_connections_and_accepts_new_ones(proxy: Proxy, client: Connection) -> None:
    assert proxy.cut() == 1
    with pytest.raises(ConnectionResetError):
        client.sock.recv(1)
    with connect(proxy) as again:
        assert again.call("PING") == "PONG"


def test_a_cut_can_end_connections_without_a_reset(proxy: Proxy, client: Connection) -> None:
    client.send("DEBUG", "SLEEP", 0.05)
    until(lambda: proxy.held("requests") == 0, "it is sent")
    assert proxy.cut("fin") == 1
    assert client.sock.recv(1) == b""
    client.sock.send(b"still no reset")
    assert client.sock.recv(1) == b""
    client.close()
    until(lambda: proxy.connections == 0, "the link is gone")


def test_a_refusing_proxy_keeps_its_port_and_its_connections(proxy: Proxy, client: Connection) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    assert client.call("PING") == "PONG"
    proxy.accept()
    with connect(proxy) as again:
        assert again.call("PING") == "PONG"


def test_a_held_request_arrives_when_it_is_let_go(proxy: Proxy, client: Connection, server: RedisServer) -> None:
    proxy.hold()
    client.send("SET", "k", "late")
    until(lambda: proxy.held("requests"), "the request is on its way")
    assert server.cli("GET", "k") is None
    proxy.let_go()
    assert client.read() == "OK"
    assert server.cli("GET", "k") == "late"


def test_a_held_connection_does_not_tell_that_the_client_has_gone(
    proxy: Proxy, client: Connection, server: RedisServer
) -> None:
    name = ["CLIENT", "SETNAME", "half-open"]
    client.call(*name)
    proxy.hold()
    client.close()
    # After two rounds of the proxy's loop it has seen the end of the stream.
    assert [proxy.connections, proxy.connections] == [1, 1]
    assert "half-open" in server.cli("CLIENT", "LIST")
    proxy.let_go()
    until(lambda: "half-open" not in server.cli("CLIENT", "LIST"), "the server learns of it")


def test_forgotten_requests_never_arrive_and_nothing_after_them(
    proxy: Proxy, client: Connection, server: RedisServer
) -> None:
    proxy.hold("requests")
    client.send("SET", "k", "lost")
    until(lambda: proxy.held("requests"), "the request is on its way")
    proxy.forget()
    assert proxy.dropped["requests"] > 0
    proxy.let_go()
    client.send("SET", "k", "after")
    assert hears_nothing(client.sock)
    assert server.cli("GET", "k") is None
    with connect(proxy) as again:
        assert again.call("SET", "k", "new") == "OK"


def test_a_dropped_reply_leaves_the_request_executed(proxy: Proxy, client: Connection, server: RedisServer) -> None:
    proxy.drop("replies")
    client.send("SET", "k", "v")
    until(lambda: proxy.dropped["replies"], "the reply is lost")
    assert server.cli("GET", "k") == "v"
    proxy.let_go()
    # The stream lost its middle: a later reply would be taken for the lost one.
    client.send("PING")
    assert hears_nothing(client.sock)


def test_a_delay_is_kept_in_each_direction(proxy: Proxy, client: Connection) -> None:
    proxy.delay(0.05)
    begin = time.monotonic()
    assert client.call("PING") == "PONG"
    assert time.monotonic() - begin >= 0.1
    proxy.heal()
    assert client.call("PING") == "PONG"


def test_a_duplicated_request_is_executed_twice_and_answered_once(
    proxy: Proxy, client: Connection, server: RedisServer
) -> None:
    proxy.duplicate()
    client.send("INCR", "n")
    client.send("INCR", "other")
    client.send("INCR", "n")
    assert [client.read() for _ in range(3)] == [1, 1, 3]
    assert server.cli("MGET", "n", "other") == ["3", "1"]


def test_a_server_that_is_down_resets_and_a_new_target_is_followed(proxy: Proxy, server: RedisServer) -> None:
    with RedisServer() as other:
        proxy.target = other.address
        with connect(proxy) as client:
            client.call("SET", "k", "v")
            other.kill()
            with pytest.raises(ConnectionError):
                client.call("GET", "k")
        # The connection is made before the proxy knows better; how far the client gets with it is chance.
        with pytest.raises(ConnectionError), connect(proxy) as refused:
            refused.call("PING")
        proxy.target = server.address
        with connect(proxy) as client:
            assert client.call("GET", "k") is None
