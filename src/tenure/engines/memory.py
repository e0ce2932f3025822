"""The memory engine: one store per process and name, for tests and single-process programs.

Status: production, within its scope.
Promises: the very steps of the SQLite engine over dictionaries; numbers rise for the life of the process.
Does not promise: anything beyond this process. A forked child has its own, empty, store.
"""

from __future__ import annotations

import dataclasses
import re
import secrets
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from tenure.engines import Engine
from tenure.engines.queue import At, Steps
from tenure.engines.stepping import StepStore
from tenure.engines.tables import ClaimRow, Glance
from tenure.errors import UnsafeSetup, UsageError
from tenure.model import ALONE, NUMBER_MAX, Mode
from tenure.ports import SessionCard
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from tenure.findings import Examination
    from tenure.model import Instant, Seconds
    from tenure.ports import ClaimRef, Entry, Mailbox, Message, Peer, QueueStore, Runtime
    from tenure.runtimes.aio import AioRuntime

R = TypeVar("R")


@dataclasses.dataclass(slots=True)
class _Session:
    id: str
    until_us: int
    ended: int
    stolen: int
    address: str
    client: str
    host: str
    pid: int
    tombstones: str
    claims: dict[int, _Claim] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class _Claim:
    record: _Session
    claim: int
    name: str
    number: int
    mode: Mode
    delay_us: int
    floor: int
    freed_us: int
    info: str

    @property
    def session(self) -> str:
        return self.record.id

    @property
    def until_us(self) -> int:
        return self.record.until_us

    @property
    def ended(self) -> int:
        return self.record.ended

    @property
    def address(self) -> str:
        return self.record.address


class MemoryTables:
    """Sessions and queues in dictionaries. Numbers rise, so a queue's insertion order is its order."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(8)
        self.life = self.id
        self.last = 0
        self._sessions: dict[str, _Session] = {}
        self._queues: dict[str, dict[int, _Claim]] = {}

    def draw(self, wall_us: int) -> int:
        self.last = max(self.last + 1, wall_us)
        if self.last > NUMBER_MAX:
            raise UnsafeSetup(f"the next fencing token would exceed {NUMBER_MAX}: the wall clock is far ahead")
        return self.last

    def glance(self, session: str, name: str) -> Glance:
        row, queue = self._sessions.get(session), self._queues.get(name)
        seen = Glance(None, 1, 0, "", None, "", "", 0)
        if row is not None:
            seen = seen._replace(until_us=row.until_us, ended=row.ended, stolen=row.stolen, tombstones=row.tombstones)
        if queue:
            first, last = next(iter(queue.values())), next(reversed(queue.values()))
            sure = first.mode.kind is ALONE and first.floor and not first.freed_us and not first.ended
            plain = not last.delay_us and not last.freed_us and not last.ended
            seen = seen._replace(
                held_us=first.until_us if sure else 0,
                last=last.session,
                address=last.address,
                last_us=last.until_us if plain else 0,
            )
        return seen

    def session(self, session: str) -> _Session | None:
        return self._sessions.get(session)

    def card(self, session: str) -> SessionCard | None:
        row = self._sessions.get(session)
        return None if row is None else SessionCard(session, 0.0, row.address, row.client, row.host, row.pid)

    def open(self, card: SessionCard, until_us: int, ended: int, stolen: int, tombstones: str) -> None:
        self._sessions[card.id] = _Session(
            card.id, until_us, ended, stolen, card.address, card.client, card.host, card.pid, tombstones
        )

    def extend(self, session: str, until_us: int) -> None:
        self._sessions[session].until_us = until_us

    def latch(self, session: str, now_us: int) -> None:
        row = self._sessions.get(session)
        if row is not None:
            row.ended = 1
            row.until_us = min(row.until_us, now_us)

    def rob(self, session: str) -> None:
        row = self._sessions.get(session)
        if row is not None:
            row.stolen += 1

    def bury(self, session: str, claim: int) -> None:
        row = self._sessions[session]
        row.tombstones = f"{row.tombstones or ' '}{claim} "

    def drop(self, session: str) -> None:
        self._sessions.pop(session, None)

    def over(self, now_us: int, limit: int) -> list[str]:
        found = []
        for row in self._sessions.values():
            if row.until_us <= now_us:
                found.append(row.id)
                if len(found) == limit:
                    break
        return found

    def queue(self, name: str) -> Iterator[_Claim]:
        return iter(self._queues.get(name, {}).values())

    def backwards(self, name: str, below: int) -> Iterator[_Claim]:
        return (c for c in reversed(self._queues.get(name, {}).values()) if c.number < below)

    def after(self, name: str, number: int) -> _Claim | None:
        return next((c for c in self.queue(name) if c.number > number), None)

    def find(self, ref: ClaimRef) -> _Claim | None:
        session = self._sessions.get(ref.session)
        return None if session is None else session.claims.get(ref.claim)

    def insert(self, entry: Entry, number: int, floor: int, delay_us: int) -> bool:
        session = self._sessions[entry.session.id]
        if entry.claim in session.claims:
            return False
        claim = _Claim(session, entry.claim, entry.name, number, entry.mode, delay_us, floor, 0, entry.info)
        session.claims[entry.claim] = claim
        self._queues.setdefault(entry.name, {})[number] = claim
        return True

    def remove(self, session: str, name: str, number: int) -> bool:
        queue = self._queues.get(name, {})
        claim = queue.get(number)
        if claim is None or claim.session != session:
            return False
        del queue[number]
        if not queue:
            del self._queues[name]
        del claim.record.claims[claim.claim]
        return True

    def tell(self, name: str, number: int, floor: int) -> None:
        self._queues[name][number].floor = floor

    def free_at(self, name: str, number: int, at_us: int) -> None:
        self._queues[name][number].freed_us = at_us

    def owned(self, session: str, limit: int) -> list[ClaimRow]:
        row = self._sessions.get(session)
        return [] if row is None else [*islice(row.claims.values(), limit)]

    def names(self, prefix: str) -> list[str]:
        # An empty queue is what Ctrl-C left of an insertion.
        return sorted(name for name, queue in self._queues.items() if queue and name.startswith(prefix))

    def addresses(self) -> frozenset[str]:
        return frozenset(row.address for row in self._sessions.values())


class SignalMailbox:
    """A mailbox fed from within the process: whoever delivers sets its signal."""

    def __init__(self, runtime: Runtime) -> None:
        self._signal = runtime.signal()
        self._messages: deque[Message] = deque()
        self._poked = False
        self.overflowed = False

    def deliver(self, message: Message) -> None:
        self._messages.append(message)
        self._signal.set()

    def watch(self, peers: Sequence[Peer]) -> bool:  # noqa: ARG002 - nobody in this process dies alone
        return True

    async def receive(self, until: Instant | None) -> list[Message]:
        # A signal may be left over from a message that was taken with its predecessor.
        while not self._messages and not self._poked and await self._signal.wait(until):
            pass
        self._poked = False
        messages = []
        while self._messages:
            messages.append(self._messages.popleft())
        return messages

    def poke(self) -> None:
        self._poked = True
        self._signal.set()


class MemoryHub:
    """One store and the mailboxes of its clients."""

    def __init__(self, mutex: AbstractContextManager[object]) -> None:
        self.tables = MemoryTables()
        self.steps = Steps(self.tables)
        self.mutex = mutex
        self.mailboxes: WeakValueDictionary[str, SignalMailbox] = WeakValueDictionary()


class MemoryStore(StepStore):
    """The store's port over a hub. Its steps never wait, so it serves every runtime and needs no timeout."""

    def __init__(self, hub: MemoryHub, runtime: Runtime) -> None:
        self._hub = hub
        self._runtime = runtime

    async def run(self, step: Callable[[Steps, At], R], timeout: Seconds) -> R:  # noqa: ARG002 - never waits
        hub, now = self._hub, self._runtime.now()
        at = At(int(now * 1e6), int(self._runtime.utc() * 1e6), now)
        with hub.mutex:
            reply = step(hub.steps, at)
            mail = hub.steps.take_mail()
        for address, message in mail:
            mailbox = hub.mailboxes.get(address)
            if mailbox is not None:
                mailbox.deliver(message)
        return reply

    async def authority(self, timeout: Seconds) -> str:  # noqa: ARG002 - never waits
        return f"memory:{self._hub.tables.id}"


