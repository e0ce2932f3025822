"""What the doctor finds of an ensemble."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tenure import Client, Grade, StoreUnavailable
from tenure.engines.zookeeper import doctor
from tenure.engines.zookeeper.facts import Facts, Server
from tenure.engines.zookeeper.layout import Genesis
from tests.servers import zookeeper
from tests.servers.zookeeper import Ensemble, ZooKeeperServer

if TYPE_CHECKING:
    from tenure import Report

needs_zookeeper = pytest.mark.skipif(zookeeper.missing() is not None, reason=zookeeper.missing() or "")

CONF = {"tickTime": "2000", "maxSessionTimeout": "40000", "maxClientCnxns": "60"}
MNTR = {"zk_cnt_fsynctime": "7", "zk_digest_mismatches_count": "0"}


def server(version: str = "3.8.0", mode: str = "follower", trouble: str = "", **changed: Any) -> Server:
    return Server("h:2181", trouble, version, mode, **{"conf": CONF, "mntr": MNTR, **changed})


SOUND = Facts(
    servers=(server(mode="leader"), server(), server()),
    granted=30.0,
    asked=30.0,
    trips=(0.001,) * 5,
    record=Genesis(1, "id", 0),
    is_ours=True,
    may_read=True,
    is_encrypted=True,
    has_login=True,
    is_local=False,
    tick=2.0,
)


def grades(report: Report) -> dict[str, Grade]:
    return {finding.name: finding.grade for finding in report.findings}


@pytest.mark.parametrize(
    ("judge", "changed", "grade"),
    [
        ("version", {}, Grade.OK),
        ("version", {"servers": (server(), server("3.5.2"))}, Grade.DANGER),
        ("version", {"servers": (server("3.10.0"), server("3.5.9"))}, Grade.WARNING),
        ("version", {"servers": (server(""),)}, Grade.INFO),
        ("servers", {}, Grade.OK),
        ("servers", {"servers": (server(), server(trouble="refused"))}, Grade.WARNING),
        ("ensemble", {}, Grade.OK),
        ("ensemble", {"servers": (server(mode="standalone"),)}, Grade.WARNING),
        ("ensemble", {"servers": (server(),)}, Grade.WARNING),
        ("ensemble", {"servers": (server(mode=""),)}, Grade.INFO),
        ("tick", {}, Grade.OK),
        ("tick", {"tick": 1.0}, Grade.DANGER),
        ("tick", {"tick": 3.0}, Grade.INFO),
        ("tick", {"servers": (server(conf={}),)}, Grade.INFO),
        ("session", {}, Grade.OK),
        ("session", {"granted": 4.0}, Grade.DANGER),
        ("session", {"granted": 20.0}, Grade.WARNING),
        ("session", {"asked": 4.0, "granted": 6.0}, Grade.INFO),
        ("lock_delay", {}, Grade.INFO),
        ("sync", {}, Grade.OK),
        ("sync", {"servers": (server(), server(mntr={"zk_cnt_fsynctime": "0"}))}, Grade.INFO),
        ("sync", {"servers": (server(mntr={}),)}, Grade.INFO),
        ("trees", {}, Grade.OK),
        ("trees", {"servers": (server(), server(mntr={"zk_digest_mismatches_count": "3"}))}, Grade.WARNING),
        ("trees", {"servers": (server(mntr={}),)}, Grade.INFO),
        ("store", {}, Grade.OK),
        ("store", {"record": None}, Grade.OK),
        ("store", {"record": None, "is_ours": False}, Grade.DANGER),
        ("store", {"record": Genesis(9, "id", 0)}, Grade.DANGER),
        ("rights", {}, Grade.OK),
        ("rights", {"may_read": False}, Grade.DANGER),
        ("transport", {}, Grade.OK),
        ("transport", {"is_encrypted": False}, Grade.WARNING),
        ("transport", {"has_login": False}, Grade.WARNING),
        ("transport", {"has_login": False, "is_encrypted": False, "is_local": True}, Grade.OK),
        ("connections", {}, Grade.OK),
        ("connections", {"servers": (server(conf={"maxClientCnxns": "10"}),)}, Grade.WARNING),
        ("connections", {"servers": (server(conf={}),)}, Grade.INFO),
    ],
)
def test_findings(judge: str, changed: dict[str, Any], grade: Grade) -> None:
    found = getattr(doctor, judge)(SOUND._replace(**changed))
    assert found.grade is grade
    assert found.name == judge
    if grade > Grade.INFO:
        assert found.means
        assert found.change


def test_times_are_judged_against_what_is_granted() -> None:
    assert doctor.round_trip(SOUND, 30.0).grade is Grade.OK
    assert doctor.round_trip(SOUND._replace(granted=2.0, trips=(0.05,) * 5), 2.0).grade is Grade.WARNING


@needs_zookeeper
def test_a_server_alone_with_a_tick_that_nobody_mentioned() -> None:
    with ZooKeeperServer() as server:
        with Client(f"{server.url}?{server.options}", ttl=5) as client:
            with client.lock("n"):
                found = grades(client.doctor())
            assert client.doctor().engine == "zookeeper"
        assert found["ensemble"] is Grade.WARNING
        assert (found["tick"], found["session"], found["trees"], found["sync"]) == (Grade.OK,) * 4
        assert max(found.values()) is Grade.WARNING
        assert grades(Client(server.url, ttl=6).doctor())["tick"] is Grade.INFO
        assert grades(Client(f"{server.url}?tick=0.05", ttl=6).doctor())["tick"] is Grade.DANGER
        assert server.facts()["zk_ephemerals_count"] == "0", "what was tried is given back"


@needs_zookeeper
def test_a_server_that_clamps_and_is_asked_for_words_that_are_off() -> None:
    short = ["maxSessionTimeout=4000", "maxClientCnxns=20", "4lw.commands.whitelist=srvr,ruok"]
    with ZooKeeperServer(extra=short) as server:
        found = grades(Client(f"{server.url}?{server.options}", ttl=30).doctor())
        assert found["session"] is Grade.WARNING
        assert {found[name] for name in ("tick", "sync", "trees", "connections", "lock_delay")} == {Grade.INFO}


@needs_zookeeper
def test_an_ensemble_with_a_server_down_and_without_a_quorum() -> None:
    with Ensemble() as ensemble:
        url = f"{ensemble.url}?{ensemble.options}"
        assert max(grades(Client(url, ttl=5).doctor()).values()) <= Grade.INFO
        ensemble.followers[0].kill()
        ensemble.wait_served()
        found = grades(Client(url, ttl=5).doctor())
        assert (found["servers"], found["ensemble"]) == (Grade.WARNING, Grade.OK)
        ensemble.followers[0].kill()
        with pytest.raises(StoreUnavailable):
            Client(url, ttl=5).doctor()
