"""The asyncio face: the same names as the blocking one, for the tasks of one event loop.

Promises: cancelling any call at any await leaves nothing behind; the body of `async with` is cancelled when its lease
is lost; the keeper is a thread of its own, so that a blocked loop keeps its locks.
Does not promise that a cancelled body stops at once, and not that the SQLite engine is asynchronous: there one worker
thread per client is the bridge.
"""

from __future__ import annotations

import abc
import asyncio
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from tenure import config
from tenure.core import timeout_error
from tenure.errors import AcquireTimeout, TenureError, UsageError
from tenure.face import BaseClient, BaseDescription, BaseLock, BaseLocks
from tenure.lease import ASK_MOST
from tenure.lease_aio import AsyncLease, AsyncLeases
from tenure.model import Instant, Queue, Seconds
from tenure.observe.events import Stolen
from tenure.protocols import claim as protocol
from tenure.protocols.several import acquire_all, in_order
from tenure.runtimes import native
from tenure.runtimes.aio import AioRuntime

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable
    from types import TracebackType

    from tenure.findings import Report
    from tenure.ports import QueueStore
    from tenure.protocols.claim import Ask

H = TypeVar("H", AsyncLease, AsyncLeases)

_DEFAULT: Any = object()


class _Description(BaseDescription, Generic[H]):
    """What to lock and how."""

    def __init__(self, client: AsyncClient, wait: Seconds | None, *, cancel_on_loss: bool) -> None:
        super().__init__(client, wait)
        self._client = client
        self._cancel_on_loss = cancel_on_loss
        # A lease is kept under the task that entered, never on the lock alone: two tasks may share one lock.
        self._entered: dict[asyncio.Task[object] | None, list[H]] = {}

    @abc.abstractmethod
    def _take(self, wait: Seconds | None, begun: Instant) -> Awaitable[H]:
        """Ask for it; what comes is not granted if the wait is over."""

    async def acquire(self, *, wait: Seconds | None = _DEFAULT) -> H:
        """Wait until it is ours.

        Args:
            wait: give up after so many seconds; None waits for ever, 0 only tries. The lock's own by default.

        Returns:
            A lease whose deadline is counted from before the request was sent.

        Raises:
            AcquireTimeout: the wait is over; nothing is held. Tells who holds the name and how many wait.
            WouldDeadlock: this task holds a name of it itself; nothing was queued.
            StoreUnavailable: the engine cannot be reached; nothing is held.
            OutcomeUnknown: no answer came in time; whatever was granted has been given back.

        Cancellation: safe at every await; nothing is held afterwards.
        """
        patience = self._wait if wait is _DEFAULT else config.wait(wait)
        begun = self._core.now()
        held = await self._take(patience, begun)
        if held._missing is not None:
            raise await self._client._timeout(held._missing, begun)
        return held

    async def try_acquire(self) -> H | None:
        """Take it if that needs no waiting; None if others hold it or wait for it."""
        held = await self._take(0.0, self._core.now())
        return held if held._missing is None else None

    async def __aenter__(self) -> H:
        lease = await self.acquire()
        await lease.__aenter__()
        self._entered.setdefault(asyncio.current_task(), []).append(lease)
        return lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        key = asyncio.current_task()
        if key not in self._entered:
            # An async generator or a fixture may be left by another task than entered it; if one lease is meant, fine.
            if sum(map(len, self._entered.values())) != 1:
                raise UsageError("this task has not entered this lock; leave it in the task that entered")
            key = next(iter(self._entered))
        lease = self._entered[key].pop()
        if not self._entered[key]:
            del self._entered[key]
        await lease.__aexit__(kind, error, trace)


class AsyncLock(_Description[AsyncLease], BaseLock):
    """A description of what to lock and how; reusable, and holds nothing itself."""

    def __init__(self, client: AsyncClient, ask: Ask, wait: Seconds | None, *, cancel_on_loss: bool) -> None:
        super().__init__(client, wait, cancel_on_loss=cancel_on_loss)
        self._ask = ask

    def _take(self, wait: Seconds | None, begun: Instant) -> Awaitable[AsyncLease]:
        return self._client._acquire(self._ask, wait, begun, self._cancel_on_loss)


class AsyncLocks(_Description[AsyncLeases], BaseLocks):
    """A description of several names to lock together; reusable, and holds nothing itself."""

    def __init__(self, client: AsyncClient, asks: list[Ask], wait: Seconds | None, *, cancel_on_loss: bool) -> None:
        super().__init__(client, wait, cancel_on_loss=cancel_on_loss)
        self._asks = asks

    def _take(self, wait: Seconds | None, begun: Instant) -> Awaitable[AsyncLeases]:
        return self._client._acquire_all(self._asks, wait, begun, self._cancel_on_loss)


