"""Who may connect and how: TLS, logins, SASL, chroots, hosts that fail, read-only servers; clocks and full disks."""

from __future__ import annotations

import resource
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from tenure import Client, LossReason, StoreUnavailable, TenureError, UnsafeSetup, UsageError
from tenure.engines.zookeeper import sasl
from tenure.observe.events import Lost, Renewed
from tenure.runtimes import native
from tests.servers import certificates, clock, zookeeper
from tests.servers.certificates import make_certificates
from tests.servers.processes import until
from tests.servers.zookeeper import Ensemble, ZooKeeperServer
from tests.timing import Bound
from tests.zookeeper.rig import LONG, TTL, Told
from tests.zookeeper.rig import url as url_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.certificates import Certificates

pytestmark = pytest.mark.skipif(zookeeper.missing() is not None, reason=zookeeper.missing() or "")

# -- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if reason := certificates.missing():
        pytest.skip(reason)
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secure(made: Certificates) -> Iterator[ZooKeeperServer]:
    with ZooKeeperServer(certificates=made, client_certificate="need") as server:
        yield server


def test_tls_with_a_client_certificate(secure: ZooKeeperServer, made: Certificates) -> None:
    where = f"zookeepers://localhost:{secure.secure_port}?{secure.options}"
    with Client(f"{where}&ca={made.authority}&cert={made.client}&key={made.client_key}") as client:
        client.lock("n").acquire(wait=5).release()
        assert {f.name: f.found for f in client.doctor().findings}["transport"] == "TLS, no login"
    with pytest.raises((StoreUnavailable, UnsafeSetup)):
        Client(f"{where}&ca={made.authority}").open()


def test_a_server_that_nobody_trusts_is_refused(secure: ZooKeeperServer, made: Certificates) -> None:
    where = f"zookeepers://127.0.0.1:{secure.secure_port}?{secure.options}"
    with pytest.raises(UnsafeSetup, match="certificate"):
        Client(where).open()
    with Client(f"{where}&verify=none&cert={made.client}&key={made.client_key}") as client:
        client.lock("n").acquire().release()
    with pytest.raises(UnsafeSetup, match="nowhere"):
        Client(f"{where}&ca=/nowhere.pem").open()


# -- logins -----------------------------------------------------------------------------------------------------------


def logged_in(server: ZooKeeperServer, login: str, chroot: str = "", options: str = "") -> str:
    return f"zookeeper://{login}@{server.host}:{server.port}{chroot}?{server.options}{options}"


def test_what_one_user_makes_no_other_may_touch(server: ZooKeeperServer) -> None:
    with Client(logged_in(server, "ours:a%40b", "/acl"), ttl=LONG) as ours:
        lease = ours.lock("n").acquire()
        for url in (logged_in(server, "ours:wrong", "/acl"), f"{server.url}/acl?{server.options}"):
            with pytest.raises(UnsafeSetup, match="no right"):
                Client(url).open()
            report = Client(url).doctor()
            assert {f.name for f in report.findings if f.grade >= 3} == {"rights"}
        with Client(logged_in(server, "ours:a%40b", "/acl")) as same:
            assert same.lock("n").try_acquire() is None
            assert same.steal("n", lease.token)
        assert lease.lost is None or lease.lost is LossReason.STOLEN


JAAS = """
Server {
    org.apache.zookeeper.server.auth.DigestLoginModule required
    user_bob="secret";
};
"""


def test_sasl(tmp_path: Path) -> None:
    assert sasl.SERVICE == "zookeeper"
    jaas = tmp_path / "jaas.conf"
    jaas.write_text(JAAS)
    java = [f"-Djava.security.auth.login.config={jaas}"]
    extra = [
        "authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider",
        "sessionRequireClientSASLAuth=true",
    ]
    with ZooKeeperServer(java=java, extra=extra) as server:
        right = logged_in(server, "bob:secret", options="&sasl=DIGEST-MD5")
        with Client(right) as client, client.lock("n") as lease:
            assert lease.held
        for wrong in (logged_in(server, "bob:wrong", options="&sasl=DIGEST-MD5"), url_of(server)):
            with pytest.raises(TenureError) as caught:
                Client(wrong).open()
            print(repr(caught.value))
            assert "wrong@" not in str(caught.value)


# -- chroots and hosts ------------------------------------------------------------------------------------------------


