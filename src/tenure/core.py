"""What `Client` and `AsyncClient` share: the engine, the ledger, the keeper's thread, and what fork and exit do.

Promises: no I/O and no thread before `open`; one keeper thread per client whatever it holds; a forked child holds
nothing of its parent's and never releases any of it; leaving the interpreter without `close` takes a second at most.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from _socket import gethostname
from typing import TYPE_CHECKING

from tenure import engines
from tenure.arguments import quoted
from tenure.config import shown
from tenure.errors import AcquireTimeout, OutcomeUnknown, StoreUnavailable, UnsafeSetup, UsageError, WouldDeadlock
from tenure.model import Kind, LossReason
from tenure.observe.events import Event, Lost, Stalled, Stolen, Suspect
from tenure.observe.log import logger
from tenure.ports import SessionCard
from tenure.protocols.keep import Stop, keep
from tenure.protocols.ledger import Ledger
from tenure.protocols.records import HELD
from tenure.runtimes import native
from tenure.runtimes.blocking import KeeperRuntime, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenure.config import Settings
    from tenure.engines import Engine
    from tenure.findings import Report
    from tenure.model import Contender, Mode, Queue, Seconds
    from tenure.ports import Inbox, Mailbox, QueueStore, Runtime
    from tenure.protocols.claim import Ask
    from tenure.protocols.records import Claim

CLOSE_MOST = 10.0
"""Seconds that `close` waits for the keeper; what is still owed then ends with its session's ttl."""

OPEN_MOST = 5.0
"""Seconds that the first question to an engine may take."""

OPEN_PAUSE = 0.05
"""Seconds before it is asked again, if the answer was lost."""

EXIT_MOST = 1.0
"""Seconds that leaving the interpreter without `close` may take."""