class AsyncClient(BaseClient):
    """One engine, its session and its leases, for the tasks of one event loop."""

    _loop: asyncio.AbstractEventLoop
    _opening: asyncio.Future[None] | None = None

    # -- life -------------------------------------------------------------------------------------------------------

    async def open(self) -> Self:
        """Connect now, check the engine, and start the keeper.

        Raises:
            StoreUnavailable: the engine cannot be reached.
            UnsafeSetup, IncompatibleStore: it can, and is not fit for use. Nothing was changed.
            UsageError: the client belongs to another event loop.
        """
        await self._open()
        return self

    async def _open(self) -> QueueStore:
        loop = asyncio.get_running_loop()
        core = self._core
        if not core.is_open:
            if self._opening is None or self._opening.done() or self._opening.get_loop() is not loop:
                # Connecting may wait for a disk or a network, and the loop must not. Shielded, so that a cancelled
                # caller does not cancel it for the others; the next use finds it open.
                runtime = self._new_runtime(loop)
                self._opening = loop.run_in_executor(
                    None, core.open, runtime, lambda engine: (engine.aio_store(runtime), engine.aio_mailbox(runtime))
                )
                self._opening.add_done_callback(_seen)
                self._loop = loop
            await asyncio.shield(self._opening)
        if loop is not self._loop:
            raise UsageError(
                f"this client belongs to the event loop {self._loop!r} and was used in {loop!r}; make one per loop"
            )
        return core.store

    def _new_runtime(self, loop: asyncio.AbstractEventLoop) -> AioRuntime:
        return AioRuntime(loop)

    async def close(self) -> None:
        """Release all leases, end the waits of other tasks with `UsageError`, stop the keeper."""
        if self._core.is_open:
            await asyncio.get_running_loop().run_in_executor(None, self._core.close)
        else:
            self._core.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- locks ------------------------------------------------------------------------------------------------------

    def lock(
        self,
        name: str,
        *,
        shared: bool = False,
        wait: Seconds | None = 60.0,
        max_hold: Seconds | None = None,
        lock_delay: Seconds = 0.0,
        info: str | None = None,
        cancel_on_loss: bool = True,
    ) -> AsyncLock:
        """Describe a lock; nothing is held yet.

        Args:
            name: what is locked, 1 to 512 bytes of UTF-8 without control characters.
            shared: together with other shared holders.
            wait: seconds to wait by default; None for ever. It outlives one ttl so that a crashed holder is outwaited.
            max_hold: seconds after which the lease is lost in any case.
            lock_delay: seconds that the name stays closed after an unclean end, for resources that compare no token.
            info: text of up to 1,024 bytes, shown to whoever asks who holds the name.
            cancel_on_loss: cancel the body of `async with` when the lease is lost.

        Raises:
            UsageError: an argument is wrong.
        """
        ask = self._asked(name, config.lock_mode(shared), max_hold, lock_delay, info)
        return AsyncLock(self, ask, config.wait(wait), cancel_on_loss=cancel_on_loss)

    def semaphore(
        self,
        name: str,
        limit: int,
        *,
        permits: int = 1,
        wait: Seconds | None = 60.0,
        max_hold: Seconds | None = None,
        lock_delay: Seconds = 0.0,
        info: str | None = None,
        cancel_on_loss: bool = True,
    ) -> AsyncLock:
        """Describe `permits` of a `limit` on a name; otherwise as `lock`.

        Clients may give different limits; the smallest among the holders counts.
        """
        ask = self._asked(name, config.permits(limit, permits), max_hold, lock_delay, info)
        return AsyncLock(self, ask, config.wait(wait), cancel_on_loss=cancel_on_loss)

    def lock_all(
        self,
        names: Iterable[str],
        *,
        shared: bool = False,
        wait: Seconds | None = 60.0,
        max_hold: Seconds | None = None,
        lock_delay: Seconds = 0.0,
        info: str | None = None,
        cancel_on_loss: bool = True,
    ) -> AsyncLocks:
        """Describe several names to lock together; otherwise as `lock`, and nothing is held yet.

        They are taken one after the other in one order that all clients keep to, so that none wait for each other in a
        circle, and given back together. If one is lost, all are. Each has a token of its own.

        Args:
            names: 1 to 1,000 of them; a name that is given twice counts once.
            shared: all of them together with other shared holders.
            wait: seconds for all of them; None for ever.
            max_hold: as `lock`.
            lock_delay: as `lock`.
            info: as `lock`.
            cancel_on_loss: as `lock`.
        """
        asks = self._all_asked(names, config.lock_mode(shared), max_hold, lock_delay, info)
        return AsyncLocks(self, asks, config.wait(wait), cancel_on_loss=cancel_on_loss)

    async def _acquire(self, ask: Ask, wait: Seconds | None, begun: Instant, cancel_on_loss: bool) -> AsyncLease:
        core = self._core
        loop = asyncio.get_running_loop()
        store = core.store if core.is_open and loop is self._loop else await self._open()
        owner = asyncio.current_task(loop)
        if wait != 0 and ask.name in core.held:
            core.check_deadlock(ask, owner)
        lease = AsyncLease(core)
        lease._store = store
        lease._cancel_on_loss = cancel_on_loss
        until = None if wait is None else Instant(begun + wait)
        granted = await protocol.acquire(core.ledger, store, ask, until, wait == 0, lease._adopt)
        if granted is not None:
            core.hold(granted, owner)
        return lease

    async def _acquire_all(
        self, asks: list[Ask], wait: Seconds | None, begun: Instant, cancel_on_loss: bool
    ) -> AsyncLeases:
        core = self._core
        loop = asyncio.get_running_loop()
        store = core.store if core.is_open and loop is self._loop else await self._open()
        owner = asyncio.current_task(loop)
        asks = in_order(core.ledger, asks)
        if wait != 0:
            for ask in asks:
                core.check_deadlock(ask, owner)
        held: dict[str, AsyncLease] = {}
        for ask in asks:
            held[core.bare(ask.name)] = lease = AsyncLease(core)
            lease._store = store
        leases = AsyncLeases(core, held)
        leases._store = store
        leases._cancel_on_loss = cancel_on_loss
        until = None if wait is None else Instant(begun + wait)
        granted = await acquire_all(core.ledger, store, asks, until, wait == 0, leases._adopt)
        if isinstance(granted, list):
            leases._missing = None
            for claim in granted:
                core.hold(claim, owner)
        else:
            leases._missing = held[core.bare(granted.name)]
        return leases

    async def _timeout(self, lease: AsyncLease, begun: Instant) -> AcquireTimeout:
        try:
            queue = await self.inspect(lease.name)
        except TenureError:
            queue = None
        return timeout_error(lease.name, self._core.now() - begun, queue, native.utc(), own=lease.token)

    # -- for operators ----------------------------------------------------------------------------------------------

    async def inspect(self, name: str) -> Queue:
        """Who holds a name and who waits, in order.

        Raises:
            StoreUnavailable, OutcomeUnknown: the engine did not answer.
        """
        key = self._core.key(config.name(name))
        store = await self._open()
        return (await store.inspect(key, ASK_MOST))._replace(name=name)

    async def names(self, prefix: str = "") -> list[str]:
        """The names that begin with `prefix` and are held or waited for, sorted."""
        key = self._core.key(config.text("prefix", prefix, config.NAME_BYTES))
        store = await self._open()
        return [self._core.bare(found) for found in await store.names(key, ASK_MOST)]

    async def steal(self, name: str, token: int) -> bool:
        """End the claim with this token, for an operator. Its successor's token is larger, so it is fenced.

        Args:
            name: what is locked.
            token: the claim's number, as `inspect` shows it: by name alone a repeat would rob the successor.

        Returns:
            True if it was there. The robbed holder is told with its next heartbeat, within a third of its ttl.
        """
        key = self._core.key(config.name(name))
        token = config.count("token", token, 2**63 - 1)
        store = await self._open()
        stolen = await store.steal(key, token, ASK_MOST)
        if stolen:
            self._core.ledger.emit(Stolen(key, token))
            self._core.ledger.flush()
        return stolen

    async def doctor(self) -> Report:
        """Examine the engine: how it is set up, what that means for a lock, and what to change.

        Works on connections of its own and neither opens nor needs an open client; changes nothing that a lock could
        notice. Takes some round trips, and some seconds where the engine is slow.

        Returns:
            Findings, the worst first. However bad, they raise nothing.

        Raises:
            StoreUnavailable: the engine cannot be reached.
            UnsafeSetup, IncompatibleStore: it can, and cannot be asked: a wrong password, another program's file.
        """
        # Asking may wait for a disk or a network, and the loop must not.
        return await asyncio.get_running_loop().run_in_executor(None, self._core.doctor)

    async def migrate(self) -> list[str]:
        """Make, or bring to this release, what the engine keeps on its server: the tables of PostgreSQL.

        For the one who deploys, not for each client: the user of this URL owns what is made. Of many who ask at once
        one does it, in one transaction. Other engines need none of this.

        Returns:
            What was done, in words; empty if there was nothing to do.

        Raises:
            StoreUnavailable, UnsafeSetup, IncompatibleStore: nothing was changed.
        """
        return await asyncio.get_running_loop().run_in_executor(None, self._core.migrate)

    async def descriptors(self) -> tuple[int, ...]:
        """Descriptors that, inherited by a child process, keep this client's claims until that child is dead too."""
        await self._open()
        return self._core.engine.descriptors()


def _seen(opening: asyncio.Future[None]) -> None:
    """Take note of how opening ended, also where every caller was cancelled meanwhile."""
    if not opening.cancelled():
        opening.exception()


__all__ = ["AsyncClient", "AsyncLease", "AsyncLeases", "AsyncLock", "AsyncLocks"]
