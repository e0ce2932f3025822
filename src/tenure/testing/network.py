"""The simulated network and the server at its end.

Promises: a request ends in a reply, in `StoreUnavailable` where it certainly had no effect, or in `OutcomeUnknown`;
lost requests, lost replies and requests that arrive long after they were given up are all among what is tried. Mail is
delayed, lost and doubled. A link is cut in one direction or in both.
Does not promise the order within a connection: each request has one of its own, which is the worst case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from tenure.engines.queue import At, Steps, ends_us
from tenure.engines.stepping import StepStore
from tenure.errors import OutcomeUnknown, SetupError, StoreUnavailable
from tenure.testing.history import Entered, Theft
from tenure.testing.world import Park, Process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tenure.model import Instant, Seconds
    from tenure.ports import Beat, ClaimRef, Closing, Entry, Message, Peer, Place
    from tenure.testing.history import History
    from tenure.testing.runtime import SimSignal
    from tenure.testing.tables import SimTables
    from tenure.testing.world import World

R = TypeVar("R")

WALL: float = 1_000_000.0
"""The server's wall clock at the start of a run, in seconds: small, so that numbers stay readable."""


class Weather(NamedTuple):
    """How bad the network is: a typical delay in seconds, the others are chances of one message."""

    delay: float = 0.002
    lose: float = 0.0
    lose_reply: float = 0.0
    late: float = 0.0
    late_most: float = 0.0
    refuse: float = 0.0
    reset: float = 0.0
    mail_lose: float = 0.0
    mail_double: float = 0.0
    mail_late: float = 0.0


class Server:
    """The node that keeps the queues."""

    def __init__(self, world: World, tables: SimTables, history: History, rate: float) -> None:
        self.world = world
        self.process = Process(world, "server", rate, 5000.0)
        self.tables = tables
        self.history = history
        self.steps = Steps(tables)
        self.is_down = False
        self.starts = 0
        self.ahead = 0.0
        """Seconds that its clock was set ahead, or back."""
        self.wall_ahead = 0.0

    @property
    def now_us(self) -> int:
        """The clock by which sessions end."""
        return int((self.process.now() + self.ahead) * 1e6)

    def true(self, at_us: int) -> float:
        """World time at which that clock reads `at_us`."""
        return self.process.true(at_us / 1e6 - self.ahead)

    def step(self, step: Callable[[Steps, At], R], sent: Instant) -> R:
        """Make one atomic step."""
        wall = WALL + self.process.now() + self.wall_ahead
        # What was entitled by time alone is noted before the step removes the dead.
        self.tables.note_entitled(self.now_us)
        reply = step(self.steps, At(self.now_us, int(wall * 1e6), sent))
        self.tables.note_entitled(self.now_us)
        return reply


