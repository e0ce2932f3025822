"""The Redis engine: locks between the hosts that share one Redis, Valkey or compatible server.

Status: production, on a single server and behind Sentinel.
Promises: first come, first served; one request to acquire, one to release, one push to hand over; a lease ends at its
ttl, a crash included; whatever the server forgets, its holders are told at their next contact with it, and tokens keep
rising as long as its clock then reads more than the largest token given.
Does not promise exclusion over a fail-over: replication is asynchronous, and a promoted replica may lack the last
writes. The token protects.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tenure.engines import Engine
from tenure.engines.redis import url as redis_url
from tenure.errors import StoreUnavailable, UsageError
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenure.engines.redis.dial import Dialer
    from tenure.engines.redis.pipe import Pipe
    from tenure.findings import Examination
    from tenure.model import Seconds
    from tenure.ports import Mailbox, QueueStore, Runtime
    from tenure.runtimes.aio import AioRuntime


class RedisEngine(Engine):
    """One client's access to one server: a connection each for callers, keeper and mailbox, made when needed."""

    kind = "redis"
    capabilities = frozenset({"fifo", "shared", "semaphore", "multi_host"})
    conditional = frozenset({"durable_tokens"})
    scope = "all hosts that use this server"

    def __init__(self, make_dialer: Callable[[], Dialer], namespace: str) -> None:
        self._make_dialer = make_dialer
        self._namespace = namespace
        self._dialer: Dialer
        self._address = ""
        # What was opened closes in the opposite order, also if opening failed half-way.
        self._closing = ExitStack()
        self._disowning = ExitStack()

    def open(self) -> None:
        self._dialer = self._make_dialer()
        from tenure.engines.redis.life import Life

        self._life = Life()
        self._address = native.new_id()

    def verify(self, wanted: frozenset[str]) -> None:  # noqa: ARG002 - there is only the one that is conditional
        from tenure.engines.redis.doctor import require_durable_tokens

        require_durable_tokens(self._dialer)

    def examine(self, ttl: Seconds) -> Examination:
        dialer = self._make_dialer()
        from tenure.engines.redis.doctor import examine

        found = examine(dialer, self._namespace, ttl)
        return found._replace(capabilities=self.capabilities | found.capabilities)

    @property
    def address(self) -> str:
        return self._address

    def _open_pipe(self, timeout: Seconds) -> Pipe:
        """Connect, and look whether the server is still the one it was."""
        from tenure.engines.redis.life import ASK, QUESTIONS
        from tenure.engines.redis.pipe import Pipe

        end = time.monotonic() + timeout
        pipe = Pipe(self._dialer.dial(timeout))
        try:
            self._life.note(pipe.exchange(ASK, QUESTIONS, max(0.001, end - time.monotonic())))
        except OSError as error:
            pipe.close()
            raise StoreUnavailable(f"{self._dialer.shown} did not answer after connecting: {error}") from error
        return pipe

    def store(self, runtime: Runtime) -> QueueStore:
        from tenure.engines.redis.store import RedisStore
        from tenure.engines.redis.transport_blocking import BlockingWire

        wire = BlockingWire(self._open_pipe)
        self._closing.callback(wire.shut)
        self._disowning.callback(wire.disown)
        return RedisStore(wire, self._namespace, self._life, runtime.now)

    def keeper_store(self, runtime: Runtime) -> QueueStore:
        return self.store(runtime)

    def aio_store(self, runtime: AioRuntime) -> QueueStore:
        from tenure.engines.redis.store import RedisStore
        from tenure.engines.redis.transport_aio import AioWire

        wire = AioWire(self._open_pipe, runtime.loop)
        self._closing.callback(wire.shut)
        self._disowning.callback(wire.disown)
        return RedisStore(wire, self._namespace, self._life, runtime.now)

    def _mailbox_key(self) -> str:
        return f"{{{self._namespace}:0}}:m:{self._address}"

    def mailbox(self, runtime: Runtime) -> Mailbox:
        from tenure.engines.redis.transport_blocking import BlockingMailbox

        mailbox = BlockingMailbox(self._mailbox_key(), runtime, self._open_pipe)
        self._closing.callback(mailbox.close)
        self._disowning.callback(mailbox.disown)
        return mailbox

    def aio_mailbox(self, runtime: AioRuntime) -> Mailbox:
        from tenure.engines.redis.transport_aio import AioMailbox

        mailbox = AioMailbox(self._mailbox_key(), runtime, self._open_pipe)
        self._closing.callback(mailbox.close)
        self._disowning.callback(mailbox.disown)
        return mailbox

    def disown(self) -> None:
        self._disowning.close()

    def close(self) -> None:
        self._closing.close()


def connect(url: str, namespace: str) -> Engine:
    """Make the engine of a URL of Redis; no I/O, and nothing of redis-py is imported."""
    parsed = redis_url.parse(url)
    if parsed.kind == redis_url.CLUSTER:
        raise UsageError("url: redis+cluster:// is not in this release")

    def make_dialer() -> Dialer:
        from tenure.engines.redis.dial import dialer

        return dialer(parsed)

    return RedisEngine(make_dialer, namespace)


def connect_like(client: object, namespace: str) -> Engine:
    """Make the engine of the server that a client object talks to; no I/O."""
    from tenure.engines.redis.dial import from_client

    found = from_client(client)
    return RedisEngine(lambda: found, namespace)
