"""The asyncio face: the same names as the blocking one, for the tasks of one event loop.

Promises: cancelling any call at any await leaves nothing behind; the body of `async with` is cancelled when its lease
is lost; the keeper is a thread of its own, so that a blocked loop keeps its locks.
Does not promise that a cancelled body stops at once, and not that the SQLite engine is asynchronous: there one worker
thread per client is the bridge.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from tenure import config
from tenure.body import Body
from tenure.core import timeout_error
from tenure.errors import AcquireTimeout, TenureError, UsageError
from tenure.face import BaseClient, BaseLock
from tenure.lease import BaseLease
from tenure.model import Instant, LossReason, Queue, Seconds
from tenure.observe.events import Stolen
from tenure.ports import HOLDS
from tenure.protocols import claim as protocol
from tenure.runtimes import native
from tenure.runtimes.aio import AioRuntime

if TYPE_CHECKING:
    from types import TracebackType

    from tenure.findings import Report
    from tenure.model import Mode
    from tenure.ports import QueueStore
    from tenure.protocols.claim import Ask

ASK_MOST: Seconds = 5.0
"""Seconds that one question of an operator (inspect, names, steal) may take."""

_DEFAULT: Any = object()


class AsyncLease(BaseLease):
    """The right to a name until an instant; leaves no trace once released."""

    _store: QueueStore
    _cancel_on_loss = True
    _body: Body | None = None

    async def release(self) -> None:
        """Give the name back. Repeating it does nothing.

        A release without an answer is repeated by the keeper and raises nothing.

        Raises:
            LeaseLost: it had been lost before; what was done since may have overlapped with another holder.

        Cancellation: safe; the keeper releases it.
        """
        claim = self._own
        self._core.drop(claim)
        reason = claim.lost
        if self._alive():
            reason = await protocol.release(self._core.ledger, self._store, claim)
        if reason is not None:
            raise self._loss()

    async def confirm(self) -> bool:
        """Ask the engine whether this lease is among the holders of its name; False if it is lost or released.

        Costs a request. True was true when the engine answered and may be false by now, as with any lease.

        Raises:
            StoreUnavailable, OutcomeUnknown: the engine did not answer.

        Cancellation: safe.
        """
        if not self.held:
            return False
        place = await self._store.look(self._own.ref, ASK_MOST)
        return place.standing is HOLDS

    async def wait_lost(self, timeout: Seconds | None = None) -> LossReason | None:
        """Wait until the lease is lost or released, or for `timeout` seconds; the reason, or None."""
        runtime = self._core.ledger.runtime
        until = None if timeout is None else Instant(runtime.now() + (config.wait(timeout) or 0.0))
        signal = runtime.signal()
        self._own.on_end.append(signal.set)
        try:
            while self.held:
                end = self.deadline if until is None else min(until, self.deadline)
                if until is not None and runtime.now() >= until:
                    break
                await signal.wait(Instant(min(end, runtime.now() + 1.0)))
        finally:
            self._own.on_end.remove(signal.set)
        return self.lost

    async def __aenter__(self) -> Self:
        if self._cancel_on_loss:
            task = asyncio.current_task()
            if task is not None:
                self._body = Body(self, asyncio.get_running_loop(), task)
                self._body.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        body, self._body = self._body, None
        outer = body.leave(asyncio.current_task()) if body is not None else True
        if self.lost is LossReason.FORKED and error is None:
            return  # the parent's block, left in a forked child: nothing of it is ours to judge
        if isinstance(error, asyncio.CancelledError):
            await self._leave_cancelled(error, body is not None and body.ours and not outer)
            return
        try:
            await self.release()
        except TenureError as lost:
            if error is None:
                raise
            error.add_note(str(lost))

    async def _leave_cancelled(self, error: asyncio.CancelledError, ours: bool) -> None:
        self._core.drop(self._own)
        if ours:
            raise self._loss() from error
        # Somebody else's cancellation passes at once: the keeper releases, and `lost` still tells.
        if self.lost is None:
            self._core.ledger.release_later(self._own)


class AsyncLock(BaseLock):
    """A description of what to lock and how; reusable, and holds nothing itself."""

    def __init__(self, client: AsyncClient, ask: Ask, wait: Seconds | None, *, cancel_on_loss: bool) -> None:
        super().__init__(client, ask, wait)
        self._client = client
        self._cancel_on_loss = cancel_on_loss
        # A lease is kept under the task that entered, never on the lock alone: two tasks may share one lock.
        self._entered: dict[asyncio.Task[object] | None, list[AsyncLease]] = {}

    async def acquire(self, *, wait: Seconds | None = _DEFAULT) -> AsyncLease:
        """Wait until the name is ours.

        Args:
            wait: give up after so many seconds; None waits for ever, 0 only tries. The lock's own by default.

        Returns:
            A lease whose deadline is counted from before the request was sent.

        Raises:
            AcquireTimeout: the wait is over; nothing is held. Tells who holds the name and how many wait.
            WouldDeadlock: this task holds the name itself; nothing was queued.
            StoreUnavailable: the engine cannot be reached; nothing is held.
            OutcomeUnknown: no answer came in time; whatever was granted has been given back.

        Cancellation: safe at every await; nothing is held afterwards.
        """
        patience = self._wait if wait is _DEFAULT else config.wait(wait)
        begun = self._core.now()
        lease = await self._client._acquire(self._ask, patience, begun, self._cancel_on_loss)
        if not lease._is_granted:
            raise await self._client._timeout(lease, begun)
        return lease

    async def try_acquire(self) -> AsyncLease | None:
        """Take the name if that needs no waiting; None if others hold it or wait for it."""
        lease = await self._client._acquire(self._ask, 0.0, self._core.now(), self._cancel_on_loss)
        return lease if lease._is_granted else None

    async def __aenter__(self) -> AsyncLease:
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
        return self._lock(name, config.lock_mode(shared), wait, max_hold, lock_delay, info, cancel_on_loss)

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
        return self._lock(name, config.permits(limit, permits), wait, max_hold, lock_delay, info, cancel_on_loss)

    def _lock(
        self,
        name: str,
        mode: Mode,
        wait: Seconds | None,
        max_hold: Seconds | None,
        lock_delay: Seconds,
        info: str | None,
        cancel_on_loss: bool,
    ) -> AsyncLock:
        core = self._core
        longest = core.settings.max_hold if max_hold is None else max_hold
        ask = config.ask(name, mode, max_hold=longest, lock_delay=lock_delay, info=info)
        ask = ask._replace(name=core.key(ask.name))
        return AsyncLock(self, ask, config.wait(wait), cancel_on_loss=cancel_on_loss)

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


__all__ = ["AsyncClient", "AsyncLease", "AsyncLock"]