class Network:
    """All links between the clients and the server."""

    def __init__(self, world: World, server: Server, history: History) -> None:
        self.world = world
        self.server = server
        self.history = history
        self.weather = Weather()
        self.cut: set[tuple[str, str]] = set()
        self.mailboxes: dict[str, SimMailbox] = {}
        self.dead_after: float | None = None
        """Seconds after which whoever looks knows that a crashed process is dead (C1); None: nobody ever does."""
        self._held: list[tuple[tuple[str, str], Process, Callable[..., None]]] = []

    def send(self, source: str, target: Process, do: Callable[[], None], lose: float) -> None:
        """Carry something over a directed link."""
        rng, weather = self.world.rng, self.weather
        link = (source, target.name)
        if link in self.cut:
            # Packets of a living connection are sent again when the link is back; others are gone.
            if rng.random() < 0.5:
                self._held.append((link, target, do))
            return
        if lose and rng.random() < lose:
            return
        delay = weather.delay * (0.5 + rng.expovariate(1.0))
        if weather.late and rng.random() < weather.late:
            delay += rng.random() * weather.late_most
        self.world.after(delay, target, do)

    def heal(self, link: tuple[str, str]) -> None:
        """Join a link that was cut; what was held back arrives now."""
        self.cut.discard(link)
        held, self._held = self._held, []
        for entry in held:
            if entry[0] == link:
                self.send(link[0], entry[1], entry[2], 0.0)
            else:
                self._held.append(entry)

    def call(self, process: Process, step: Callable[[Steps, At], R], timeout: Seconds, what: str) -> Park:
        """Send a request; the park is resolved with the reply or an error."""
        world, rng, weather, server = self.world, self.world.rng, self.weather, self.server
        park, sent, starts, task = Park(), process.now(), server.starts, world.current
        world.note(process.name, "asks", what)

        def arrive() -> None:
            if server.starts != starts:
                return  # a connection does not outlive the server's process
            if server.is_down or rng.random() < weather.refuse:
                self.send("server", process, refuse, weather.lose_reply)
                return
            try:
                reply = server.step(step, sent)
            except SetupError as error:
                raised: BaseException = error
                self.send("server", process, lambda: park.fail(raised), weather.lose_reply)
                return
            world.note("server", "does", f"{process.name} {what}", reply)
            self.deliver_mail()
            if task is not None and task.is_doomed:
                # The effect happened; the caller is cancelled before, at or after the reply.
                task.is_doomed = False
                self.history.counts["cancelled after the effect"] += 1
                world.after(rng.random() * weather.delay * 3, process, task.cancel)
            self.send("server", process, lambda: park.resolve(reply), weather.lose_reply)

        def refuse() -> None:
            park.fail(StoreUnavailable("refused"))

        def give_up() -> None:
            if not park.is_done:
                self.history.counts["unknown"] += 1
                world.note(process.name, "unknown", what)
                park.fail(OutcomeUnknown("no answer"))

        self.send(process.name, server.process, arrive, weather.lose)
        process.at(sent + timeout, give_up)
        if weather.reset and rng.random() < weather.reset:
            process.at(sent + timeout * rng.random() * 0.2, give_up)
        process.sent()
        return park

    def deliver_mail(self) -> None:
        """Send the mail of the step just made, each message on its own."""
        rng, weather = self.world.rng, self.weather
        for address, message in self.server.steps.take_mail():
            mailbox = self.mailboxes.get(address)
            if mailbox is None:
                continue
            for _ in range(2 if rng.random() < weather.mail_double else 1):
                late = rng.random() * weather.late_most if rng.random() < weather.mail_late else 0.0
                self.world.after(late, None, self._mail, mailbox, message)

    def _mail(self, mailbox: SimMailbox, message: Message) -> None:
        self.send("server", mailbox.process, lambda: mailbox.deliver(message), self.weather.mail_lose)

    def died(self, address: str) -> None:
        """A process is gone: whoever listens to it hears the end of file (C1)."""
        if self.dead_after is not None:
            self.world.after(self.dead_after, None, self._end_of_file, address)

    def _end_of_file(self, address: str) -> None:
        for mailbox in self.mailboxes.values():
            if address in mailbox.listens_to:
                mailbox.listens_to.discard(address)
                self.world.after(0.0, mailbox.process, mailbox.poke)

    def known_dead(self) -> frozenset[str]:
        """The sessions whose process certainly is dead."""
        if self.dead_after is None:
            return frozenset()
        return frozenset(
            session for mailbox in self.mailboxes.values() if mailbox.is_gone() for session in mailbox.sessions
        )


