"""The engines: where sessions, claims and numbers live. Importing one never imports another's client library."""

from __future__ import annotations

import abc
import re
from importlib import import_module
from typing import TYPE_CHECKING, Final

from tenure.errors import UsageError
from tenure.protocols.keep import one_by_one

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tenure.findings import Examination
    from tenure.model import Seconds
    from tenure.ports import Mailbox, QueueStore, Runtime
    from tenure.protocols.keep import Renewal
    from tenure.runtimes.aio import AioRuntime

ENGINES: Final = {
    "memory": "tenure.engines.memory",
    "sqlite": "tenure.engines.sqlite",
    "redis": "tenure.engines.redis",
    "rediss": "tenure.engines.redis",
    "redis+unix": "tenure.engines.redis",
    "redis+sentinel": "tenure.engines.redis",
    "rediss+sentinel": "tenure.engines.redis",
    "redis+cluster": "tenure.engines.redis",
    "rediss+cluster": "tenure.engines.redis",
    "postgresql": "tenure.engines.postgres",
    "etcd": "tenure.engines.etcd",
    "etcds": "tenure.engines.etcd",
    "zookeeper": "tenure.engines.zookeeper",
    "zookeepers": "tenure.engines.zookeeper",
}
"""URL scheme to module. Each has `connect(url, namespace) -> Engine`, which checks the URL and touches nothing."""

_SCHEME: Final = re.compile("[A-Za-z][A-Za-z0-9+.-]{0,30}")


class Engine(abc.ABC):
    """One client's access to an engine. Made without I/O; `open` does the rest."""

    kind: str
    capabilities: frozenset[str]
    conditional: frozenset[str] = frozenset()
    """Capabilities that depend on how the server is set up; `verify` asks it."""
    scope: str
    """Whom the locks of this URL keep apart, in words: "this process", "this user on this host"."""

    @abc.abstractmethod
    def open(self) -> None:
        """Connect and check. May block.

        Raises:
            StoreUnavailable, UnsafeSetup, IncompatibleStore: nothing was changed.
        """

    def verify(self, wanted: frozenset[str]) -> None:
        """Make sure that capabilities of `conditional` are offered; after `open`, before anything else. May block.

        Raises:
            StoreUnavailable, UnsafeSetup: they are not, or nobody can tell. Nothing was changed.
        """
        raise NotImplementedError(f"{self.kind} has no conditional capabilities, and not {sorted(wanted)}")

    @abc.abstractmethod
    def examine(self, ttl: Seconds) -> Examination:
        """Find out how the engine is set up, on connections of its own; neither needs `open` nor a `close` after it.

        Changes nothing that a lock could notice. May block, for seconds where the engine is slow.

        Args:
            ttl: what times are judged against.

        Raises:
            StoreUnavailable, UnsafeSetup, IncompatibleStore: the engine cannot be asked. A finding is never raised.
        """

    def migrate(self) -> list[str]:
        """Make, or bring to this release, what the engine keeps on its server; neither needs `open`. May block.

        Returns:
            What was done, in words; empty if there was nothing to do, as always on engines that need no tables.

        Raises:
            StoreUnavailable, UnsafeSetup, IncompatibleStore: nothing was changed.
        """
        return []

    @property
    @abc.abstractmethod
    def address(self) -> str:
        """Where this client's mailbox is; part of its sessions."""

    @abc.abstractmethod
    def store(self, runtime: Runtime) -> QueueStore:
        """A connection for calling threads."""

    @abc.abstractmethod
    def aio_store(self, runtime: AioRuntime) -> QueueStore:
        """A connection for the tasks of one loop; never blocks the loop."""

    @abc.abstractmethod
    def keeper_store(self, runtime: Runtime) -> QueueStore:
        """The keeper's own connection; called in its thread."""

    @abc.abstractmethod
    def mailbox(self, runtime: Runtime) -> Mailbox:
        """The mailbox, for waiting threads."""

    @abc.abstractmethod
    def aio_mailbox(self, runtime: AioRuntime) -> Mailbox:
        """The mailbox, for waiting tasks."""

    def part(self, name: str) -> str:  # noqa: ARG002 - most engines are one part
        """The part of the store in which a name lives; what the ids of sessions there end with. After `open`.

        Each part has sessions, heartbeats and a life of its own, and so may fail alone.
        """
        return ""

    async def beats(self, store: QueueStore, renewals: Sequence[Renewal]) -> None:
        """Send the heartbeats that are due; as `keep.Beats`."""
        await one_by_one(store, renewals)

    def tend(self) -> None:  # noqa: B027 - most engines have nothing to tend
        """Housekeeping after each heartbeat, in the keeper's thread; must not block."""

    def descriptors(self) -> tuple[int, ...]:
        """File descriptors that, inherited, keep this client's claims until the heir is dead too."""
        return ()

    @abc.abstractmethod
    def disown(self) -> None:
        """In a forked child: let go of the parent's files without a trace."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of everything; the sessions were ended before."""


def connect(url: object, namespace: str, options: Mapping[str, str] | None = None) -> Engine:
    """Make the engine that a URL names, for the names of one namespace; no I/O.

    Args:
        url: a URL; or a client object of redis-py or valkey-py, whose settings are used and whose connections are not.
        namespace: part of every name.
        options: of a client object, as a URL would have them.

    Raises:
        UsageError: the URL or an option is wrong; nothing was touched.
    """
    if not isinstance(url, str):
        known_client: Engine = import_module("tenure.engines.redis").connect_like(url, namespace, options or {})
        return known_client
    scheme = url.partition("://")[0]
    module = ENGINES.get(scheme)
    if module is None or "://" not in url:
        known = ", ".join(f"{name}://" for name in ENGINES)
        # Only a scheme is named: the rest of a URL may hold a password.
        shown = repr(scheme) if "://" in url and _SCHEME.fullmatch(scheme) else "no scheme at all"
        raise UsageError(f"url: unknown engine ({shown}); this release knows {known}")
    engine: Engine = import_module(module).connect(url, namespace)
    return engine
