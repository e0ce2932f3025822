from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import pytest
import redis
import redis.asyncio
import redis.sentinel
from redis import exceptions

from tenure import Client
from tenure.engines.address import Address
from tenure.engines.redis import dial as dialing
from tenure.engines.redis.clients import from_client
from tenure.engines.redis.dial import Dialer, Link, Watched, access, dialer
from tenure.engines.redis.url import parse
from tenure.errors import (
    IncompatibleStore,
    StoreUnavailable,
    UnsafeSetup,
    UsageError,
)
from tests.servers import certificates as openssl
from tests.servers import redis as rig
from tests.servers.processes import HOST, port_of, reserve_port
from tests.servers.redis import RedisServer
from tests.servers.redis_sentinels import Sentinels
from tests.timing import Bound

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.certificates import Certificates

pytestmark = pytest.mark.skipif(rig.missing() is not None, reason=str(rig.missing()))

WORD = "hunter2"
HARD_WORD = "hunter2:@/"
APP_WORD = "p%40ss"
WRONG = "wr0ng"
USERS = {"app": f"on >{APP_WORD} ~* &* +@all", "mute": "on >secret ~* &* +ping +auth +hello +select +info"}
PATIENCE = 5.0
SHORT = 0.2


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if reason := openssl.missing():
        pytest.skip(reason)
    return openssl.make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(certificates: Certificates) -> Iterator[RedisServer]:
    with RedisServer(password=HARD_WORD, users=USERS, certificates=certificates) as started:
        yield started


@pytest.fixture(scope="module")
def plain() -> Iterator[RedisServer]:
    with RedisServer() as started:
        yield started


@pytest.fixture(scope="module")
def watched() -> Iterator[Sentinels]:
    with Sentinels(password=WORD) as started:
        yield started


@contextlib.contextmanager
def listener() -> Iterator[int]:
    """A port that accepts, in the kernel, and says nothing."""
    with socket.socket() as silent:
        silent.bind((HOST, 0))
        silent.listen()
        yield silent.getsockname()[1]