class SimMailbox:
    """As `ports.Mailbox`."""

    def __init__(self, process: Process, network: Network, signal: SimSignal) -> None:
        self.process = process
        self.listens_to: set[str] = set()
        self.sessions: list[str] = []
        self.crashed_at: float | None = None
        self.overflowed = False
        self._network = network
        self._signal = signal
        self._messages: list[Message] = []
        self._absent: set[str] = set()

    def deliver(self, message: Message) -> None:
        """A message has come."""
        self._network.world.note(
            self.process.name, "mail", f"{message.session}/{message.claim} {message.number % 10**8}"
        )
        self._messages.append(message)
        self._signal.set()

    def watch(self, peers: Sequence[Peer]) -> bool:
        network = self._network
        if network.dead_after is None:
            return True
        heard = True
        for peer in peers:
            other = network.mailboxes.get(peer.address)
            if other is None or other.is_gone():
                # Only the first time, like the mailbox of SQLite: whoever asks again after a False cannot spin.
                heard = heard and peer.address in self._absent
                self._absent.add(peer.address)
            elif other is not self:
                self.listens_to.add(peer.address)
        return heard

    def is_gone(self) -> bool:
        """Whether its process has been dead for long enough to be known dead."""
        after = self._network.dead_after
        return self.crashed_at is not None and after is not None and self.crashed_at + after <= self._network.world.time

    async def receive(self, until: Instant | None) -> list[Message]:
        if not self._messages:
            await self._signal.wait(until)
        messages, self._messages = self._messages, []
        return messages

    def poke(self) -> None:
        self._signal.set()


class SimStore(StepStore):
    """As `ports.QueueStore`: the steps of the real engines, on the simulated server."""

    def __init__(self, process: Process, network: Network, label: str) -> None:
        self._process = process
        self._network = network
        self._label = label
        self._first_sent: dict[tuple[str, int], float] = {}

    async def run(self, step: Callable[[Steps, At], R], timeout: Seconds) -> R:
        reply: R = await self._network.call(self._process, step, timeout, self._label)
        return reply

    async def enter(self, entry: Entry, timeout: Seconds) -> Place:
        network, world = self._network, self._network.world
        mailbox = network.mailboxes.get(entry.session.address)
        if mailbox is not None and entry.session.id not in mailbox.sessions:
            mailbox.sessions.append(entry.session.id)
        # A repeat finds the number that the first request drew.
        sent = self._first_sent.setdefault((entry.session.id, entry.claim), world.time)
        place = await self._named(
            lambda steps, at: steps.enter(at, entry, network.known_dead()),
            timeout,
            f"enter {entry.session.id}/{entry.claim} {entry.name}",
        )
        if place.number:
            network.history.entered.append(Entered(entry.name, place.number, sent, world.time))
        return place

    async def look(self, ref: ClaimRef, timeout: Seconds) -> Place:
        dead = self._network.known_dead
        return await self._named(lambda steps, at: steps.look(at, ref, dead()), timeout, f"look {ref}")

    async def close(self, closings: Sequence[Closing], timeout: Seconds) -> list[bool]:
        shown = " ".join(f"{c.ref.session}/{c.ref.claim}{'+t' if c.tombstone else ''}" for c in closings)
        return await self._named(lambda steps, at: steps.close(at, closings), timeout, f"close {shown}")

    async def heartbeat(self, session: str, ttl: Seconds, waiting: bool, timeout: Seconds) -> Beat:
        return await self._named(
            lambda steps, at: steps.heartbeat(at, session, ttl, waiting), timeout, f"heartbeat {session}"
        )

    async def steal(self, name: str, number: int, timeout: Seconds) -> bool:
        network = self._network

        def step(steps: Steps, at: At) -> bool:
            tables = network.server.tables
            # The dead are passed over in the same step, and nobody is robbed by that.
            before = {row.number for row in tables.queue(name) if ends_us(row) > at.now_us}
            taken = steps.steal(at, name, number)
            gone = before - {row.number for row in tables.queue(name)}
            if taken or gone:
                network.history.thefts.append(Theft(network.world.time, name, number, tuple(sorted(gone))))
            return taken

        return await self._named(step, timeout, f"steal {name} {number % 10**8}")

    async def _named(self, step: Callable[[Steps, At], R], timeout: Seconds, what: str) -> R:
        reply: R = await self._network.call(self._process, step, timeout, what)
        return reply

    async def authority(self, timeout: Seconds) -> str:  # noqa: ARG002 - nothing to ask
        return "sim"