class MemoryEngine(Engine):
    """`memory://` and `memory://NAME`: one store per process and name."""

    kind = "memory"
    capabilities = frozenset({"fifo", "shared", "semaphore"})
    scope = "this process only"

    def __init__(self, name: str) -> None:
        self._name = name
        self._address = ""
        self._mailbox: SignalMailbox | None = None

    def open(self) -> None:
        self._hub = self._find_hub(_hubs)
        self._address = secrets.token_hex(8)

    def _find_hub(self, hubs: dict[str, MemoryHub]) -> MemoryHub:
        return hubs.setdefault(self._name, MemoryHub(native.mutex()))

    @property
    def address(self) -> str:
        return self._address

    def store(self, runtime: Runtime) -> QueueStore:
        return MemoryStore(self._hub, runtime)

    def aio_store(self, runtime: AioRuntime) -> QueueStore:
        return MemoryStore(self._hub, runtime)

    def keeper_store(self, runtime: Runtime) -> QueueStore:
        return MemoryStore(self._hub, runtime)

    def mailbox(self, runtime: Runtime) -> Mailbox:
        mailbox = self._mailbox = SignalMailbox(runtime)
        self._hub.mailboxes[self._address] = mailbox
        return mailbox

    def aio_mailbox(self, runtime: AioRuntime) -> Mailbox:
        return self.mailbox(runtime)

    def examine(self, ttl: Seconds) -> Examination:  # noqa: ARG002 - nothing here takes time
        from tenure.findings import Examination, Finding, Grade

        return Examination(
            self.capabilities,
            (
                Finding(
                    "scope",
                    Grade.INFO,
                    f"locks reach {self.scope}",
                    "Two processes that use this URL do not keep each other out.",
                    "Use sqlite:// for the processes of a host, or an engine with a server for several hosts.",
                ),
                Finding("persistence", Grade.INFO, "nothing is written", "Locks and numbers end with the process."),
            ),
        )

    def disown(self) -> None:
        # The child has a copy of every queue, none of whose claims can ever move again here.
        _hubs.pop(self._name, None)

    def close(self) -> None:
        self._hub.mailboxes.pop(self._address, None)


_hubs: dict[str, MemoryHub] = {}


def connect(url: str, namespace: str) -> Engine:  # noqa: ARG001 - its names carry the namespace
    """Make the engine of a `memory://` URL."""
    name = url.removeprefix("memory://")
    if not re.fullmatch(r"[A-Za-z0-9_.-]{0,64}", name):
        raise UsageError("url: memory://NAME takes a name of up to 64 letters, digits, dots, dashes and underscores")
    return MemoryEngine(name)
