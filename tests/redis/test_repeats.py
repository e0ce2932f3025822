"""Requests that arrive twice or late: a claim is made once, and never after it was abandoned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tenure import AcquireTimeout, Client, OutcomeUnknown
from tenure.engines.redis.store import RedisStore
from tenure.engines.redis.transport_blocking import BlockingWire
from tenure.protocols.ledger import Ledger
from tests.faces.watched import LONG, Attempt, has_paid
from tests.servers import redis
from tests.servers.processes import until

if TYPE_CHECKING:
    from tests.faces.watched import AnyClient
    from tests.servers.proxy import Proxy
    from tests.servers.redis import RedisServer

pytestmark = pytest.mark.skipif(redis.missing() is not None, reason=redis.missing() or "")


def test_an_enqueue_that_arrives_twice_makes_one_claim(client: AnyClient, witness: Client, proxy: Proxy) -> None:
    for busy in (False, True):
        held = witness.lock("n").acquire() if busy else None
        proxy.duplicate()
        attempt: Attempt[Any] = Attempt(client.lock("n", wait=10).acquire)
        if held is not None:
            until(lambda: witness.inspect("n").waiters, "it waits")
            # After a look at its answer everything that it sent has been done.
            assert len(witness.inspect("n").waiters) == 1
            held.release()
        lease = attempt.outcome()
        queue = witness.inspect("n")
        assert [c.token for c in queue.holders + queue.waiters] == [lease.token]
        lease.release()
        assert witness.names() == []


class LateWire:
    """A wire on which one request is delayed for long: its sender hears nothing, and later it arrives."""

    def __init__(self, wire: BlockingWire) -> None:
        self._wire = wire
        self.late: bytes | None = None

    async def exchange(self, payload: bytes, replies: int, timeout: float) -> list[Any]:
        if self.late is None:
            self.late = payload
            raise OutcomeUnknown("no answer")
        return await self._wire.exchange(payload, replies, timeout)

    def forget(self) -> None:
        self._wire.forget()


def late_enqueue(server: RedisServer, client: Client, name: str) -> None:
    """Ask for a name; the request arrives when its sender has given up and the keeper has paid."""
    store = client._core.store
    assert isinstance(store, RedisStore)
    assert isinstance(store._wire, BlockingWire)
    wire = LateWire(store._wire)
    store._wire = wire
    with pytest.raises(OutcomeUnknown):
        client.lock(name).try_acquire()
    store._wire = wire._wire
    until(lambda: has_paid(client), "the keeper has paid")
    assert wire.late is not None
    with server.connect() as connection:
        connection.sock.sendall(wire.late)
        connection.read()


@pytest.mark.parametrize("opened", [True, False])
def test_an_enqueue_that_arrives_after_it_was_abandoned_is_refused(
    server: RedisServer, witness: Client, opened: bool
) -> None:
    witness.lock("warm").acquire().release()  # the server knows the script
    with Client(server.url, ttl=LONG) as client:
        if opened:
            client.lock("warm").acquire().release()
        late_enqueue(server, client, "n")
        assert witness.names() == []
        with client.lock("n", wait=5), pytest.raises(AcquireTimeout):
            witness.lock("n", wait=0).acquire()


def test_positive_control_without_a_tombstone_a_late_enqueue_takes_the_name(
    server: RedisServer, witness: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    bill = Ledger.bill
    monkeypatch.setattr(Ledger, "bill", lambda self, claim, **how: bill(self, claim, **how)._replace(tombstone=False))
    with Client(server.url, ttl=LONG) as client:
        client.lock("warm").acquire().release()
        late_enqueue(server, client, "n")
        assert witness.names() == ["n"]
