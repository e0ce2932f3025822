"""What the doctor finds, and what `require` refuses."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tenure import Client, Grade, StoreUnavailable, UnsafeSetup
from tenure.engines.address import Address
from tenure.engines.etcd import doctor
from tenure.engines.etcd.doctor import FAULTS, in_the_way_of_durable_tokens
from tenure.engines.etcd.facts import Facts, Node
from tests.servers import etcd
from tests.servers.certificates import make_certificates
from tests.servers.certificates import missing as no_certificates
from tests.servers.etcd import EtcdCluster, EtcdServer

if TYPE_CHECKING:
    from pathlib import Path

    from tenure import Report

needs_etcd = pytest.mark.skipif(etcd.missing() is not None, reason=etcd.missing() or "")

HERE = Address("h", 2379)


def node(version: str) -> Node:
    return Node(HERE, "", tuple(map(int, version.split("."))), version, 1000, 1)


def facts(version: str = "3.5.21", **changed: Any) -> Facts:
    sound = Facts((node(version),), 3, (), 30, (0.001,) * 5, b"", False, False, False)
    return sound._replace(**changed)


def by_name(report: Report) -> dict[str, Grade]:
    return {finding.name: finding.grade for finding in report.findings}


@pytest.mark.parametrize(
    ("version", "grade", "durable"),
    [
        ("3.3.27", Grade.DANGER, False),
        ("3.4.20", Grade.WARNING, False),
        ("3.4.23", Grade.WARNING, False),
        ("3.4.31", Grade.WARNING, False),
        ("3.4.32", Grade.OK, True),
        ("3.5.2", Grade.DANGER, False),
        ("3.5.12", Grade.WARNING, False),
        ("3.5.13", Grade.WARNING, False),
        ("3.5.14", Grade.OK, True),
        ("3.6.0", Grade.OK, True),
        ("4.0.0", Grade.OK, True),
    ],
)
def test_known_faults_by_release(version: str, grade: Grade, durable: bool) -> None:
    found = doctor.version(facts(version))
    assert found.grade is grade
    assert (in_the_way_of_durable_tokens((node(version),)) == []) is durable
    if grade > Grade.INFO:
        assert found.means
        assert found.change


def test_one_old_node_among_new_ones_is_enough() -> None:
    assert in_the_way_of_durable_tokens((node("3.5.21"), node("3.5.13")))
    mute = Node(HERE, "no answer")
    assert in_the_way_of_durable_tokens((node("3.5.21"), mute)) == []
    assert in_the_way_of_durable_tokens((Node(HERE, said_version="strange"),))


def test_each_fault_names_its_issue() -> None:
    assert all("#" in fault.means for fault in FAULTS)


@pytest.mark.parametrize(
    ("judge", "changed", "grade"),
    [
        ("members", {"members": 1}, Grade.WARNING),
        ("members", {"members": 2}, Grade.WARNING),
        ("members", {"members": 3}, Grade.OK),
        ("members", {"members": None}, Grade.INFO),
        ("nodes", {}, Grade.WARNING),
        ("nodes", {"members": 1}, Grade.OK),
        ("nodes", {"nodes": (Node(HERE, "refused"),)}, Grade.WARNING),
        ("nodes", {"nodes": (Node(HERE, version=(3, 5, 21)),)}, Grade.DANGER),
        ("alarms", {"alarms": ("NOSPACE",)}, Grade.DANGER),
        ("alarms", {}, Grade.OK),
        ("size", {"nodes": (Node(HERE, size=1_900_000_000),)}, Grade.WARNING),
        ("login", {"has_auth": False, "logs_in": True}, Grade.WARNING),
        ("login", {"has_auth": True, "logs_in": True}, Grade.OK),
        ("transport", {"is_guarded": True}, Grade.OK),
        ("transport", {"logs_in": True}, Grade.WARNING),
        ("store", {"genesis": b"nonsense"}, Grade.DANGER),
        ("store", {"genesis": b'{"format": 1, "id": "x"}'}, Grade.OK),
    ],
)
def test_findings(judge: str, changed: dict[str, Any], grade: Grade) -> None:
    assert getattr(doctor, judge)(facts(**changed)).grade is grade


def test_times_are_judged_against_the_ttl() -> None:
    assert doctor.lease_ttl(facts(granted=2), 1.0).grade is Grade.INFO
    assert doctor.lease_ttl(facts(granted=0), 1.0).grade is Grade.DANGER
    assert doctor.round_trip(facts(granted=2, trips=(0.05,) * 5), 2.0).grade is Grade.WARNING
    assert doctor.round_trip(facts(trips=(0.05,) * 5), 30.0).grade is Grade.OK


@needs_etcd
def test_the_distributions_release_works_with_the_warnings_that_it_deserves() -> None:
    with EtcdServer(heartbeat_ms=100) as server, Client(server.url, ttl=1) as client:
        with client.lock("n"):
            grades = by_name(client.doctor())
        assert grades["version"] is Grade.WARNING
        assert grades["members"] is Grade.WARNING
        assert grades["ttl"] is Grade.INFO
        assert max(grades.values()) is Grade.WARNING
        assert server.ctl("lease", "list").splitlines()[0] == "found 1 leases", "what was tried is given back"
        with pytest.raises(UnsafeSetup, match=r"durable_tokens.*3\.4\.32"):
            Client(server.url, require={"durable_tokens"}).open()


@needs_etcd
def test_a_cluster_with_a_node_down() -> None:
    with EtcdCluster() as cluster:
        cluster.nodes[1].kill()
        cluster.leader()
        grades = by_name(Client(cluster.url).doctor())
        assert grades["nodes"] is Grade.WARNING
        assert grades["members"] is Grade.OK


@needs_etcd
@pytest.mark.skipif(no_certificates() is not None, reason=no_certificates() or "")
def test_who_may_not_and_who_is_not_trusted(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    trusted = f"ca={made.authority}&cert={made.client}&key={made.client_key}"
    with EtcdServer(certificates=made, wants_certificate=True, login="secret") as server:
        host = f"{server.host}:{server.port}"
        assert by_name(Client(f"{server.url}?{trusted}").doctor())["login"] is Grade.OK
        for url, kind in (
            (f"etcds://tenure:wrong@{host}?{trusted}", UnsafeSetup),
            (f"etcds://{host}?{trusted}", UnsafeSetup),
            (f"etcds://tenure:secret@{host}/elsewhere?{trusted}", UnsafeSetup),
            (f"etcds://tenure:secret@{host}", UnsafeSetup),
            (f"etcds://tenure:secret@{host}?ca={made.authority}", StoreUnavailable),
            (f"etcd://tenure:secret@{host}", StoreUnavailable),
            (f"etcds://{host}?ca=/no/such/file", UnsafeSetup),
        ):
            with pytest.raises(kind) as raised:
                Client(url).open()
            assert "secret" not in str(raised.value)
            assert "wrong@" not in str(raised.value)


@needs_etcd
def test_a_token_that_ran_out_is_asked_for_again() -> None:
    """A second without use is its life here; the session, its heartbeats and a wait outlive it."""
    with (
        EtcdServer(login="secret", extra=["--auth-token-ttl=1"]) as server,
        Client(server.url, ttl=9) as client,
        Client(server.url, ttl=9) as other,
    ):
        lease = client.lock("n").acquire()
        first = client._core.engine._dialer.token  # type: ignore[attr-defined]
        time.sleep(4)
        assert lease.held
        lease.check()
        with other.lock("m"):
            pass
        lease.release()
        with client.lock("n"):
            assert client._core.engine._dialer.token not in ("", first)  # type: ignore[attr-defined]