class Core:
    """One client's engine, ledger and keeper."""

    def __init__(self, settings: Settings, on_event: Callable[[Event], None] | None) -> None:
        if on_event is not None and not callable(on_event):
            raise UsageError(f"on_event: a function is needed, not {quoted(on_event)}")
        self.settings = settings
        self.now = native.now
        """The clock of this client; every acquire asks it before it has a runtime."""
        self.engine: Engine = self._new_engine()
        missing = settings.require - self.engine.capabilities - self.engine.conditional
        if missing:
            raise UnsafeSetup(
                f"require: {shown(settings.url)} does not offer {', '.join(sorted(missing))}; its scope is "
                f"{self.engine.scope}"
            )
        self._on_event = on_event
        self.is_open = False
        self.is_closed = False
        self.authority = ""
        self.ledger: Ledger
        self.store: QueueStore
        """The callers' connection."""
        self.held: dict[str, list[Claim]] = {}
        self._done = native.mutex()
        self.opening = threading.Lock()
        """Held by the one thread that connects."""
        _cores.add(self)

    # -- opening and closing ----------------------------------------------------------------------------------------

    def open(self, runtime: Runtime, connect: Callable[[Engine], tuple[QueueStore, Mailbox]]) -> None:
        """Connect, check, and start the keeper, once; whoever comes meanwhile waits. May block.

        Args:
            runtime: the callers' runtime.
            connect: gives the callers' connection and mailbox of the opened engine.

        Raises:
            StoreUnavailable, UnsafeSetup, IncompatibleStore: nothing was changed; the next use tries again.
            UsageError: the client is closed.
        """
        with self.opening:
            if self.is_closed:
                raise UsageError("this client is closed; open another")
            if self.is_open:
                return
            try:
                self._connect(runtime, connect)
            except BaseException:
                self.engine.close()
                self.engine = self._new_engine()
                raise
            self.is_open = True
            if self.is_closed:
                # Closed meanwhile, by somebody who found nothing to close yet.
                self.is_closed = False
                self.close()
                raise UsageError("this client is closed; open another")

    def _connect(self, runtime: Runtime, connect: Callable[[Engine], tuple[QueueStore, Mailbox]]) -> None:
        self.engine.open()
        uncertain = self.settings.require - self.engine.capabilities
        if uncertain:
            # Before the first request that could change anything.
            self.engine.verify(uncertain)
            self.engine.capabilities |= uncertain
        keeper_store = self.engine.keeper_store(KeeperRuntime())
        self.authority = f"{_first_answer(keeper_store)}/{self.settings.namespace}"
        self.store, mailbox = connect(self.engine)
        ledger = Ledger(runtime, self._new_inbox(), mailbox, self._card, self._observe, self.settings.skew)
        ledger.watched = self._on_event is not None
        ledger.part = self.engine.part
        self.ledger = ledger
        self._start_keeper(ledger, keeper_store)

    # What a client of another clock does otherwise.

    def _new_engine(self) -> Engine:
        return engines.connect(self.settings.url, self.settings.namespace, self.settings.options)

    def _new_inbox(self) -> Inbox[object]:
        return native.NativeInbox()

    def _start_keeper(self, ledger: Ledger, store: QueueStore) -> None:
        self._done = native.mutex()
        self._done.__enter__()
        native.start_thread(lambda: self._keep(ledger, store, self._done))

    def _await_keeper(self, most: Seconds) -> bool:
        """Wait until the keeper has ended; whether it has."""
        return bool(self._done.acquire(timeout=most))  # type: ignore[attr-defined]  # a lock, as native.mutex() makes it

    def _keep(self, ledger: Ledger, store: QueueStore, done: object) -> None:
        try:
            run(keep(ledger, store, self.engine.tend, self.engine.beats))
        except BaseException:  # noqa: BLE001 - it is the end of this thread, and is logged
            # Nothing renews from here on: every lease is lost at its deadline, which `held` sees by itself.
            logger().critical("the keeper failed; leases of this client end at their deadlines", exc_info=True)
        finally:
            done.release()  # type: ignore[attr-defined]  # a lock, as native.mutex() makes it

    def close(self, most: Seconds = CLOSE_MOST) -> None:
        """Release what is held, end the sessions, stop the keeper. Waits `most` seconds at most."""
        if self.is_closed:
            return
        self.is_closed = True
        if not self.is_open:
            return
        self.is_open = False
        self.ledger.closing = True
        self.ledger.inbox.put(Stop())
        if self._await_keeper(most):
            self.engine.close()

    def doctor(self) -> Report:
        """Examine the engine, on connections of its own: what keeps a client from opening is what one wants to know.

        Raises:
            StoreUnavailable, UnsafeSetup, IncompatibleStore: the engine cannot be asked.
            UsageError: the client is closed.
        """
        from tenure.findings import Report

        if self.is_closed:
            raise UsageError("this client is closed; open another")
        settings = self.settings
        engine = self._new_engine()
        capabilities, findings = engine.examine(settings.ttl)
        worst_first = tuple(sorted(findings, key=lambda finding: -finding.grade))
        return Report(shown(settings.url), engine.kind, engine.scope, settings.ttl, capabilities, worst_first)

    def migrate(self) -> list[str]:
        """Prepare the engine's server, on a connection of its own. Raises as `Engine.migrate`, and `UsageError`."""
        if self.is_closed:
            raise UsageError("this client is closed; open another")
        return self._new_engine().migrate()

    def fork(self) -> None:
        """In a forked child: nothing is held here, and the next use connects anew."""
        self.opening = threading.Lock()
        if self.is_open:
            self.ledger.fork()
        # Also one that another thread was just about to open.
        self.engine.disown()
        self.is_open = False
        self.engine = self._new_engine()
        self.held = {}

    def _card(self, session: str) -> SessionCard:
        settings = self.settings
        return SessionCard(session, settings.ttl, self.engine.address, settings.client, gethostname(), os.getpid())

    # -- names ------------------------------------------------------------------------------------------------------

    def key(self, name: str) -> str:
        """A name as the engine knows it: a namespace has no colon, so no two of them share a key."""
        return f"{self.settings.namespace}:{name}"

    def bare(self, key: str) -> str:
        """The name of a key."""
        return key.partition(":")[2]

    # -- who holds what in this client ------------------------------------------------------------------------------

    def check_deadlock(self, ask: Ask, owner: object) -> None:
        """Refuse a wait that only the asking thread or task itself could end.

        Raises:
            WouldDeadlock: nothing was queued.
        """
        mine = [c for c in self.held.get(ask.name, ()) if c.owner is owner and c.phase is HELD]
        if mine and not _fits([c.mode for c in mine], ask.mode):
            raise WouldDeadlock(
                f"name: this thread or task already holds {self.bare(ask.name)!r} (token {mine[-1].number}) and would "
                "wait for itself; release it first, or hand_over() the lease if another thread or task uses it"
            )

    def hold(self, claim: Claim, owner: object) -> None:
        """Note a lease under the thread or task that took it."""
        claim.owner = owner
        self.held.setdefault(claim.name, []).append(claim)

    def drop(self, claim: Claim) -> None:
        """A lease has ended."""
        claims = self.held.get(claim.name)
        if claims is not None and claim in claims:
            claims.remove(claim)
            if not claims:
                self.held.pop(claim.name, None)

    # -- events -----------------------------------------------------------------------------------------------------

    def _observe(self, event: Event) -> None:
        event = event._replace(name=self.bare(event.name))
        if isinstance(event, Suspect):
            logger().warning(
                "renewal failed, %.1f s left for %d leases: %s", event.remaining, event.leases, event.cause
            )
        elif isinstance(event, Lost):
            say = logger().info if event.reason is LossReason.CLOSED else logger().error
            say("lost %r (token %d) after %.1f s: %s", event.name, event.token, event.held, event.reason.value)
        elif isinstance(event, Stalled):
            logger().warning(
                "waits for %r for %.0f s, the last ten minutes behind one holder (token %d); is it at work?",
                event.name,
                event.waited,
                event.token,
            )
        elif isinstance(event, Stolen):
            logger().info("stole %r (token %d)", event.name, event.token)
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:  # noqa: BLE001 - it is the hook's, and is logged
                logger().exception("on_event failed for %r", event)


