"""Asking an ensemble, and the genesis record by which everything that is asked goes.

Promises: every question ends within its time in an answer, `StoreUnavailable` (nothing was sent), `OutcomeUnknown`, or
`Expired` (the session is over); waiting is the runtime's, so that no loop is ever blocked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenure.engines.zookeeper import jute
from tenure.engines.zookeeper.dial import Expired
from tenure.engines.zookeeper.jute import Refusal
from tenure.engines.zookeeper.layout import FORMAT, SPOKEN, Genesis, read_genesis
from tenure.engines.zookeeper.wire import Batch
from tenure.errors import IncompatibleStore, OutcomeUnknown, StoreUnavailable, UnsafeSetup
from tenure.model import Instant
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenure.engines.zookeeper.hub import Hub
    from tenure.engines.zookeeper.link import Link
    from tenure.model import Seconds
    from tenure.ports import Runtime, Signal

TURNS_MOST: Final = 4
"""How often one operation begins anew because something vanished under it."""


class Question(NamedTuple):
    """Requests that were sent, and how one waits for their answers."""

    link: Link
    batch: Batch
    signal: Signal
    begun: Instant


class Asking:
    """Asks on behalf of callers of one runtime."""

    def __init__(self, hub: Hub, runtime: Runtime) -> None:
        self.hub = hub
        self.layout = hub.layout
        self.runtime = runtime

    # -- asking -----------------------------------------------------------------------------------------------------

    def until(self, timeout: Seconds) -> Instant:
        """When a request that begins now has used up its time."""
        return Instant(self.runtime.now() + timeout)

    async def ask(self, link: Link, requests: Sequence[jute.Request], until: Instant) -> list[Any]:
        """As `asked`; the answers alone."""
        return (await self.asked(link, requests, until)).answers

    async def ask_spare(self, link: Link, requests: Sequence[jute.Request], until: Instant) -> list[Any]:
        """As `ask`, of a session for questions: that it ends is an outage."""
        try:
            return await self.ask(link, requests, until)
        except Expired as error:
            raise StoreUnavailable("the session for this question has ended") from error

    async def asked(self, link: Link, requests: Sequence[jute.Request], until: Instant) -> Batch:
        """Send requests in one write and wait for all answers.

        Raises:
            StoreUnavailable: nothing was sent.
            OutcomeUnknown: something was, and not every answer came.
            Expired: the session is over.
        """
        return await self.ended(self.begin(link, requests), until)

    def begin(self, link: Link, requests: Sequence[jute.Request]) -> Question:
        """Send requests in one write."""
        signal = self.runtime.signal()
        batch = Batch(requests, signal.set)
        link.submit(batch)
        return Question(link, batch, signal, self.runtime.now())

    async def ended(self, question: Question, until: Instant) -> Batch:
        """Wait for the answers."""
        link, batch, signal, begun = question
        while not batch.is_done:
            await signal.wait(until)
            if not batch.is_done and self.runtime.now() >= until:
                link.give_up(batch, until - begun)
        if batch.error is not None:
            raise batch.error
        return batch

    @staticmethod
    def fault(answer: Any) -> tuple[int, int]:
        """Of a multi: which part was at fault, and its code."""
        return (-1, answer.code) if isinstance(answer, Refusal) else jute.refused(answer)

    # -- genesis ----------------------------------------------------------------------------------------------------

    async def genesis(self, until: Instant, link: Link | None = None) -> Genesis:
        """The record in force; read or made first if need be."""
        while self.hub.genesis is None:
            await self.adopt(link or self.hub.spare(), until)
        return self.hub.genesis

    async def adopt(self, link: Link, until: Instant) -> None:
        """Read the genesis record, making it if there is none, and go by it from now on."""
        layout, login = self.layout, self.hub.login
        for _ in range(TURNS_MOST):
            _, answer = await self.ask(link, [jute.sync(layout.root), jute.get(layout.root)], until)
            if isinstance(answer, Refusal) and answer.code != jute.NO_NODE:
                raise refusal(answer.code)
            if not isinstance(answer, Refusal) and answer[0]:
                found = self._checked(answer[0])
                layout.adopt(found)
                self.hub.genesis = found
                self.hub.parents.clear()
                return
            # None yet, or a node that an administrator has made for us. All of it at once, or none: another client
            # may be at it.
            new = Genesis(FORMAT, native.new_id(), 0)
            layout.adopt(new)
            if isinstance(answer, Refusal):
                record = jute.create(layout.root, new.data, login)
            else:
                record = jute.write(layout.root, new.data, answer[1].version)
            folders = [jute.create(path, b"", login) for path in (layout.tree, layout.sessions, layout.queues)]
            above = [jute.create(path, b"", login) for path in layout.above()]
            *made, done = await self.ask(link, [*above, jute.multi(record, *folders)], until)
            _, code = self.fault(done)
            if code == jute.NO_NODE:
                code = next((a.code for a in made if isinstance(a, Refusal) and a.code != jute.NODE_EXISTS), code)
            if code not in (jute.OK, jute.NODE_EXISTS, jute.BAD_VERSION):
                raise refusal(code)
        raise StoreUnavailable("the genesis record vanished several times during one request; nothing was changed")

    def _checked(self, data: bytes) -> Genesis:
        found = read_genesis(data)
        if found is None or found.format not in SPOKEN:
            what = "is none of tenure's" if found is None else f"has format {found.format}"
            raise IncompatibleStore(
                f"the record {self.layout.root} {what}, and this release speaks {SPOKEN}; "
                "use another namespace, or a newer release of tenure",
                in_force=found.format if found else None,
                spoken=SPOKEN,
            )
        return found

    @property
    def life(self) -> str:
        """Names the store whose genesis record is in force."""
        return self.hub.genesis.id if self.hub.genesis else ""


def nodes_of(answer: Any) -> list[str]:
    """A listing; that of a node which is not there is empty."""
    if isinstance(answer, Refusal):
        if answer.code == jute.NO_NODE:
            return []
        raise refusal(answer.code)
    found: list[str] = answer
    return found


def refusal(code: int) -> Exception:
    """What a refusal means for whoever asked."""
    if code in (jute.NO_AUTH, jute.AUTH_FAILED):
        return UnsafeSetup("ZooKeeper: this user has no right to the nodes of this namespace; nothing was changed")
    if code == jute.UNIMPLEMENTED:
        return UnsafeSetup("ZooKeeper: this server is older than 3.5.3, which has no containers; nothing was changed")
    if code in (jute.THROTTLED, jute.QUOTA_EXCEEDED):
        return StoreUnavailable(f"ZooKeeper refused the request ({code}): too much is asked of it, or a quota is full")
    return OutcomeUnknown(f"ZooKeeper answered with error {code}")
