"""Protocols driven one await at a time, in virtual time: no threads, no loop, no waiting.

Each process is a coroutine whose ports are traps: it stops before each request's effect, after the effect and before
the reply, and wherever it waits. A test can throw an exception into it at any of these, count them, and lose or delay
what was on its way. Nothing here lists the awaits of a protocol: they are found by running it.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, NamedTuple

from tenure.engines.memory import MemoryHub, MemoryStore, SignalMailbox
from tenure.model import EXCLUSIVE, Instant, UtcTime
from tenure.ports import SessionCard
from tenure.protocols import claim as protocol
from tenure.protocols.claim import Ask
from tenure.protocols.keep import keep
from tenure.protocols.ledger import Ledger
from tenure.protocols.records import Claim
from tenure.protocols.several import acquire_all, in_order, release_all

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from tenure.observe import Event

FOREVER = Instant(float("inf"))


class Trap(NamedTuple):
    """Where a process stands.

    Attributes:
        where: in words, for the report of a failure.
        is_ready: whether it can go on.
        until: it can go on from then in any case.
        effect: before a request's effect: carries it out, as a request that arrives late would.
    """

    where: str
    is_ready: Callable[[], Any] = lambda: True
    until: Instant = FOREVER
    effect: Callable[[], Any] | None = None


@types.coroutine
def stop(at: Trap) -> Generator[Trap, Any, Any]:
    """Stand there until the world lets go on."""
    assert not Mutex.held, f"awaits {at.where} while it holds the mutex"
    return (yield at)


class Mutex:
    """A lock for decisions: nobody may await under it, nor take it twice."""

    held: list[Mutex] = []  # noqa: RUF012 - shared on purpose

    def __enter__(self) -> None:
        assert self not in Mutex.held, "taken twice: a thread would wait for itself"
        Mutex.held.append(self)

    def __exit__(self, *_: object) -> None:
        Mutex.held.remove(self)


class StepSignal:
    """A signal whose waiter stands in a trap."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        assert not Mutex.held, "set under the mutex"
        self.is_set = True

    async def wait(self, until: Instant | None) -> bool:
        await stop(Trap("a signal", lambda: self.is_set, FOREVER if until is None else until))
        was_set, self.is_set = self.is_set, False
        return was_set


class StepInbox:
    """The keeper's queue."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    def put(self, item: Any) -> None:
        self.items.append(item)

    async def get(self, until: Instant) -> list[Any]:
        await stop(Trap("the inbox", lambda: self.items, until))
        items, self.items = self.items, []
        return items


class StepRuntime:
    """Virtual time, and ids that repeat."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> Instant:
        return Instant(self._world.time)

    def utc(self) -> UtcTime:
        return UtcTime(1.7e9 + self._world.time)

    def new_id(self) -> str:
        self._world.ids += 1
        return f"id{self._world.ids}"

    def random(self) -> float:
        return 0.5

    def signal(self) -> StepSignal:
        return StepSignal()

    def mutex(self) -> Mutex:
        return Mutex()


class StepStore:
    """The memory engine behind a network of two traps: one before the effect, one before the reply.

    Attributes:
        faults: by operation, exceptions to raise in turn instead of the reply; the class decides whether there was an
            effect: StoreUnavailable none, OutcomeUnknown one.
    """

    def __init__(self, hub: MemoryHub, runtime: StepRuntime) -> None:
        self._inner = MemoryStore(hub, runtime)
        self.faults: dict[str, list[Exception]] = {}
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, operation: str) -> Any:
        inner = getattr(self._inner, operation)

        def effect(*arguments: Any) -> Any:
            coroutine = inner(*arguments)
            try:
                coroutine.send(None)
            except StopIteration as done:
                return done.value
            raise AssertionError("the memory engine waited")

        async def call(*arguments: Any) -> Any:
            from tenure.errors import OutcomeUnknown, StoreUnavailable

            self.calls.append((operation, arguments))
            fault = self.faults[operation].pop(0) if self.faults.get(operation) else None
            await stop(Trap(f"{operation}, before its effect", effect=lambda: effect(*arguments)))
            if isinstance(fault, StoreUnavailable):
                raise fault
            reply = effect(*arguments)
            await stop(Trap(f"{operation}, before its reply"))
            if isinstance(fault, OutcomeUnknown):
                raise fault
            return reply

        return call


