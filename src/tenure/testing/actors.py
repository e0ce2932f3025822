"""The holders of a drill: each in a thread of its own, under asyncio with a loop of its own, stopped at a point.

Promises: a stopped holder does nothing at all, as a paused process: its thread, and with it its loop, stands still.
Does not promise that a holder which waits can be told from one that is slow: whoever is not heard of for a while is
taken to wait.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenure.runtimes.blocking import run
from tenure.testing.stepping import actor, try_watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenure.testing.clock import VirtualClock

HANGS_S: Final = 30.0
"""Seconds after which a holder that should end by itself is taken to hang."""


class Line(NamedTuple):
    """One line of the timeline."""

    who: str
    what: str


class Told(NamedTuple):
    """What is heard of an actor.

    Attributes:
        kind: "ready", "stopped", "done", "refused" or "failed".
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
        self._orders: SimpleQueue[str] = SimpleQueue()
        self._news: SimpleQueue[Told] = SimpleQueue()
        self._go: SimpleQueue[None] = SimpleQueue()
        self._thread = threading.Thread(target=self._live, name=f"drill-{who}", daemon=True)
        self._thread.start()

    # -- for the drill ----------------------------------------------------------------------------------------------

    def call(self, order: str) -> Told:
        """Have something done, to its end."""
        self.send(order)
        return self.hear()

    def send(self, order: str, stop: int | None = None) -> None:
        """Have something done: "take" the lease, or "run" the path, to be stopped at its point of that number."""
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
        self._thread.join(HANGS_S)

    # -- in its own thread ------------------------------------------------------------------------------------------

    def reach(self, place: str) -> None:
        """Its code comes to a point."""
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
        made: list[Any] = []
        told = await self._try(self._prepare, made)
        while (order := self._orders.get()) != "end":
            if order == "connect":
                self._news.put(told)
            elif order == "take":
                self._news.put(await self._try(self._take, made))
            else:
                self.points = []
                outcome = await self._try(self._run, made)
                self.note(outcome.kind + (f": {outcome.detail}" if outcome.detail else ""))
                self._news.put(outcome)
        await self._try(self._close, made)

    async def _try(self, what: Callable[[list[Any]], Any], made: list[Any]) -> Told:
        try:
            await what(made)
        except self._play.refusal as error:
            return Told("refused", repr(error))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the user's code may raise anything
            return Told("failed", repr(error))
        return Told("done")

    async def _prepare(self, made: list[Any]) -> None:
        connection = await _maybe(self._play.connect())
        made.append(connection)
        try_watch(connection, self.reach)

    async def _take(self, made: list[Any]) -> None:
        if self._play.takes == "client":
            made.append(self.client)
            return
        lease = await _maybe(self.client.lock(self._play.name).acquire())
        self.note(f"holds the name, with token {lease.token}")
        made.append(lease)

    async def _run(self, made: list[Any]) -> None:
        connection, holding = made
        await _maybe(self._play.path(holding, connection))

    async def _close(self, made: list[Any]) -> None:
        actor.set(None)
        if made:
            await close(made[0])
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
