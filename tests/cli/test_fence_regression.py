"""An engine that was emptied counts from the start again, below the fence: what an operator sees, and both ways on.

etcd and ZooKeeper count transactions and follow no clock, so nothing but an operator brings them past a fence.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

import tenure
from tenure import fencing
from tenure.cli import main
from tenure.engines.zookeeper import jute
from tests.servers import etcd, zookeeper
from tests.servers.etcd import EtcdServer
from tests.servers.zookeeper import ZooKeeperServer
from tests.zookeeper.rig import Hand

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tenure.model import Grant


class Etcd:
    """A node, as its operator has it."""

    missing = staticmethod(etcd.missing)

    def __init__(self) -> None:
        self.server: Any = EtcdServer()
        self.url = self.server.url

    def raise_base(self, by: int) -> None:
        """As the manual says: etcdctl."""
        key = "tenure/tenure/genesis"
        record = json.loads(self.server.ctl("get", "--print-value-only", key))
        self.server.ctl("put", key, json.dumps(record | {"base": record["base"] + by}))


class ZooKeeper:
    """The same; zkCli.sh is what an operator would use."""

    missing = staticmethod(zookeeper.missing)

    def __init__(self) -> None:
        self.server: Any = ZooKeeperServer()
        self.url = f"{self.server.url}?{self.server.options}"

    def raise_base(self, by: int) -> None:
        with closing(Hand(self.url)) as hand:
            [(data, _)] = hand.ask(jute.get("/tenure"))
            record = json.loads(data)
            hand.ask(jute.write("/tenure", json.dumps(record | {"base": record["base"] + by}).encode()))


@pytest.fixture(params=[Etcd, ZooKeeper])
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    if reason := request.param.missing():
        pytest.skip(reason)
    made = request.param()
    with made.server:
        yield made


class Stock:
    """A database with a fence, and a counter under it."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "stock.db")
        self.place = ["orders", "--at", f"sqlite:///{self.path}"]
        with closing(sqlite3.connect(self.path)) as db:
            db.executescript(fencing.schema("sqlite"))
            db.executescript("CREATE TABLE stock (n INTEGER); INSERT INTO stock VALUES (0)")

    def add(self, lease: Any) -> None:
        with closing(sqlite3.connect(self.path)) as db, fencing.sqlite3(db, lease):
            db.execute("UPDATE stock SET n = n + 1")

    def count(self) -> int:
        with closing(sqlite3.connect(self.path)) as db:
            return int(db.execute("SELECT n FROM stock").fetchone()[0])

    def fence(self) -> tuple[int, str]:
        with closing(sqlite3.connect(self.path)) as db:
            token, authority = db.execute("SELECT token, authority FROM tenure_fence").fetchone()
        return int(token), str(authority)


def emptied(engine: Any, stock: Stock) -> Grant:
    """Let a holder write, and lose all that the engine had; what that holder still shows."""
    with tenure.Client(engine.url) as client:
        for _ in range(20):
            client.lock("orders").acquire().release()
        with client.lock("orders") as lease:
            stock.add(lease)
    engine.server.kill()
    shutil.rmtree(engine.server.data)
    engine.server.start()
    return lease.grant


def low(engine: Any, stock: Stock) -> Grant:
    """A rightful holder is below the fence: that is an alarm, its lease is as it was, and nothing was written."""
    before = stock.count()
    with tenure.Client(engine.url) as client, client.lock("orders") as lease:
        assert lease.token < stock.fence()[0]
        with pytest.raises(tenure.FenceRegression):
            stock.add(lease)
        assert lease.held
    assert stock.count() == before
    return lease.grant


@pytest.fixture
def stock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stock:
    for name in ("TENURE_FENCE_URL", "TENURE_AUDIT", "TENURE_URL"):
        monkeypatch.delenv(name, raising=False)
    return Stock(tmp_path)


def test_a_raised_base_brings_an_emptied_engine_past_the_fence(
    engine: Any, stock: Stock, capsys: pytest.CaptureFixture[str]
) -> None:
    old, below = emptied(engine, stock), low(engine, stock)
    token, authority = stock.fence()
    advance = ["fence", "advance", *stock.place, "--url", engine.url, "--yes"]
    assert main(advance) == 75
    told = capsys.readouterr().err
    assert f"`base` of its genesis record by {token}" in told
    # The engine's tokens are comparable with the fence, so nobody may lower it.
    assert main(["fence", "adopt", *stock.place, "--authority", authority, "--yes"]) == 64
    assert stock.fence() == (token, authority)

    engine.raise_base(token)
    assert main(advance) == 0
    assert stock.fence()[0] > token
    with tenure.Client(engine.url) as client, client.lock("orders") as lease:
        stock.add(lease)
    assert stock.count() == 2
    for stale in (old, below):
        with pytest.raises(tenure.StaleToken):
            stock.add(stale)
    assert stock.count() == 2


def test_another_namespace_is_another_authority_that_can_be_given_the_fence(
    engine: Any, stock: Stock, tmp_path: Path
) -> None:
    old, below = emptied(engine, stock), low(engine, stock)
    with tenure.Client(engine.url, namespace="anew") as client:
        with client.lock("orders") as lease, pytest.raises(tenure.ForeignToken):
            stock.add(lease)
        kind = stock.fence()[1].partition("/")[0]
        audit = tmp_path / "audit"
        adopt = ["fence", "adopt", *stock.place, "--authority", f"{kind}/anew", "--yes", "--audit", str(audit)]
        assert main(adopt) == 0
        assert json.loads(audit.read_text())["to"]["authority"] == f"{kind}/anew"
        with client.lock("orders") as lease:
            stock.add(lease)
    assert stock.count() == 2
    for foreign in (old, below):
        with pytest.raises(tenure.ForeignToken):
            stock.add(foreign)
    assert stock.count() == 2