class Process:
    """A coroutine and where it stands."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.coroutine = coroutine
        self.trap: Trap | None = Trap("its beginning")
        self.passed = 0
        self.result: Any = None
        self.error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self.trap is None

    def resume(self, error: BaseException | None = None) -> None:
        """Run to the next trap or the end; with an error, throw it where the process stands."""
        try:
            trap = self.coroutine.throw(error) if error is not None else self.coroutine.send(None)
        except StopIteration as done:
            self.result, self.trap = done.value, None
        except BaseException as raised:  # noqa: BLE001 - it is what the test looks at
            self.error, self.trap = raised, None
        else:
            self.trap = trap
            self.passed += 1


class Member:
    """One client: its ledger, its keeper and its mailbox."""

    def __init__(self, world: World, ttl: float, *, keeper: bool = True) -> None:
        self.world = world
        self.runtime = StepRuntime(world)
        self.inbox = StepInbox()
        self.events: list[Event] = []
        address = f"address{len(world.members)}"
        self.mailbox = SignalMailbox(self.runtime)
        world.hub.mailboxes[address] = self.mailbox
        self.ledger = Ledger(
            self.runtime,
            self.inbox,
            self.mailbox,
            lambda session: SessionCard(session, ttl, address, "", "host", 1),
            self.events.append,
        )
        self.ledger.watched = True
        self.store = StepStore(world.hub, self.runtime)
        self.keeper_store = StepStore(world.hub, self.runtime)
        self.keeper = Process(keep(self.ledger, self.keeper_store))
        if keeper:
            world.processes.append(self.keeper)
        self.adopted: list[Claim] = []

    def acquire(
        self, name: str = "name", wait: float | None = 60.0, ask: Ask | None = None, at_once: bool = False
    ) -> Process:
        until = None if wait is None else Instant(self.world.time + wait)
        return self.world.start(
            protocol.acquire(self.ledger, self.store, ask or Ask(name, EXCLUSIVE), until, at_once, self.adopted.append)
        )

    def acquire_all(self, *names: str, at_once: bool = False) -> Process:
        asks = in_order(self.ledger, [Ask(name, EXCLUSIVE) for name in names])
        until = Instant(self.world.time + 60.0)
        return self.world.start(
            acquire_all(self.ledger, self.store, asks, until, at_once, lambda _, claim: self.adopted.append(claim))
        )

    def release_all(self, claims: list[Claim]) -> Process:
        return self.world.start(release_all(self.ledger, self.store, claims))

    def release(self, claim: Claim) -> Process:
        return self.world.start(protocol.release(self.ledger, self.store, claim))

    def hold(self, name: str = "name", ask: Ask | None = None) -> Claim:
        """Acquire, running the world until it is done."""
        process = self.acquire(name, ask=ask)
        self.world.run(lambda: process.is_done)
        assert process.error is None
        assert isinstance(process.result, Claim)
        return process.result


class World:
    """Processes over one store, in virtual time."""

    def __init__(self) -> None:
        Mutex.held.clear()
        self.time = 1000.0
        self.ids = 0
        self.hub = MemoryHub(Mutex())
        self.processes: list[Process] = []
        self.members: list[Member] = []

    def member(self, ttl: float = 30.0, *, keeper: bool = True) -> Member:
        member = Member(self, ttl, keeper=keeper)
        self.members.append(member)
        return member

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> Process:
        process = Process(coroutine)
        self.processes.append(process)
        return process

    def run(
        self,
        enough: Callable[[], Any] = lambda: False,
        *,
        seconds: float = 1000.0,
        without: Process | None = None,
    ) -> None:
        """Let everybody go on, the clock too, until it is enough, nothing can happen, or the time is over."""
        end = self.time + seconds
        for _ in range(10_000):
            if enough():
                return
            going = [p for p in self.processes if p.trap is not None and p is not without]
            ready = [p for p in going if p.trap and (p.trap.is_ready() or p.trap.until <= self.time)]
            if ready:
                for process in ready:
                    process.resume()
                continue
            due = min((p.trap.until for p in going if p.trap), default=FOREVER)
            if due > end:
                self.time = max(self.time, end) if end < 1e9 else self.time
                return
            self.time = due
        raise AssertionError("no end in sight")

    def queues(self) -> dict[str, list[tuple[str, int]]]:
        """What stands in the store: session and claim by name."""
        tables = self.hub.tables
        return {name: [(c.session, c.claim) for c in tables.queue(name)] for name in tables.names("")}

    def end(self) -> None:
        """Close what has not ended, so that nothing warns."""
        for process in self.processes:
            process.coroutine.close()
        for member in self.members:
            member.keeper.coroutine.close()
        Mutex.held.clear()
