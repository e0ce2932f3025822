"""The blocking face: one `Client` per engine URL, its locks, and their leases.

Promises: safe to share between threads; nothing is connected and no thread started before the first use.
Does not promise that a thread stops when it loses a lease: Python cannot stop one. Call `lease.check()`, and let the
resource refuse what slips through.
"""

from __future__ import annotations

import abc
import threading
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from tenure import config
from tenure.core import timeout_error
from tenure.errors import AcquireTimeout, TenureError, UsageError
from tenure.face import BaseClient, BaseDescription, BaseLock, BaseLocks
from tenure.lease import ASK_MOST
from tenure.lease_blocking import Lease, Leases
from tenure.model import Instant, Queue, Seconds
from tenure.observe.events import Stolen
from tenure.protocols import claim as protocol
from tenure.protocols.several import acquire_all, in_order
from tenure.runtimes import native
from tenure.runtimes.blocking import BlockingRuntime, run

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from tenure.findings import Report
    from tenure.ports import QueueStore, Runtime
    from tenure.protocols.claim import Ask

H = TypeVar("H", Lease, Leases)

_DEFAULT: Any = object()


class _Description(BaseDescription, Generic[H]):
    """What to lock and how."""

    def __init__(self, client: Client, wait: Seconds | None) -> None:
        super().__init__(client, wait)
        self._client = client
        # A lease is kept under the thread that entered, never on the Lock alone: two threads may share one Lock.
        self._entered: dict[int, list[H]] = {}

    @abc.abstractmethod
    def _take(self, wait: Seconds | None, begun: Instant) -> H:
        """Ask for it; what comes is not granted if the wait is over."""

    def acquire(self, *, wait: Seconds | None = _DEFAULT) -> H:
        """Wait until it is ours.

        Args:
            wait: give up after so many seconds; None waits for ever, 0 only tries. The lock's own by default.

        Returns:
            A lease whose deadline is counted from before the request was sent.

        Raises:
            AcquireTimeout: the wait is over; nothing is held. Tells who holds the name and how many wait.
            WouldDeadlock: this thread holds a name of it itself; nothing was queued.
            StoreUnavailable: the engine cannot be reached; nothing is held.
            OutcomeUnknown: no answer came in time; whatever was granted has been given back.

        Ctrl-C: nothing is held afterwards.
        """
        patience = self._wait if wait is _DEFAULT else config.wait(wait)
        begun = self._core.now()
        held = self._take(patience, begun)
        if held._missing is not None:
            raise self._client._timeout(held._missing, begun)
        return held

    def try_acquire(self) -> H | None:
        """Take it if that needs no waiting; None if others hold it or wait for it."""
        held = self._take(0.0, self._core.now())
        return held if held._missing is None else None

    def __enter__(self) -> H:
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


class Lock(_Description[Lease], BaseLock):
    """A description of what to lock and how; reusable, and holds nothing itself."""

    def __init__(self, client: Client, ask: Ask, wait: Seconds | None) -> None:
        super().__init__(client, wait)
        self._ask = ask

    def _take(self, wait: Seconds | None, begun: Instant) -> Lease:
        return self._client._acquire(self._ask, wait, begun)


class Locks(_Description[Leases], BaseLocks):
    """A description of several names to lock together; reusable, and holds nothing itself."""

    def __init__(self, client: Client, asks: list[Ask], wait: Seconds | None) -> None:
        super().__init__(client, wait)
        self._asks = asks

    def _take(self, wait: Seconds | None, begun: Instant) -> Leases:
        return self._client._acquire_all(self._asks, wait, begun)


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
        return Lock(self, self._asked(name, config.lock_mode(shared), max_hold, lock_delay, info), config.wait(wait))

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
        ask = self._asked(name, config.permits(limit, permits), max_hold, lock_delay, info)
        return Lock(self, ask, config.wait(wait))

    def lock_all(
        self,
        names: Iterable[str],
        *,
        shared: bool = False,
        wait: Seconds | None = 60.0,
        max_hold: Seconds | None = None,
        lock_delay: Seconds = 0.0,
        info: str | None = None,
    ) -> Locks:
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
        """
        return Locks(
            self, self._all_asked(names, config.lock_mode(shared), max_hold, lock_delay, info), config.wait(wait)
        )

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

    def _acquire_all(self, asks: list[Ask], wait: Seconds | None, begun: Instant) -> Leases:
        core = self._core
        store = core.store if core.is_open else self._open()
        owner = threading.current_thread()
        asks = in_order(core.ledger, asks)
        if wait != 0:
            for ask in asks:
                core.check_deadlock(ask, owner)
        held: dict[str, Lease] = {}
        for ask in asks:
            held[core.bare(ask.name)] = lease = Lease(core)
            lease._store = store
        leases = Leases(core, held)
        leases._store = store
        until = None if wait is None else Instant(begun + wait)
        granted = run(acquire_all(core.ledger, store, asks, until, wait == 0, leases._adopt))
        if isinstance(granted, list):
            leases._missing = None
            for claim in granted:
                core.hold(claim, owner)
        else:
            leases._missing = held[core.bare(granted.name)]
        return leases

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


__all__ = ["Client", "Lease", "Leases", "Lock", "Locks"]
