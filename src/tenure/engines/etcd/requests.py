"""One request to etcd and what its answer means: errors, the genesis record, leases; what every step rests on.

Promises: an error is `StoreUnavailable` only where the request certainly had no effect; a ttl is only counted if a
leader has granted or renewed it whom a majority still followed.
Does not promise to repeat anything: that is the protocol's.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from tenure.engines.etcd import messages as m
from tenure.engines.etcd.keys import Keys, whole_ttl
from tenure.engines.etcd.pipe import (
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    NOT_FOUND,
    PERMISSION_DENIED,
    RESOURCE_EXHAUSTED,
    UNAUTHENTICATED,
    UNIMPLEMENTED,
    Refused,
)
from tenure.errors import IncompatibleStore, OutcomeUnknown, StoreUnavailable, TenureError, UnsafeSetup
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tenure.engines.etcd.dial import Dialer
    from tenure.engines.etcd.life import Life
    from tenure.model import Instant, Seconds

FORMAT: Final = 1
SPOKEN: Final = (1,)

AGAIN_MOST: Final = 8
"""How often one step begins anew because something changed under it."""

_INVALID_TOKEN: Final = ("invalid auth token", "revision of auth store is old", "user name is empty")


class Wire(Protocol):
    """A transport: a request goes out, its answer comes in."""

    async def exchange(self, path: str, message: bytes, timeout: Seconds) -> list[bytes]:
        """Send a request and wait for its whole answer.

        Raises:
            StoreUnavailable: nothing was sent.
            OutcomeUnknown: something was, and no answer came.
            Refused: the answer is an error.
        """
        ...

    def forget(self) -> None:
        """This node cannot serve, or must be told anew who we are: connect anew, to another one if there is one."""
        ...


class LeaseGone(StoreUnavailable):
    """A lease that a claim was to be bound to is over; nothing was changed."""


class Kept(NamedTuple):
    """A lease that was kept alive: its granted ttl in seconds, and the term of whoever says so."""

    ttl: int
    term: int


class Requests:
    """Requests of one client over one transport, in one namespace."""

    def __init__(self, wire: Wire, dialer: Dialer, namespace: str, life: Life, now: Callable[[], Instant]) -> None:
        self.life = life
        self.keys = Keys(dialer.root, namespace)
        self.now = now
        self._wire = wire
        self._dialer = dialer
        self._namespace = namespace

    # -- one request ------------------------------------------------------------------------------------------------

    async def txn(self, request: bytes, until: float, *, writes: bool) -> m.Txn:
        seen = self.life.revision
        try:
            (answer,) = await self.call(m.TXN, request, until, writes=writes)
        except Refused as error:
            if error.code == NOT_FOUND and "lease" in error.text:
                # That of a put; nothing was done.
                raise LeaseGone(f"etcd: {error.text}") from error
            raise explained(error, writes=writes) from error
        reply = m.read_txn(answer)
        self.life.note(reply.header, seen)
        return reply

    async def call(self, path: str, request: bytes, until: float, *, writes: bool) -> list[bytes]:
        """One request; again if the server wants to know anew who asks.

        Raises:
            Refused: an error that the caller may understand.
        """
        for _ in range(3):
            token = self._dialer.token
            try:
                answers = await self._wire.exchange(path, request, max(0.001, until - self.now()))
            except Refused as error:
                if self._dialer.login.username and any(text in error.text for text in _INVALID_TOKEN):
                    self._dialer.forget_token(token)
                    self._wire.forget()
                    continue
                if error.code in (NOT_FOUND, FAILED_PRECONDITION):
                    raise
                if len(self._dialer.nodes) > 1:
                    self._wire.forget()
                raise explained(error, writes=writes) from error
            except OutcomeUnknown as error:
                if writes:
                    raise
                raise StoreUnavailable(*error.args) from error
            if len(answers) != 1:
                raise OutcomeUnknown("etcd answered, but said nothing")
            return answers
        raise UnsafeSetup("etcd does not take the token that it has just given; nothing was changed")

    async def read(self, reads: Sequence[bytes], until: float) -> m.Txn:
        """Read in this life of the store, linearizably."""
        for _ in range(AGAIN_MOST):
            request = m.txn(
                [m.compare(self.keys.genesis, m.VALUE, self.life.genesis)],
                [*reads, m.get_op(m.get(self.keys.genesis, keys_only=True))],
                [m.get_op(m.get(self.keys.genesis))],
            )
            reply = await self.txn(request, until, writes=False)
            if reply.succeeded:
                return reply._replace(parts=reply.parts[:-1])
            await self.is_other(reply.parts[0], until)
        raise StoreUnavailable("the store was emptied several times during one request; nothing was changed")

    # -- leases -----------------------------------------------------------------------------------------------------

    async def open_lease(self, lease: int, ttl: Seconds, until: float) -> int:
        """Make sure that a session has its lease, whole from now on; the granted ttl in seconds."""
        for _ in range(AGAIN_MOST):
            try:
                (answer,) = await self.call(m.GRANT, m.message((1, whole_ttl(ttl)), (2, lease)), until, writes=True)
            except Refused as error:
                if error.code != FAILED_PRECONDITION:
                    raise explained(error, writes=True) from error
                # An earlier request has made it, and its time has run since: it is renewed (A1).
                granted, _ = await self.renew(lease, m.get_op(m.get(self.keys.genesis)), until)
                if granted:
                    return granted
                continue  # and it has just ended
            return m.number(m.fields(answer), 3)
        raise StoreUnavailable("the lease ended each time that it was to be renewed; nothing was entered")

    async def grant(self, lease: int, ttl: Seconds, until: float) -> int:
        """Make sure that a lease is there; its id, which etcd chooses where it is 0."""
        try:
            (answer,) = await self.call(m.GRANT, m.message((1, whole_ttl(ttl)), (2, lease)), until, writes=True)
        except Refused as error:
            if error.code != FAILED_PRECONDITION:
                raise explained(error, writes=True) from error
            return lease
        return m.number(m.fields(answer), 2)

    async def renew(self, lease: int, read: bytes, until: float) -> tuple[int, m.Part]:
        """Renew a lease so that it counts; its granted ttl, 0 if there is none, and what was read after that.

        Whoever answers a keep-alive may be a leader that was replaced and does not know it yet: for about an election's
        time it still renews, and its successor knows nothing of that. So a renewal counts only between two linearizable
        answers in one term of raft: a majority followed the same leader from before it until after it.

        Raises:
            OutcomeUnknown: no answer, or one leader after another.
        """
        for _ in range(AGAIN_MOST):
            before = self.life.term
            kept = await self.keep_alive(lease, until)
            reply = await self.read([read], until)
            if kept is None or before == kept.term == reply.header.term:
                return (kept.ttl if kept else 0), reply.parts[0]
        raise OutcomeUnknown("the cluster elects one leader after another; nothing is proved to be renewed")

    async def keep_alive(self, lease: int, until: float) -> Kept | None:
        """Ask to renew a lease; None if there is none."""
        # A stream of its own for each: the answer to one that was given up cannot be taken for another's (A4).
        try:
            (answer,) = await self.call(m.KEEP_ALIVE, m.message((1, lease)), until, writes=True)
        except Refused as error:
            if error.code == NOT_FOUND:
                return None
            raise explained(error, writes=True) from error
        found = m.fields(answer)
        ttl = m.number(found, 3)
        return Kept(ttl, m.header(found).term) if ttl > 0 else None

    # -- genesis ----------------------------------------------------------------------------------------------------

    async def is_other(self, genesis: m.Part, until: float) -> bool:
        """Whether the genesis record is not the one that was compared; then it is the one in force from here on."""
        if genesis.kvs and genesis.kvs[0].value == self.life.genesis:
            return False
        await self.adopt(until)
        return True

    async def adopt(self, until: float) -> None:
        """Read the genesis record, making it if there is none, and go by it from now on (B12)."""
        key = self.keys.genesis
        fresh = json.dumps({"format": FORMAT, "id": native.new_id(), "base": 0}).encode()
        create = m.txn(
            [m.compare(key, m.CREATE, 0)], [m.put_op(key, fresh, 0), m.get_op(m.get(key))], [m.get_op(m.get(key))]
        )
        reply = await self.txn(m.txn([], [m.get_op(m.get(key))]), until, writes=False)
        if not reply.parts[0].kvs:
            reply = await self.txn(create, until, writes=True)
        value = reply.parts[-1].kvs[0].value
        try:
            said = json.loads(value)
            found, store_id, base = int(said["format"]), str(said["id"]), int(said.get("base", 0))
        except (ValueError, KeyError, TypeError):
            raise IncompatibleStore(
                f"the key {key.decode()} of this cluster is none of tenure's", spoken=SPOKEN
            ) from None
        if found not in SPOKEN:
            raise IncompatibleStore(
                f"the namespace {self._namespace!r} of this cluster has format {found}, and this release speaks "
                f"{SPOKEN}; use a newer release of tenure",
                in_force=found,
                spoken=SPOKEN,
            )
        self.life.adopt(value, store_id, base)


def explained(error: Refused, *, writes: bool) -> TenureError:
    """What an error of the server means for the caller."""
    said = f"etcd refused the request: {error.text}"
    if error.code in (PERMISSION_DENIED, UNAUTHENTICATED) or "user name is empty" in error.text:
        return UnsafeSetup(f"{said}; nothing was changed")
    if error.code == UNIMPLEMENTED:
        return UnsafeSetup(f"{said}; etcd 3.4 or newer is needed")
    if error.code in (INVALID_ARGUMENT, NOT_FOUND) or error.untouched or not writes:
        return StoreUnavailable(said)
    if error.code == RESOURCE_EXHAUSTED and "too many requests" in error.text:
        return StoreUnavailable(said)
    # Also where the database is full: the write that finds it so has been applied when it is refused.
    return OutcomeUnknown(said)
