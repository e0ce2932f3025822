"""The blocking face: one `Client` per engine URL, its locks, and their leases.

Promises: safe to share between threads; nothing is connected and no thread started before the first use.
Does not promise that a thread stops when it loses a lease: Python cannot stop one. Call `lease.check()`, and let the
resource refuse what slips through.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

from tenure import config
from tenure.core import timeout_error
from tenure.errors import AcquireTimeout, TenureError, UsageError
from tenure.face import BaseClient, BaseLock
from tenure.lease import BaseLease
from tenure.model import Instant, LossReason, Queue, Seconds
from tenure.observe.events import Stolen
from tenure.ports import HOLDS
from tenure.protocols import claim as protocol
from tenure.protocols.records import CLOSED
from tenure.runtimes import native
from tenure.runtimes.blocking import BlockingRuntime, run

if TYPE_CHECKING:
    from types import TracebackType

    from tenure.findings import Report
    from tenure.model import Mode
    from tenure.ports import QueueStore, Runtime
    from tenure.protocols.claim import Ask

ASK_MOST: Seconds = 5.0
"""Seconds that one question of an operator (inspect, names, steal) may take."""

_DEFAULT: Any = object()


class Lease(BaseLease):
    """The right to a name until an instant; leaves no trace once released."""

    def release(self) -> None:
        """Give the name back. Repeating it does nothing.

        A release without an answer is repeated by the keeper and raises nothing.

        Raises:
            LeaseLost: it had been lost before; what was done since may have overlapped with another holder.
        """
        claim = self._own
        self._core.drop(claim)
        # A client that was closed has released it already, and has no engine to ask.
        reason = claim.lost
        if reason is None and claim.phase is not CLOSED:
            reason = run(protocol.release(self._core.ledger, self._store, claim))
        if reason is not None:
            raise self._loss()

    _store: QueueStore

    def confirm(self) -> bool:
        """Ask the engine whether this lease is among the holders of its name; False if it is lost or released.

        Costs a request. True was true when the engine answered and may be false by now, as with any lease.

        Raises:
            StoreUnavailable, OutcomeUnknown: the engine did not answer.
        """
        if not self.held:
            return False
        place = run(self._store.look(self._own.ref, ASK_MOST))
        return place.standing is HOLDS

    def wait_lost(self, timeout: Seconds | None = None) -> LossReason | None:
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
                run(signal.wait(Instant(min(end, runtime.now() + 1.0))))
        finally:
            self._own.on_end.remove(signal.set)
        return self.lost

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._own.lost is LossReason.FORKED and error is None:
            return  # the parent's block, left in a forked child: nothing of it is ours to judge
        try:
            self.release()
        except TenureError as lost:
            if error is None:
                raise
            error.add_note(str(lost))


class Lock(BaseLock):
    """A description of what to lock and how; reusable, and holds nothing itself."""

    def __init__(self, client: Client, ask: Ask, wait: Seconds | None) -> None:
        super().__init__(client, ask, wait)
        self._client = client
        # A lease is kept under the thread that entered, never on the Lock alone: two threads may share one Lock.
        self._entered: dict[int, list[Lease]] = {}

    def acquire(self, *, wait: Seconds | None = _DEFAULT) -> Lease:
        """Wait until the name is ours.

        Args:
            wait: give up after so many seconds; None waits for ever, 0 only tries. The lock's own by default.

        Returns:
            A lease whose deadline is counted from before the request was sent.

        Raises:
            AcquireTimeout: the wait is over; nothing is held. Tells who holds the name and how many wait.
            WouldDeadlock: this thread holds the name itself; nothing was queued.
            StoreUnavailable: the engine cannot be reached; nothing is held.
            OutcomeUnknown: no answer came in time; whatever was granted has been given back.

        Ctrl-C: nothing is held afterwards.
        """
        patience = self._wait if wait is _DEFAULT else config.wait(wait)
        begun = self._core.now()
        lease = self._client._acquire(self._ask, patience, begun)
        if not lease._is_granted:
            raise self._client._timeout(lease, begun)
        return lease

    def try_acquire(self) -> Lease | None:
        """Take the name if that needs no waiting; None if others hold it or wait for it."""
        lease = self._client._acquire(self._ask, 0.0, self._core.now())
        return lease if lease._is_granted else None

    def __enter__(self) -> Lease:
        lease = self.acquire()
        self._entered.setdefault(threading.get_ident(), []).append(lease)
        return lease

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        leases = self._entered.get(threading.get_ident())
        if not leases:
            raise UsageError("this thread has not entered this lock; leave it in the thread that entered")
        lease = leases.pop()
        if not leases:
            del self._entered[threading.get_ident()]
        lease.__exit__(kind, error, trace)


class Client(BaseClient):
    """One engine, its session and its leases, for the threads of one process."""

    # -- life -------------------------------------------------------------------------------------------------------

    def open(self) -> Self:
        """Connect now, check the engine, and start the keeper.

        Raises:
            StoreUnavailable: the engine cannot be reached.
            UnsafeSetup, IncompatibleStore: it can, and is not fit for use. Nothing was changed.
        """
        self._open()
        return self

    def _open(self) -> QueueStore:
        core = self._core
        if not core.is_open:
            runtime = self._new_runtime()
            core.open(runtime, lambda engine: (engine.store(runtime), engine.mailbox(runtime)))
        return core.store

    def _new_runtime(self) -> Runtime:
        return BlockingRuntime()

    def close(self) -> None:
        """Release all leases, end the waits of other threads with `UsageError`, stop the keeper."""
        self._core.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
    ) -> Lock:
        """Describe a lock; nothing is held yet.

        Args:
            name: what is locked, 1 to 512 bytes of UTF-8 without control characters.
            shared: together with other shared holders.
            wait: seconds to wait by default; None for ever. It outlives one ttl so that a crashed holder is outwaited.
            max_hold: seconds after which the lease is lost in any case.
            lock_delay: seconds that the name stays closed after an unclean end, for resources that compare no token.
            info: text of up to 1,024 bytes, shown to whoever asks who holds the name.

        Raises:
            UsageError: an argument is wrong.
        """
        return self._lock(name, config.lock_mode(shared), wait, max_hold, lock_delay, info)

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
    ) -> Lock:
        """Describe `permits` of a `limit` on a name; otherwise as `lock`.

        Clients may give different limits; the smallest among the holders counts.
        """
        return self._lock(name, config.permits(limit, permits), wait, max_hold, lock_delay, info)

    def _lock(
        self,
        name: str,
        mode: Mode,
        wait: Seconds | None,
        max_hold: Seconds | None,
        lock_delay: Seconds,
        info: str | None,
    ) -> Lock:
        core = self._core
        longest = core.settings.max_hold if max_hold is None else max_hold
        ask = config.ask(name, mode, max_hold=longest, lock_delay=lock_delay, info=info)
        return Lock(self, ask._replace(name=core.key(ask.name)), config.wait(wait))

    def _acquire(self, ask: Ask, wait: Seconds | None, begun: Instant) -> Lease:
        core = self._core
        store = core.store if core.is_open else self._open()
        owner = threading.current_thread()
        if wait != 0 and ask.name in core.held:
            core.check_deadlock(ask, owner)
        # Made before the claim: if Ctrl-C strikes between the grant and the caller, this handle's end closes it.
        lease = Lease(core)
        lease._store = store
        until = None if wait is None else Instant(begun + wait)
        granted = run(protocol.acquire(core.ledger, store, ask, until, wait == 0, lease._adopt))
        if granted is not None:
            core.hold(granted, owner)
        return lease

    def _timeout(self, lease: Lease, begun: Instant) -> AcquireTimeout:
        try:
            queue = self.inspect(lease.name)
        except TenureError:
            queue = None
        return timeout_error(lease.name, self._core.now() - begun, queue, native.utc(), own=lease.token)

    # -- for operators ----------------------------------------------------------------------------------------------

    def inspect(self, name: str) -> Queue:
        """Who holds a name and who waits, in order.

        Raises:
            StoreUnavailable, OutcomeUnknown: the engine did not answer.
        """
        key = self._core.key(config.name(name))
        return run(self._open().inspect(key, ASK_MOST))._replace(name=name)

    def names(self, prefix: str = "") -> list[str]:
        """The names that begin with `prefix` and are held or waited for, sorted."""
        key = self._core.key(config.text("prefix", prefix, config.NAME_BYTES))
        return [self._core.bare(found) for found in run(self._open().names(key, ASK_MOST))]

    def steal(self, name: str, token: int) -> bool:
        """End the claim with this token, for an operator. Its successor's token is larger, so it is fenced.

        Args:
            name: what is locked.
            token: the claim's number, as `inspect` shows it: by name alone a repeat would rob the successor.

        Returns:
            True if it was there. The robbed holder is told with its next heartbeat, within a third of its ttl.
        """
        key = self._core.key(config.name(name))
        token = config.count("token", token, 2**63 - 1)
        stolen = run(self._open().steal(key, token, ASK_MOST))
        if stolen:
            self._core.ledger.emit(Stolen(key, token))
            self._core.ledger.flush()
        return stolen

    def doctor(self) -> Report:
        """Examine the engine: how it is set up, what that means for a lock, and what to change.

        Works on connections of its own and neither opens nor needs an open client; changes nothing that a lock could
        notice. Takes some round trips, and some seconds where the engine is slow.

        Returns:
            Findings, the worst first. However bad, they raise nothing.

        Raises:
            StoreUnavailable: the engine cannot be reached.
            UnsafeSetup, IncompatibleStore: it can, and cannot be asked: a wrong password, another program's file.
        """
        return self._core.doctor()

    def migrate(self) -> list[str]:
        """Make, or bring to this release, what the engine keeps on its server: the tables of PostgreSQL.

        For the one who deploys, not for each client: the user of this URL owns what is made. Of many who ask at once
        one does it, in one transaction. Other engines need none of this.

        Returns:
            What was done, in words; empty if there was nothing to do.

        Raises:
            StoreUnavailable, UnsafeSetup, IncompatibleStore: nothing was changed.
        """
        return self._core.migrate()

    def descriptors(self) -> tuple[int, ...]:
        """Descriptors that, inherited by a child process, keep this client's claims until that child is dead too."""
        self._open()
        return self._core.engine.descriptors()


__all__ = ["Client", "Lease", "Lock"]
