"""One client's access to a Redis server.

All of this engine is imported with it, and so before any thread of a client runs: what is imported later may be caught
half-way by a fork, and the child would wait for ever for a thread that it does not have.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - getaddrinfo imports it late, perhaps while another thread forks
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tenure.engines import Engine
from tenure.engines.redis.doctor import CONDITIONAL, examine, require_durable_tokens
from tenure.engines.redis.life import ASK, QUESTIONS, Life
from tenure.engines.redis.pipe import Pipe
from tenure.engines.redis.scripts import STEPS, script, script_beside
from tenure.engines.redis.store import RedisStore
from tenure.engines.redis.transport_aio import AioMailbox, AioWire
from tenure.engines.redis.transport_blocking import BlockingMailbox, BlockingWire
from tenure.engines.redis.url import NAME
from tenure.errors import StoreUnavailable, UsageError
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tenure.engines.redis.dial import Dialer
    from tenure.engines.redis.store import Wire
    from tenure.findings import Examination
    from tenure.model import Seconds
    from tenure.ports import Mailbox, QueueStore, Runtime
    from tenure.runtimes.aio import AioRuntime

script("genesis")
for _name in STEPS:
    script(_name)  # reading a package's file imports modules too
    script_beside(_name)


CAPABILITIES = frozenset({"fifo", "shared", "semaphore", "multi_host"})


def asked_pipe(dialer: Dialer, timeout: Seconds, note: Callable[[Sequence[Any]], None]) -> Pipe:
    """Connect, and look whether the server is still the one it was.

    Raises:
        StoreUnavailable, UnsafeSetup, IncompatibleStore: nothing else was asked.
    """
    end = time.monotonic() + timeout
    pipe = Pipe(dialer.dial(timeout))
    try:
        note(pipe.exchange(ASK, QUESTIONS, max(0.001, end - time.monotonic())))
    except OSError as error:
        pipe.close()
        raise StoreUnavailable(f"{dialer.shown} did not answer after connecting: {error}") from error
    return pipe


class RedisEngine(Engine):
    """One client's access to one server: a connection each for callers, keeper and mailbox, made when needed."""

    kind = "redis"
    capabilities = CAPABILITIES
    conditional = CONDITIONAL
    scope = "all hosts that use this server"

    def __init__(self, dialer: Dialer, namespace: str, plain_key: str = "", acknowledge: int = 0) -> None:
        self._dialer = dialer
        self._namespace = namespace
        self._plain_key = plain_key
        self._acknowledge = acknowledge
        self._address = ""
        # What was opened closes in the opposite order, also if opening failed half-way.
        self._closing = ExitStack()
        self._disowning = ExitStack()

    def open(self) -> None:
        self._life = Life(self._plain_key)
        self._address = native.new_id()

    def verify(self, wanted: frozenset[str]) -> None:  # noqa: ARG002 - there is only the one that is conditional
        require_durable_tokens(self._dialer)

    def examine(self, ttl: Seconds) -> Examination:
        found = examine(self._dialer, self._namespace, ttl)
        return found._replace(capabilities=self.capabilities | found.capabilities)

    @property
    def address(self) -> str:
        return self._address

    def part(self, name: str) -> str:
        """As `Engine.part`: it is one part; but for a name whose plain key would be a record of the queues themselves.

        Raises:
            UsageError: for such a name; nothing was sent.
        """
        template = self._life.template
        if template and template.replace(NAME, name[len(self._namespace) + 1 :]).startswith(f"{{{self._namespace}:"):
            raise UsageError("name: the plain key of this name would be one of the keys that tenure keeps for itself")
        return ""

    def _open_pipe(self, timeout: Seconds) -> Pipe:
        return asked_pipe(self._dialer, timeout, self._life.note)

    def store(self, runtime: Runtime) -> QueueStore:
        wire = BlockingWire(self._open_pipe)
        self._closing.callback(wire.shut)
        self._disowning.callback(wire.disown)
        return self._store(wire, runtime)

    def _store(self, wire: Wire, runtime: Runtime) -> RedisStore:
        return RedisStore(wire, self._namespace, self._life, runtime.now, acknowledge=self._acknowledge)

    def keeper_store(self, runtime: Runtime) -> QueueStore:
        return self.store(runtime)

    def aio_store(self, runtime: AioRuntime) -> QueueStore:
        wire = AioWire(self._open_pipe, runtime.loop)
        self._closing.callback(wire.shut)
        self._disowning.callback(wire.disown)
        return self._store(wire, runtime)

    def _mailbox_key(self) -> str:
        return f"{{{self._namespace}:0}}:m:{self._address}"

    def mailbox(self, runtime: Runtime) -> Mailbox:
        mailbox = BlockingMailbox(self._mailbox_key(), runtime, self._open_pipe)
        mailbox.hints_only = self._acknowledge > 0
        self._closing.callback(mailbox.close)
        self._disowning.callback(mailbox.disown)
        return mailbox

    def aio_mailbox(self, runtime: AioRuntime) -> Mailbox:
        mailbox = AioMailbox(self._mailbox_key(), runtime, self._open_pipe)
        mailbox.hints_only = self._acknowledge > 0
        self._closing.callback(mailbox.close)
        self._disowning.callback(mailbox.disown)
        return mailbox

    def disown(self) -> None:
        self._disowning.close()

    def close(self) -> None:
        self._closing.close()
