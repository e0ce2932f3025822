"""Ownership as a comparison in the user's own transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tenure import Client, UsageError
from tenure.engines.etcd import messages as m
from tenure.etcd import IsOwner, is_owner
from tenure.runtimes.blocking import run
from tests.etcd.rig import Bare, fresh
from tests.servers import etcd
from tests.servers.etcd import EtcdServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    if reason := etcd.missing():
        pytest.skip(reason)
    with EtcdServer() as server:
        yield server


def write(bare: Bare, owner: IsOwner, value: bytes) -> bool:
    """A user's own transaction."""
    request = m.txn([m.compare(owner.key, m.CREATE, owner.create_revision)], [m.put_op(b"theirs", value, 0)])
    return run(bare.ask.txn(request, bare.until(), writes=True)).succeeded


def test_a_write_counts_while_the_claim_stands_and_never_after(server: EtcdServer) -> None:
    url = fresh(server.url)
    with Bare(url) as bare, Client(url) as client, Client(url) as other:
        lease = client.lock("n").acquire()
        owner = is_owner(lease)
        assert owner.create_revision == lease.token
        assert write(bare, owner, b"one")
        other.steal("n", lease.token)
        with other.lock("n") as successor:
            assert not write(bare, owner, b"late")
            assert write(bare, is_owner(successor), b"two")
        assert server.ctl("get", "--print-value-only", "theirs").strip() == "two"
        lease.hand_over()
        client.close()


def test_a_lease_of_another_engine_has_none() -> None:
    with Client("memory://owner") as client, client.lock("n") as lease, pytest.raises(UsageError, match="memory"):
        is_owner(lease)