def test_chroots_are_apart_and_are_made_by_the_first_use(server: ZooKeeperServer) -> None:
    with Client(url_of(server, "/a/b")) as one, Client(url_of(server, "/a/c")) as two:
        first, second = one.lock("n").acquire(), two.lock("n", wait=0).acquire()
        assert first.grant.authority != second.grant.authority
        assert one.names() == two.names() == ["n"]
        first.release()
        second.release()


def test_namespaces_that_are_no_names_of_nodes(server: ZooKeeperServer) -> None:
    for namespace in (".", "..", "a.b"):
        with Client(url_of(server, "/dots"), namespace=namespace) as client, client.lock("..") as lease:
            assert lease.held
            assert client.names() == [".."]


def test_a_host_that_is_down_or_unknown_or_no_zookeeper_is_passed_over(server: ZooKeeperServer) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        hosts = f"127.0.0.1:{deaf.getsockname()[1]},nowhere.invalid:1,{server.host}:{server.port}"
        for _ in range(4):  # in whatever order they are tried
            with Client(f"zookeeper://{hosts}?{server.options}") as client, client.lock("n") as lease:
                assert lease.held


def test_nobody_there_is_unavailable_at_once() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        begun = native.now()
        with pytest.raises(StoreUnavailable):
            Client(f"zookeeper://127.0.0.1:{deaf.getsockname()[1]}").open()
        assert native.now() - begun < Bound(2)


def test_a_login_by_sasl_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tenure.engines.zookeeper.sasl")
    monkeypatch.setitem(sys.modules, "puresasl", None)
    with pytest.raises(UsageError, match=r"tenure\[zookeeper\]"):
        Client("zookeeper://user:secret@host?sasl=DIGEST-MD5")


def test_a_read_only_server_is_not_talked_to() -> None:
    java_extra = ["localSessionsEnabled=true", "localSessionsUpgradingEnabled=true"]
    with Ensemble(extra=java_extra, java=["-Dreadonlymode.enabled=true"]) as ensemble:
        with Client(url_of(ensemble), ttl=LONG) as client:
            client.lock("n").acquire().release()
        alone = ensemble.followers[0]
        for server in ensemble.servers:
            if server is not alone:
                server.kill()
        until(lambda: alone.role == "read-only", "it serves readers")
        with pytest.raises(StoreUnavailable):
            Client(f"{alone.url}?{ensemble.options}").open()


# -- clocks and disks -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(clock.missing() is not None, reason=clock.missing() or "")
def test_a_wall_clock_that_jumps_changes_nothing_and_a_steady_one_ends_sessions() -> None:
    told = Told()
    with ZooKeeperServer(clock=True) as server, Client(url_of(server), ttl=TTL, on_event=told) as client:
        tokens = []
        for seconds in (3600.0, -7200.0):
            lease = client.lock("n").acquire()
            tokens.append(lease.token)
            server.clock.jump(seconds)
            jumped = native.now()
            until(lambda jumped=jumped: told.count(Renewed) and native.now() > jumped + TTL, "a ttl has passed")  # type: ignore[misc]
            assert lease.held
            lease.release()
        assert not told.at(Lost)
        lease = client.lock("n").acquire()
        tokens.append(lease.token)
        server.clock.skip(30)
        told.wait(Lost)
        assert lease.lost in (LossReason.SESSION_ENDED, LossReason.DEADLINE)
        with client.lock("n", wait=10) as again:
            tokens.append(again.token)
    assert tokens == sorted(set(tokens))


def test_a_full_disk_ends_leases_at_their_deadline_and_tokens_rise_after_it() -> None:
    told = Told()
    with ZooKeeperServer() as server, Client(url_of(server), ttl=TTL, on_event=told) as client:
        lease = client.lock("n").acquire()
        before = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        # No byte may be written beyond the first: what a full disk answers, to this server alone.
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1, before[1]))
        lost_at = told.wait(Lost)
        assert lease.deadline <= lost_at or lease.lost is LossReason.SESSION_ENDED
        with pytest.raises(TenureError):
            client.lock("m").acquire(wait=0.5)
        # ZooKeeper ends itself when it cannot write its log; whoever watches over it starts it anew.
        until(lambda: not server.is_running, "it has ended")
        server.start()
        with client.lock("n", wait=20) as again:
            assert again.token > lease.token