def _first_answer(store: QueueStore) -> str:
    """Ask who draws the tokens, which makes the record of a store that is new; asking twice makes it once.

    Raises:
        StoreUnavailable: nobody answered; no claim and no session was made.
    """
    end = time.monotonic() + OPEN_MOST
    while True:
        try:
            return run(store.authority(max(0.001, end - time.monotonic())))
        except OutcomeUnknown as error:
            if time.monotonic() + OPEN_PAUSE >= end:
                raise StoreUnavailable(f"the engine did not answer within {OPEN_MOST:g} s: {error}") from error
            time.sleep(OPEN_PAUSE)


def _fits(held: list[Mode], asked: Mode) -> bool:
    if asked.kind is Kind.EXCLUSIVE or any(m.kind is not asked.kind for m in held):
        return False
    if asked.kind is Kind.SHARED:
        return True
    return sum(m.permits for m in held) + asked.permits <= min(asked.limit, *(m.limit for m in held))


def timeout_error(name: str, waited: Seconds, queue: Queue | None, now: float, own: int) -> AcquireTimeout:
    """Say who holds a name, since when, with which token, and how many wait beside the claim `own`, given up now."""
    if queue is not None:
        queue = queue._replace(waiters=tuple(c for c in queue.waiters if c.token != own))
    message = f"{name!r} was not granted within {waited:.3g} s"
    if queue is not None and queue.holders:
        first = queue.holders[0]
        more = f" and {len(queue.holders) - 1} more" if len(queue.holders) > 1 else ""
        message += f"; held by {describe(first)}{more} for {max(0.0, now - first.since):.1f} s (token {first.token})"
        message += f"; {len(queue.waiters)} waiting"
    elif queue is not None:
        message += "; nobody in its queue holds it now"
    return AcquireTimeout(message, name=name, waited=waited, queue=queue)


def describe(contender: Contender) -> str:
    """A contender in words."""
    who = f"{contender.host or 'unknown host'} pid {contender.pid}"
    if contender.client:
        who = f"{contender.client} on {who}"
    return f"{who} ({contender.info})" if contender.info else who


_cores: weakref.WeakSet[Core] = weakref.WeakSet()


def _after_fork() -> None:
    for core in list(_cores):
        core.fork()


def _at_exit() -> None:
    end = time.monotonic() + EXIT_MOST
    for core in [c for c in _cores if c.is_open]:
        core.close(max(0.0, end - time.monotonic()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
