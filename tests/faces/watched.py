"""Clients that are watched from outside, for the engines whose tests have a server and break it.

Events with their times, calls in threads, and an asyncio client that is driven like a blocking one.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from tenure import AsyncClient, Client, Lease, LossReason, OutcomeUnknown, StoreUnavailable
from tenure.runtimes import native
from tests.servers.processes import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tenure import AsyncLease
    from tenure.observe.events import Event

T = TypeVar("T")

LONG = 60.0
"""A ttl that no test outlasts."""


class Told:
    """The events of a client, and when each came on the boot-time clock."""

    def __init__(self) -> None:
        self._events: list[tuple[float, Event]] = []

    def __call__(self, event: Event) -> None:
        self._events.append((native.now(), event))

    def at(self, kind: type, since: float = 0.0) -> float:
        """When the first event of a kind came after an instant; 0 if none has."""
        return next((at for at, event in list(self._events) if at >= since and isinstance(event, kind)), 0.0)

    def wait(self, kind: type, since: float = 0.0) -> float:
        """As `at`, after waiting for it."""
        found: float = until(lambda: self.at(kind, since), f"a client is told {kind.__name__}")
        return found

    def count(self, kind: type) -> int:
        return sum(isinstance(event, kind) for _, event in list(self._events))


class Attempt(Generic[T]):
    """A call in a thread of its own; what came of it, and when."""

    def __init__(self, do: Callable[[], T]) -> None:
        self.result: T | None = None
        self.error: BaseException | None = None
        self.ended_at = 0.0
        self._do = do
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._do()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error
        self.ended_at = native.now()

    def outcome(self) -> T:
        """Wait for its end, which must be a good one."""
        self.end()
        assert self.error is None, repr(self.error)
        assert self.result is not None
        return self.result

    def end(self) -> BaseException | None:
        """Wait for its end; the error, if it raised one."""
        self._thread.join(PATIENCE)
        assert self.ended_at, "the call has not ended"
        return self.error


class Looped:
    """An `AsyncClient` in a loop and a thread of its own, driven like a blocking one."""

    def __init__(self, url: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.client = AsyncClient(url, **options)
        self._core = self.client._core

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._do(self.client.open())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._do(self.client.close())
        finally:
            self._stop()

    def _stop(self) -> None:
        self._do(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(PATIENCE)

    def lock(self, name: str, **options: Any) -> LoopedLock:
        return LoopedLock(self, name, options)


class LoopedLock:
    """As `Lock`."""

    def __init__(self, looped: Looped, name: str, options: dict[str, Any]) -> None:
        self._looped = looped
        self._lock = looped.client.lock(name, **options)

    def acquire(self) -> LoopedLease:
        lease = self._looped._do(self._lock.acquire())
        lease.hand_over()
        return LoopedLease(self._looped, lease)

    def try_acquire(self) -> LoopedLease | None:
        lease = self._looped._do(self._lock.try_acquire())
        return None if lease is None else LoopedLease(self._looped, lease)


class LoopedLease:
    """As `Lease`."""

    def __init__(self, looped: Looped, lease: AsyncLease) -> None:
        self._looped = looped
        self._lease = lease

    @property
    def token(self) -> int:
        return self._lease.token

    @property
    def held(self) -> bool:
        return self._lease.held

    @property
    def lost(self) -> LossReason | None:
        return self._lease.lost

    def release(self) -> None:
        self._looped._do(self._lease.release())


AnyClient = Client | Looped
AnyLease = Lease | LoopedLease


def warm(client: AnyClient) -> None:
    """Take a name and give it back, however long the first connection takes: faults are made on one that stands."""

    def done() -> bool:
        try:
            client.lock("warm").acquire().release()
        except (StoreUnavailable, OutcomeUnknown):
            return False
        return True

    until(done, "a client is connected and has been served")
    until(lambda: has_paid(client), "nothing of it is owed")


def has_paid(client: AnyClient) -> bool:
    """Whether a client owes the store nothing, and holds and asks nothing."""
    ledger = client._core.ledger
    return not ledger.debts and not any(session.claims for session in ledger.sessions)


def waits(client: Client, name: str, count: int = 1) -> None:
    """Wait until so many wait for a name."""
    until(lambda: len(client.inspect(name).waiters) == count, f"{count} wait for {name}")
