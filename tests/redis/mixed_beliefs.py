"""Who believes what of names with plain keys: clients and their claims, and the server seen from outside."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Final

from tenure.engines.redis.life import Life
from tenure.engines.redis.store import RedisStore
from tenure.ports import ClaimRef
from tenure.runtimes import native
from tenure.runtimes.blocking import run

if TYPE_CHECKING:
    from tenure.model import Mode
    from tenure.ports import Entry
    from tests.redis.rig import SocketWire
    from tests.servers.redis import RedisServer
    from tests.servers.resp import Connection, Word

TEMPLATE: Final = "lock:{name}"
NAMES: Final = ("n", "a name with spaces: {braces}")
CLIENTS: Final = ("anne", "bob", "carol")

_serial = itertools.count(1)


class Belief:
    """A claim that was told it holds, for as long as its client is entitled to go by that."""

    def __init__(self, ref: ClaimRef, mode: Mode, delay: float) -> None:
        self.ref = ref
        self.mode = mode
        self.delay = delay
        self.freed = 0.0
        """Until when it keeps the name although nobody works under it any more; 0 while somebody does."""
        self.is_closed = False
        """Its client has said so."""
        self.is_disturbed = False
        """Somebody has deleted or overwritten the key of its name, and its client has not been told yet."""
        self.is_noticed = False
        """A step of ours has seen that since: from then on the key is not free before the client can know."""


class Caller:
    """A client: its session, and what it knows."""

    def __init__(self, store: RedisStore, name: str) -> None:
        self.store = store
        self.address = f"at-{name}"
        self.name = name
        self.session = f"{name}1"
        self.until = 0.0
        """By the server's clock; 0 before it was opened."""
        self.claims = 0
        self.life = ""

    def renew(self) -> None:
        """Another session: ids are used once."""
        self.session = f"{self.name}{int(self.session.removeprefix(self.name)) + 1}"
        self.until, self.claims = 0.0, 0


class Waiting:
    """A claim that waits, and what its client counts on."""

    def __init__(self, entry: Entry, number: int, due: float) -> None:
        self.ref = ClaimRef(entry.session.id, entry.claim, entry.name, number)
        self.entry = entry
        self.due = due
        self.is_hinted = False


class Beliefs:
    """What is believed, and the server as somebody sees it who is no client.

    Attributes:
        is_off: the plain keys are turned off.
    """

    is_off = False

    def __init__(self, server: RedisServer, wire: SocketWire, raw: Connection, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - which steps to take
        self.together = self.random.random() < 0.5
        """Whether most claims may hold together."""
        self.server, self._raw = server, raw
        namespace = f"mixed-{next(_serial)}"
        self.prefix = f"{namespace}:"
        self.tag = f"{{{namespace}:0}}:"
        self.names = [self.prefix + name for name in NAMES[: self.random.choice((1, 1, 2))]]
        self.ahead = 0.0
        self.callers = {name: Caller(RedisStore(wire, namespace, Life(TEMPLATE), native.now), name) for name in CLIENTS}
        for caller in self.callers.values():
            run(caller.store.authority(5.0))
            caller.life = caller.store._life.value
        self.waiting: dict[tuple[str, int], Waiting] = {}
        self.beliefs: dict[tuple[str, int], Belief] = {}
        self.entries: dict[tuple[str, int], Entry] = {}
        self.closed: set[tuple[str, int]] = set()
        """Claims that are no more, and whose enqueue may arrive once more."""
        self.trace: list[str] = []
        for name in self.names:
            self.ask("DEL", self.key(name))

    # -- the server, from outside -------------------------------------------------------------------------------------

    def ask(self, *words: Word) -> object:
        return self._raw.call(*words)

    def key(self, name: str) -> str:
        return TEMPLATE.replace("{name}", name.removeprefix(self.prefix))

    def value(self, name: str) -> str:
        """Of the plain key; empty if there is none."""
        return str(self.ask("GET", self.key(name)) or "")

    def is_ours(self, name: str) -> bool:
        return self.value(name).startswith(f"tenure {self.tag[:-1]} ")

    def now(self) -> float:
        return native.utc() + self.ahead

    # -- what is believed ---------------------------------------------------------------------------------------------

    def say(self, what: str) -> None:
        self.trace.append(f"{self.now():.3f} {what}")

    def holds(self, what: bool, rule: str) -> None:
        assert what, "\n".join([*self.trace[-16:], rule])

    def caller(self) -> Caller:
        caller = self.callers[self.random.choice(CLIENTS)]
        if caller.until and caller.until <= self.now():
            self.renew(caller, caller.until)
        return caller

    def renew(self, caller: Caller, ended: float) -> None:
        """A session is over: its client believes nothing any more, and waits for nothing."""
        self.waiting = {key: waits for key, waits in self.waiting.items() if key[0] != caller.session}
        for key, belief in list(self.beliefs.items()):
            if key[0] == caller.session and not belief.freed:
                if belief.delay and not belief.is_disturbed:
                    belief.freed = ended + belief.delay
                else:
                    del self.beliefs[key]
        caller.renew()

    def of(self, session: str) -> Caller | None:
        """Whose session it is; None if it is over for its client."""
        caller = self.callers[session.rstrip("0123456789")]
        return caller if caller.session == session and caller.until > self.now() else None

    def of_name(self, name: str) -> list[Belief]:
        return [belief for belief in self.beliefs.values() if belief.ref.name == name]

    def ends(self, belief: Belief) -> float:
        """When it keeps the name no longer."""
        if belief.freed:
            return belief.freed
        caller = self.callers[belief.ref.session.rstrip("0123456789")]
        return caller.until + belief.delay if caller.session == belief.ref.session else 0.0

    def believe(self, entry: Entry, number: int) -> None:
        key = (entry.session.id, entry.claim)
        if key not in self.beliefs:
            ref = ClaimRef(entry.session.id, entry.claim, entry.name, number)
            self.beliefs[key] = Belief(ref, entry.mode, entry.delay)

    def notice(self, name: str, what: bool = True) -> None:
        """A step of ours has looked at a name; or what it saw is so no more."""
        for belief in self.of_name(name):
            belief.is_noticed = belief.is_disturbed and what
