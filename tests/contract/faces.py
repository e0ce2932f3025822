"""The two faces behind one driver, so that each test of the contract is written once.

A test is an `async def` over a `Face`. What the user of a blocking client does in a thread, it does in an `Actor`,
which is a thread there and a task under asyncio: `await actor(lock.acquire)` calls the method in that thread, or awaits
it in that task. Deadlines, deadlocks and `with` belong to a thread or a task, and so they do here.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import inspect
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from tenure import AsyncClient, Client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.contract.registry import Registered

PATIENCE = 60.0
"""Seconds that a test waits for what must happen soon; only a failing test waits that long."""


class Actor(abc.ABC):
    """One thread, or one task, in which a test does what a user would do there.

    Attributes:
        results: everything that was returned, so that no lease is garbage-collected before its test ends.
    """

    def __init__(self) -> None:
        self.results: list[Any] = []

    @abc.abstractmethod
    def begin(self, do: Callable[..., Any], *args: Any, **named: Any) -> asyncio.Future[Any]:
        """Begin a call; the future has its outcome. A second one waits until the first is done."""

    @abc.abstractmethod
    async def end(self) -> None:
        """End the thread or task."""

    @abc.abstractmethod
    async def leave(self, entered: Any, error: BaseException | None = None) -> Any:
        """Leave a `with` or `async with`, as if its body had raised `error`."""

    @abc.abstractmethod
    async def enter(self, manager: Any) -> Any:
        """Enter a `with` or `async with`."""

    async def __call__(self, do: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """Call and wait for the outcome."""
        return await self.begin(do, *args, **named)

    def _keep(self, done: asyncio.Future[Any]) -> None:
        if not done.cancelled() and done.exception() is None:
            self.results.append(done.result())


class ThreadActor(Actor):
    """A thread."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = ThreadPoolExecutor(1)

    def begin(self, do: Callable[..., Any], *args: Any, **named: Any) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().run_in_executor(self._thread, lambda: do(*args, **named))
        future.add_done_callback(self._keep)
        return future

    async def enter(self, manager: Any) -> Any:
        return await self(manager.__enter__)

    async def leave(self, entered: Any, error: BaseException | None = None) -> Any:
        return await self(entered.__exit__, type(error) if error else None, error, None)

    async def end(self) -> None:
        self._thread.shutdown(wait=True)


class TaskActor(Actor):
    """A task that does what it is told, one thing after another; also while its body is cancelled by a loss."""

    def __init__(self) -> None:
        super().__init__()
        self._orders: asyncio.Queue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = asyncio.Queue()
        self.cancelled: asyncio.CancelledError | None = None
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            try:
                order = await self._orders.get()
            except asyncio.CancelledError as error:
                # The loss of a lease cancels the body that is being played here; `leave` passes it on.
                self.cancelled = error
                continue
            if order is None:
                return
            do, future = order
            try:
                result = do()
                if inspect.isawaitable(result):
                    result = await result
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

    def begin(self, do: Callable[..., Any], *args: Any, **named: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.add_done_callback(self._keep)
        self._orders.put_nowait((lambda: do(*args, **named), future))
        return future

    async def enter(self, manager: Any) -> Any:
        return await self(manager.__aenter__)

    async def leave(self, entered: Any, error: BaseException | None = None) -> Any:
        def go() -> Awaitable[Any]:
            raised = error or self.cancelled
            self.cancelled = None
            left: Awaitable[Any] = entered.__aexit__(type(raised) if raised else None, raised, None)
            return left

        return await self(go)

    async def end(self) -> None:
        if not self._task.done():
            self._orders.put_nowait(None)
            await asyncio.wait([self._task], timeout=PATIENCE)


class Face(abc.ABC):
    """One engine under one runtime, and a fresh store of it."""

    runtime: str

    def __init__(self, registered: Registered, fresh_url: Callable[[], str]) -> None:
        self.scheme = registered.example.partition(":")[0]
        self.registered = registered
        self.url = fresh_url()
        self.fresh_url = fresh_url
        self._actors: list[Actor] = []
        self._clients: list[Any] = []
        self._main: Actor

    @abc.abstractmethod
    def make(self, *args: Any, **named: Any) -> Any:
        """Make a client that this test closes itself, if it was opened."""

    @abc.abstractmethod
    def _actor(self) -> Actor: ...

    def url_with(self, options: str) -> str:
        """The URL of this test's store with options."""
        return f"{self.url}{'&' if '?' in self.url else '?'}{options}"

    def ttl(self, seconds: float) -> float:
        """A short ttl; longer where the engine's server grants none so short, or is not connected to so soon."""
        return max(seconds, self.registered.ttl_least)

    def client(self, **named: Any) -> Any:
        """A client of this test's store, or of another `url`; closed when the test ends."""
        client = self.make(named.pop("url", self.url), **named)
        self._clients.append(client)
        return client

    def actor(self) -> Actor:
        """Another thread or task."""
        actor = self._actor()
        self._actors.append(actor)
        return actor

    @property
    def main(self) -> Actor:
        """The test's own thread or task."""
        return self._main

    async def __call__(self, do: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """Do it in the test's own thread or task."""
        return await self._main(do, *args, **named)

    async def eventually(self, happened: Callable[[], Any], what: str, within: float = PATIENCE) -> Any:
        """Poll until something is true, and give it back."""
        end = time.monotonic() + within
        while True:
            result = happened()
            if inspect.isawaitable(result):
                result = await result
            if result:
                return result
            assert time.monotonic() < end, f"did not happen within {within:g} s: {what}"
            await asyncio.sleep(0.002)

    async def waiting(self, client: Any, name: str, count: int) -> None:
        """Return once so many wait for a name."""

        async def enough() -> bool:
            return len((await self(client.inspect, name)).waiters) == count

        await self.eventually(enough, f"{count} wait for {name!r}")

    async def is_free(self, client: Any, within: float = PATIENCE) -> None:
        """Return once no name of the store is held or waited for."""

        async def nothing() -> bool:
            return not await self(client.names)

        await self.eventually(nothing, "every name is free", within)

    async def run(self, scenario: Callable[..., Awaitable[None]], **arguments: Any) -> None:
        """Run a test, then close and end whatever it has made."""
        self._main = self.actor()
        try:
            async with asyncio.timeout(2 * PATIENCE):
                await scenario(**arguments)
        finally:
            closer = self.actor()
            for client in self._clients:
                with contextlib.suppress(Exception):
                    await closer(client.close)
            for actor in self._actors:
                await actor.end()


class BlockingFace(Face):
    """Threads."""

    runtime = "blocking"

    def make(self, *args: Any, **named: Any) -> Any:
        return Client(*args, **named)

    def _actor(self) -> Actor:
        return ThreadActor()


class AsyncFace(Face):
    """Tasks."""

    runtime = "asyncio"

    def make(self, *args: Any, **named: Any) -> Any:
        return AsyncClient(*args, **named)

    def _actor(self) -> Actor:
        return TaskActor()


FACES: dict[str, type[Face]] = {face.runtime: face for face in (BlockingFace, AsyncFace)}
