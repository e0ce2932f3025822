"""The guards of Redis, and what their blocks are given: the driver's own commands, each under a check.

Promises: whatever is read or written through the block's object is done only while no later holder has raised the
fence; a pipeline is one atomic step. Does not promise to take back what was done when a later command fails, or when
the block ends with an error.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import redis
from redis.commands import AsyncCoreCommands, CoreCommands

from tenure.errors import UsageError
from tenure.fencing.keyspace.section import Command, command
from tenure.runtimes.blocking import run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from tenure.fencing.keyspace.section import Section


class RedisGuard:
    """A `with` block whose commands are done only if no later holder has come."""

    def __init__(self, section: Section, client: Any) -> None:
        self._section = section
        self._client = client

    def __enter__(self) -> FencedRedis:
        run(self._section.enter())
        return FencedRedis(self._section, self._client)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._section.leave()


class AsyncRedisGuard:
    """An `async with` block whose commands are done only if no later holder has come."""

    def __init__(self, section: Section, client: Any) -> None:
        self._section = section
        self._client = client

    async def __aenter__(self) -> AsyncFencedRedis:
        await self._section.enter()
        return AsyncFencedRedis(self._section, self._client)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._section.leave()


class _Face:
    """What the driver's methods want to find beside `execute_command`."""

    _event_dispatcher: Any = None

    def __init__(self, section: Section, client: Any) -> None:
        self._section = section
        self._client = client
        self.connection_pool = client.connection_pool if hasattr(client, "connection_pool") else None

    def get_encoder(self) -> Any:
        """The client's."""
        return self._client.get_encoder()


class FencedRedis(_Face, CoreCommands):
    """The commands of a `redis.Redis`, each of them one checked step.

    `eval` runs a script of your own under the same check; it cannot be in a pipeline.
    """

    _is_async_client: Literal[False] = False

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command; all other methods come here.

        Raises:
            LeaseLost, StaleToken, StaleOperation, ForeignToken, FenceRegression: refused; it was not done.
            NotRaised: the server has lost the fence; it was not done.
            OutcomeUnknown: no answer came; it was done as a whole or not at all.
            StoreUnavailable: it was not done.
            UsageError: it cannot be fenced; nothing was sent.
            redis.exceptions.ResponseError: the server refused it, and it was not done.
        """
        return run(_one(self._section, self._client, args, options))

    def pipeline(self) -> FencedPipeline:
        """Collect commands that are one atomic step."""
        return FencedPipeline(self._section, self._client)


class AsyncFencedRedis(_Face, AsyncCoreCommands):  # type: ignore[misc] # two of its own parents do not agree
    """The commands of a `redis.asyncio.Redis`, each of them one checked step; as `FencedRedis`."""

    _is_async_client: Literal[True] = True

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command; as `FencedRedis.execute_command`.

        Cancellation: as a lost answer: the command was done as a whole or not at all.
        """
        return await _one(self._section, self._client, args, options)

    def pipeline(self) -> AsyncFencedPipeline:
        """Collect commands that are one atomic step."""
        return AsyncFencedPipeline(self._section, self._client)


class FencedPipeline(_Face, CoreCommands):
    """Commands that are one atomic step: checked once, then done one after the other, with nobody between."""

    _is_async_client: Literal[False] = False

    def __init__(self, section: Section, client: Any) -> None:
        super().__init__(section, client)
        self._commands: list[Command] = []

    def execute_command(self, *args: Any, **options: Any) -> Self:
        """Collect one command; all other methods come here."""
        self._commands.append(_collected(args, options))
        return self

    def execute(self, *, raise_on_error: bool = True) -> list[Any]:
        """Do what was collected, and forget it.

        The first command that fails ends the step: those before it are done, it and those after it are not. A note of
        the error says which it was.

        Args:
            raise_on_error: otherwise the error is the last of the replies.

        Returns:
            The replies, in order.

        Raises:
            As `FencedRedis.execute_command`.
        """
        commands, self._commands = self._commands, []
        return run(_all(self._section, self._client, commands, raise_on_error=raise_on_error))

    def __len__(self) -> int:
        return len(self._commands)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._commands.clear()


class AsyncFencedPipeline(_Face, AsyncCoreCommands):  # type: ignore[misc] # as above
    """Commands that are one atomic step; as `FencedPipeline`."""

    _is_async_client: Literal[True] = True

    def __init__(self, section: Section, client: Any) -> None:
        super().__init__(section, client)
        self._commands: list[Command] = []

    def execute_command(self, *args: Any, **options: Any) -> Self:
        """Collect one command; all other methods come here."""
        self._commands.append(_collected(args, options))
        return self

    async def execute(self, *, raise_on_error: bool = True) -> list[Any]:
        """Do what was collected, and forget it; as `FencedPipeline.execute`.

        Cancellation: as a lost answer: the step was done as a whole or not at all.
        """
        commands, self._commands = self._commands, []
        return await _all(self._section, self._client, commands, raise_on_error=raise_on_error)

    def __len__(self) -> int:
        return len(self._commands)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._commands.clear()


def _collected(args: Sequence[Any], options: Mapping[str, Any]) -> Command:
    found = command(args, options)
    if found.words[0] == "EVAL":
        raise UsageError("a script of your own is a step of its own; call eval() on the guard's object")
    return found


async def _one(section: Section, client: Any, args: Sequence[Any], options: Mapping[str, Any]) -> Any:
    asked = command(args, options)
    if asked.words[0] == "EVAL":
        text, count, *rest = asked.words[1:]
        return await section.script(text, rest[: int(count)], rest[int(count) :])
    [reply] = await section.commands([asked])
    if isinstance(reply, Exception):
        raise reply
    return _read(client, asked, reply)


async def _all(section: Section, client: Any, asked: Sequence[Command], *, raise_on_error: bool) -> list[Any]:
    if not asked:
        return []
    replies = await section.commands(asked)
    error = replies[-1]
    if isinstance(error, Exception):
        name = asked[len(replies) - 1].words[0]
        error.add_note(f"command {len(replies)} of {len(asked)} ({name}): those before it are done, the others are not")
        if raise_on_error:
            raise error
    return [_read(client, one, reply) for one, reply in zip(asked, replies, strict=False)]


def _read(client: Any, asked: Command, reply: Any) -> Any:
    """A reply as the driver gives it."""
    if isinstance(reply, Exception):
        return reply
    callbacks = _callbacks(bool(client.get_connection_kwargs().get("legacy_responses", True)))
    name = asked.words[0]
    known: Callable[..., Any] | None = callbacks.get(name)
    if known is None and len(asked.words) > 1 and isinstance(asked.words[1], str):
        known = callbacks.get(f"{name} {asked.words[1]}")
    if known is None:
        return reply
    return known(reply, **{name: value for name, value in asked.options.items() if name != "keys"})


@cache
def _callbacks(legacy: bool) -> Any:
    """How the driver reads replies of RESP2, which is what a script's commands give, whatever the connection speaks."""
    return redis.Redis(protocol=2, legacy_responses=legacy).response_callbacks