@contextlib.contextmanager
def answering(reply: bytes, pause: float = 0.0) -> Iterator[int]:
    """A port that gives one client the same answer to whatever it sends, each time after a pause."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            accepted, _ = listening.accept()
            with accepted:
                while accepted.recv(4096):
                    time.sleep(pause)
                    accepted.sendall(reply)

    with socket.create_server((HOST, 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield port_of(listening)
        finally:
            thread.join(PATIENCE)


@contextlib.contextmanager
def dialled(source: Dialer | str, timeout: float = PATIENCE) -> Iterator[Link]:
    found = (dialer(parse(source)) if isinstance(source, str) else source).dial(timeout)
    try:
        yield found
    finally:
        found.disconnect()


def ask(link: Link, *words: str) -> Any:
    connection: Any = link
    connection.until = time.monotonic() + PATIENCE
    answer = connection.ask(*words)
    return answer.decode() if isinstance(answer, bytes) else answer


def name_of(link: Link) -> Any:
    return ask(link, "CLIENT", "GETNAME")


# -- one server -----------------------------------------------------------------------------------------------------


def test_a_connection_is_logged_in_and_bears_our_name(server: RedisServer) -> None:
    with dialled(server.url) as link:
        assert name_of(link) == "tenure"
        assert ask(link, "ACL", "WHOAMI") == "default"


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_user_and_a_database_are_taken(server: RedisServer, protocol: int) -> None:
    with dialled(f"{server.url_as('app', 'p%40ss')}/3?protocol={protocol}") as link:
        info = ask(link, "CLIENT", "INFO")
    assert " db=3 " in info
    assert " user=app " in info
    assert f" resp={protocol}" in info


def test_a_user_without_the_right_to_give_a_name_connects(server: RedisServer) -> None:
    with dialled(server.url_as("mute", "secret")) as link:
        assert ask(link, "PING") == "PONG"


def test_a_unix_socket_is_dialled(server: RedisServer) -> None:
    with dialled(f"redis+unix://app:p%2540ss@{server.socket_path}?db=2") as link:
        assert link.socket.family == socket.AF_UNIX
        assert " db=2 " in ask(link, "CLIENT", "INFO")


def test_tls_checks_the_server_and_shows_a_certificate(server: RedisServer, certificates: Certificates) -> None:
    files = f"ca={certificates.authority}&cert={certificates.client}&key={certificates.client_key}"
    with dialled(f"{server.tls_url}?{files}") as link:
        assert name_of(link) == "tenure"


def test_an_untrusted_server_is_refused_unless_that_is_wanted(server: RedisServer) -> None:
    with pytest.raises(UnsafeSetup, match="CERTIFICATE_VERIFY_FAILED"):
        dialer(parse(server.tls_url)).dial(PATIENCE)
    with dialled(f"{server.tls_url}?verify=none") as link:
        assert name_of(link) == "tenure"


def test_only_the_authority_of_the_url_is_trusted(server: RedisServer, certificates: Certificates) -> None:
    other = certificates.client  # some certificate that has signed nothing
    with pytest.raises(UnsafeSetup, match="CERTIFICATE_VERIFY_FAILED"):
        dialer(parse(f"{server.tls_url}?ca={other}")).dial(PATIENCE)


def test_a_file_for_tls_that_cannot_be_read_is_named(server: RedisServer, tmp_path: Path) -> None:
    with pytest.raises(UnsafeSetup, match=r"nowhere\.pem"):
        dialer(parse(f"{server.tls_url}?ca={tmp_path}/nowhere.pem")).dial(PATIENCE)


def test_a_node_is_dialled_with_the_login_of_the_url(server: RedisServer) -> None:
    url = parse(f"redis+cluster://app:p%2540ss@elsewhere:1,{HOST}:{server.port}")
    with pytest.raises(ValueError, match="no one server"):
        dialer(url)
    with dialled(access(url).node(HOST, server.port)) as link:
        assert ask(link, "ACL", "WHOAMI") == "app"


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("by", ["tcp", "unix"])
@pytest.mark.parametrize("user", ["", "app", "nobody"])
def test_a_wrong_password_is_told_as_such_and_not_shown(server: RedisServer, user: str, by: str, protocol: int) -> None:
    where = f"{HOST}:{server.port}?" if by == "tcp" else f"{server.socket_path}?"
    scheme = "redis://" if by == "tcp" else "redis+unix://"
    with pytest.raises(UnsafeSetup, match="the user's name or password is wrong") as caught:
        dialer(parse(f"{scheme}{user}:wr0ng@{where}protocol={protocol}")).dial(PATIENCE)
    assert WRONG not in told(caught.value)


def test_a_missing_password_is_told(server: RedisServer) -> None:
    with pytest.raises(UnsafeSetup, match="wants a password"):
        dialer(parse(f"redis://{HOST}:{server.port}/1")).dial(PATIENCE)


def test_a_needless_password_is_told(plain: RedisServer) -> None:
    with pytest.raises(UnsafeSetup, match="without any password configured") as caught:
        dialer(parse(plain.url_as("", "hunter2"))).dial(PATIENCE)
    assert WORD not in told(caught.value)


TOKEN = "long-lived" * 40


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(
    "login",
    [
        {"password": WORD},
        {"password": WORD.encode()},
        {"username": "u", "password": TOKEN},
        {"credential_provider": redis.UsernamePasswordCredentialProvider("u", WORD)},
    ],
)
def test_a_server_that_repeats_the_password_is_not_quoted(login: dict[str, Any], protocol: int) -> None:
    """It repeats the first 128 characters of what a command was given that it does not know."""
    with RedisServer(extra=['rename-command AUTH ""', 'rename-command HELLO ""']) as started:
        theirs = redis.Redis(port=started.port, protocol=protocol, **login)
        with pytest.raises(UnsafeSetup, match="unknown command") as caught:
            from_client(theirs).dial(PATIENCE)
    assert WORD not in told(caught.value)
    assert TOKEN[:10] not in told(caught.value)


def test_a_server_that_repeats_the_password_in_its_own_words_is_not_quoted() -> None:
    with answering(f"-ERR what is {WORD}?\r\n".encode()) as port:
        theirs = redis.Redis(host=HOST, port=port, password=cast("Any", WORD.encode()))
        with pytest.raises(UnsafeSetup, match=r"what is \*\*\*\?") as caught:
            from_client(theirs).dial(PATIENCE)
    assert WORD not in told(caught.value)


def told(error: BaseException | None) -> str:
    """All that an error and its causes say."""
    said = []
    while error is not None:
        said.append(f"{error} {error!r} {error.args}")
        error = error.__cause__ or error.__context__
    return " ".join(said)


@pytest.mark.parametrize("url", ["redis://{}:{}", "rediss://{}:{}", "redis+sentinel://{}:{}/m"])
def test_nobody_listening_is_an_unavailable_store(url: str) -> None:
    with reserve_port() as holder, pytest.raises(StoreUnavailable, match="refused"):
        dialer(parse(url.format(HOST, port_of(holder)))).dial(PATIENCE)


def test_a_missing_socket_is_an_unavailable_store(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="No such file"):
        dialer(parse(f"redis+unix://{tmp_path}/none.sock")).dial(PATIENCE)


@pytest.mark.parametrize(
    "url",
    [
        "redis://{}:{}",
        "redis://u:p@{}:{}",
        "redis://{}:{}?protocol=3",
        "rediss://{}:{}",
        "redis+sentinel://{}:{}/m",
    ],
)
def test_a_host_that_says_nothing_costs_the_timeout_and_no_more(url: str) -> None:
    with listener() as port:
        start = time.monotonic()
        with pytest.raises(StoreUnavailable):
            dialer(parse(url.format(HOST, port))).dial(SHORT)
        assert SHORT * 0.9 < time.monotonic() - start < SHORT + Bound(1.0)


def test_all_steps_of_a_login_share_one_timeout() -> None:
    with answering(b"+OK\r\n", SHORT * 0.6) as slow:
        start = time.monotonic()
        with pytest.raises(StoreUnavailable, match="Timeout"):
            dialer(parse(f"redis://:p@{HOST}:{slow}/1")).dial(SHORT)
        assert time.monotonic() - start < Bound(SHORT * 1.7)


@pytest.mark.parametrize("url", ["redis://{}:{}", "redis+sentinel://{}:{}/m"])
def test_what_is_no_redis_server_is_told(url: str) -> None:
    refused = pytest.raises((IncompatibleStore, UnsafeSetup), match="this is no Redis server")
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as other, refused:
        dialer(parse(url.format(HOST, other))).dial(PATIENCE)


def test_a_connection_is_closed_where_dialling_is_interrupted(
    plain: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(link: Any) -> None:
        seen.append(link.socket)
        raise KeyboardInterrupt

    seen: list[socket.socket] = []
    monkeypatch.setattr(dialing._Timed, "introduce", interrupt)
    with pytest.raises(KeyboardInterrupt):
        dialer(parse(plain.url)).dial(PATIENCE)
    assert [closed.fileno() for closed in seen] == [-1]


def test_disconnecting_twice_is_harmless_and_a_closed_link_has_no_socket(plain: RedisServer) -> None:
    link = dialer(parse(plain.url)).dial(PATIENCE)
    link.disconnect()
    link.disconnect()
    with pytest.raises(exceptions.ConnectionError, match="closed"):
        _ = link.socket


def test_what_is_shown_has_no_secret(server: RedisServer) -> None:
    url = parse(server.url)
    assert dialer(url).shown == url.shown == f"redis://{HOST}:{server.port}/0"


# -- sentinels ------------------------------------------------------------------------------------------------------


def sentinel_url(watched: Sentinels, *others: int, service: str = "tenure", password: str = WORD) -> str:
    hosts = [f"{HOST}:{port}" for port in others] + [f"{host}:{port}" for host, port in watched.addresses]
    return f"redis+sentinel://:{password}@{','.join(hosts)}/{service}/1"


def port(link: Link) -> int:
    found: int = link.socket.getpeername()[1]
    return found


def test_the_master_is_found_and_its_failover_followed() -> None:
    with Sentinels(count=1, password=WORD) as own:
        found = dialer(parse(sentinel_url(own)))
        old = own.master
        with dialled(found) as link:
            assert port(link) == old.port
            assert " db=1 " in ask(link, "CLIENT", "INFO")
        old.kill()
        new = own.wait_failover(old)
        with dialled(found) as link:
            assert port(link) == new.port


def test_sentinels_that_are_dead_or_silent_leave_time_for_the_others(watched: Sentinels) -> None:
    with listener() as silent, reserve_port() as dead:
        found = dialer(parse(sentinel_url(watched, port_of(dead), silent)))
        for _ in range(2):
            with dialled(found, 1.0) as link:
                assert port(link) == watched.master.port
        start = time.monotonic()
        with dialled(found, 30.0):
            pass
        assert time.monotonic() - start < Bound(5.0), "the sentinel that knew was not asked first"


def test_a_sentinel_that_is_taken_for_a_server_is_told(watched: Sentinels) -> None:
    host, port = watched.addresses[0]
    with pytest.raises(UnsafeSetup, match="if it is a sentinel, use redis"), Client(f"redis://{host}:{port}"):
        pass


def test_an_unknown_service_is_told(watched: Sentinels) -> None:
    with pytest.raises(UnsafeSetup, match="knows no service 'other'"):
        dialer(parse(sentinel_url(watched, service="other"))).dial(PATIENCE)


def test_the_masters_wrong_password_is_told(watched: Sentinels) -> None:
    with pytest.raises(UnsafeSetup, match="name or password is wrong") as caught:
        dialer(parse(sentinel_url(watched, password=WRONG))).dial(PATIENCE)
    assert WRONG not in told(caught.value)


# -- a client -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [redis, redis.asyncio])
def test_a_clients_settings_are_copied(server: RedisServer, module: Any) -> None:
    client = module.Redis(
        host=HOST, port=server.port, db=4, username="app", password=APP_WORD, decode_responses=True, client_name="x"
    )
    with dialled(from_client(client)) as link:
        info = ask(link, "CLIENT", "INFO")
    assert " db=4 " in info
    assert " user=app " in info
    assert " name=tenure " in info
    assert from_client(client).shown == f"redis://{HOST}:{server.port}/4"


@pytest.mark.parametrize("module", [redis, redis.asyncio])
def test_a_client_by_tls_or_unix_socket_is_copied(server: RedisServer, certificates: Certificates, module: Any) -> None:
    login = {"username": "app", "password": APP_WORD}
    by_tls = module.Redis(host=HOST, port=server.tls_port, ssl=True, ssl_ca_certs=certificates.authority, **login)
    by_unix = module.Redis(unix_socket_path=server.socket_path, **login)
    for client in (by_tls, by_unix):
        with dialled(from_client(client)) as link:
            assert name_of(link) == "tenure"


def test_a_credential_provider_is_asked(server: RedisServer) -> None:
    provider = redis.UsernamePasswordCredentialProvider("app", "p%40ss")
    client = redis.Redis(host=HOST, port=server.port, credential_provider=provider)
    with dialled(from_client(client)) as link:
        assert ask(link, "ACL", "WHOAMI") == "app"


class Answers:
    """A link that has one answer."""

    def __init__(self, *answer: object) -> None:
        self._answer = answer

    def ask(self, *_: object) -> object:
        return self._answer

    def disconnect(self) -> None: ...


class Doors:
    """As `Access`, to servers that are slow, or refuse: each opens with what is next, and notes how long it may."""

    def __init__(self, *comes: object) -> None:
        self._comes = list(comes)
        self.patience: list[float] = []

    def open(self, _: object, until: float) -> object:
        self.patience.append(until - time.monotonic())
        one = self._comes.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    def shown(self, where: object) -> str:
        return str(where)


SENTINELS = [Address("one", 1), Address("two", 2), Address("three", 3)]


def test_a_slow_master_that_several_sentinels_name_is_tried_again_with_the_time_that_is_left() -> None:
    master = Answers(b"master")
    servers = Doors(StoreUnavailable("slow"), master)
    named: Any = Doors(*(Answers(b"m", b"6379") for _ in SENTINELS))
    found = Watched(cast("Any", servers), SENTINELS, "tenure", named).dial(3.0)
    assert cast("Any", found) is master
    assert [round(patience, 1) for patience in servers.patience] == [1.5, 1.5]


def test_a_master_that_will_never_let_us_in_is_asked_once() -> None:
    servers = Doors(UnsafeSetup("wrong password"))
    named: Any = Doors(*(Answers(b"m", b"6379") for _ in SENTINELS))
    with pytest.raises(UnsafeSetup, match="wrong password"):
        Watched(cast("Any", servers), SENTINELS, "tenure", named).dial(3.0)
    assert len(servers.patience) == 1


@pytest.mark.parametrize("module", [redis.sentinel, redis.asyncio.sentinel])
def test_a_sentinels_client_is_copied(watched: Sentinels, module: Any) -> None:
    manager = module.Sentinel(watched.addresses)
    client = manager.master_for("tenure", password=WORD)
    with dialled(from_client(client)) as link:
        assert port(link) == watched.master.port
    with pytest.raises(UsageError, match="replicas"):
        from_client(manager.slave_for("tenure", password=WORD))


class Own(redis.Connection):
    """A class of another library."""


def test_what_cannot_be_copied_is_refused() -> None:
    pool = redis.ConnectionPool(connection_class=Own)
    for client, says in [
        (object(), "not object"),
        ("redis://h", "not str"),
        (redis.Redis(connection_pool=pool), "class Own"),
        (redis.Redis(ssl=True, ssl_validate_ocsp=True), "ssl_validate_ocsp"),
    ]:
        with pytest.raises(UsageError, match="client: ") as caught:
            from_client(client)
        assert says in str(caught.value)


# -- without redis-py -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["'redis://localhost'", "'redis+cluster://localhost'", "valkey.Valkey()"])
def test_without_redis_py_the_error_names_what_to_install(url: str) -> None:
    program = f"""
import sys
sys.modules["redis"] = None
import valkey
from tenure import Client, UsageError
try:
    Client({url})
except UsageError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert "pip install 'tenure[redis]'" in ran.stdout
