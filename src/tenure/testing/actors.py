"""The holders of a drill: each in a thread of its own, under asyncio with a loop of its own, stopped at a point.

Promises: a stopped holder does nothing at all, as a paused process: its thread, and with it its loop, stands still.
Does not promise that a holder which waits can be told from one that is slow: whoever is not heard of for a while is
taken to wait.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from queue import Empty, Queue, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenure.runtimes.blocking import run
from tenure.testing.stepping import actor, try_watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tenure.testing.clock import VirtualClock

HANGS_S: Final = 30.0
"""Seconds after which a holder that should end by itself is taken to hang."""


ENDS_S: Final = 5.0
"""Seconds that a holder has for closing what it has."""


class Line(NamedTuple):
    """One line of the timeline."""

    who: str
    what: str


class Told(NamedTuple):
    """What is heard of an actor.

    Attributes:
        kind: "stopped", "done", "refused" or "failed".
        detail: where it was stopped, or the error.
    """

    kind: str
    detail: str = ""

    @property
    def is_over(self) -> bool:
        """Whether its run has ended."""
        return self.kind != "stopped"


class Play(NamedTuple):
    """What all the actors of one drill have in common.

    Attributes:
        path: the user's own write path.
        connect: makes what it works on.
        takes: "lease" or "client".
        name: what is locked.
        refusal: the errors by which a stale holder is refused.
        is_async: whether they run under asyncio.
    """

    path: Callable[[Any, Any], Any]
    connect: Callable[[], Any]
    takes: str
    name: str
    refusal: tuple[type[BaseException], ...]
    is_async: bool


class Actor:
    """One holder."""

    def __init__(self, who: str, play: Play, clock: VirtualClock, timeline: list[Line]) -> None:
        self.who = who
        self._play = play
        self._timeline = timeline
        self.client: Any = clock.async_client() if play.is_async else clock.client()
        self.points: list[str] = []
        """Those of the run under way."""
        self._stop: int | None = None
        self._connection: Any = None
        self._is_connected = False
        self._is_silent = False
        self._holding: Any = None
        self._orders: SimpleQueue[str] = SimpleQueue()
        self._news: Queue[Told] = Queue()
        self._go: SimpleQueue[None] = SimpleQueue()
        self._thread = threading.Thread(target=self._live, name=f"drill-{who}", daemon=True)
        self._thread.start()

    # -- for the drill ----------------------------------------------------------------------------------------------

    def call(self, order: str) -> Told:
        """Have something done, to its end."""
        self.send(order)
        return self.hear()

    def send(self, order: str, stop: int | None = None) -> None:
        """Have something done: "connect", "take" the lease, "drop" it, or "run" the path, stopped at that point."""
        self.points = []
        self._stop = stop
        self._orders.put(order)

    def hear(self, seconds: float = HANGS_S) -> Told:
        """What came of it.

        Raises:
            TimeoutError: nothing was heard in time.
        """
        try:
            return self._news.get(timeout=seconds)
        except Empty:
            raise TimeoutError(f"the {self.who} holder does not end") from None

    def go_on(self) -> None:
        """Let it go on from where it was stopped."""
        self.note("goes on")
        self._go.put(None)

    def note(self, what: str) -> None:
        """Write a line of the timeline."""
        self._timeline.append(Line(self.who, what))

    def end(self) -> None:
        """Let it come to its end, wherever it is."""
        self._stop = None
        self._go.put(None)
        self._orders.put("end")
        # One that hangs has been told of; its thread ends with the interpreter.
        self._thread.join(ENDS_S)

    # -- in its own thread ------------------------------------------------------------------------------------------

    def reach(self, place: str) -> None:
        """Its code comes to a point."""
        if self._is_silent:
            return
        at = len(self.points)
        self.points.append(place)
        if at == self._stop:
            self._stop = None
            self.note(f"is stopped before: {place}")
            self._news.put(Told("stopped", place))
            self._go.get()
        self.note(place)

    def _live(self) -> None:
        if self._play.is_async:
            asyncio.run(self._act())
        else:
            run(self._act())

    async def _act(self) -> None:
        """Written once: without asyncio nothing here is ever awaited."""
        actor.set(self)
        orders = {"connect": self._connect, "take": self._take, "drop": self._drop, "run": self._run}
        while (order := self._orders.get()) != "end":
            told = await self._try(orders[order])
            if order == "run":
                self.note(told.kind + (f": {told.detail}" if told.detail else ""))
                if told.kind != "done":
                    # As a program does: whatever its transaction holds is let go.
                    await self._try(self._disconnect)
            self._news.put(told)
        await self._try(self._disconnect)
        await self._try(self._close)

    async def _try(self, what: Callable[[], Awaitable[None]]) -> Told:
        try:
            await what()
        except self._play.refusal as error:
            return Told("refused", repr(error))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the user's code may raise anything
            return Told("failed", repr(error))
        return Told("done")

    async def _connect(self) -> None:
        self._connection = await _maybe(self._play.connect())
        self._is_connected = True
        try_watch(self._connection, self.reach)

    async def _disconnect(self) -> None:
        if self._is_connected:
            self._is_connected = False
            self._is_silent = True
            try:
                await close(self._connection)
            finally:
                self._is_silent = False

    async def _take(self) -> None:
        if self._play.takes == "client":
            self._holding = self.client
            return
        self._holding = await _maybe(self.client.lock(self._play.name).acquire())
        self.note(f"holds the name, with token {self._holding.token}")

    async def _drop(self) -> None:
        if self._play.takes == "lease" and self._holding.held:
            await _maybe(self._holding.release())

    async def _run(self) -> None:
        if not self._is_connected:
            await self._connect()
        await _maybe(self._play.path(self._holding, self._connection))

    async def _close(self) -> None:
        await _maybe(self.client.close())


async def _maybe(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


async def close(connection: Any) -> None:
    """Close what `connect` made, if it can be closed."""
    closing = getattr(connection, "aclose", None) or getattr(connection, "close", None)
    if closing is not None:
        await _maybe(closing())


def look(play: Play, value: Callable[[Any], Any]) -> Any:
    """Ask for the value, over a connection of its own, in a thread of its own."""

    async def ask() -> None:
        connection = await _maybe(play.connect())
        try:
            found.append(await _maybe(value(connection)))
        finally:
            await close(connection)

    def main() -> None:
        try:
            asyncio.run(ask()) if play.is_async else run(ask())
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            failed.append(error)

    found: list[Any] = []
    failed: list[BaseException] = []
    # The caller may be under a loop itself.
    thread = threading.Thread(target=main, name="drill-value", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def is_async(*functions: Any) -> bool:
    """Whether any of these is asynchronous."""
    return any(
        inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
        for function in functions
    )
