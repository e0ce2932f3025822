"""One request to the server that has the fence, sent once, over a connection of the user's client.

Promises: a request is answered, or raises `StoreUnavailable` (certainly not done), `OutcomeUnknown` (sent, no answer)
or the driver's own error, with which the server refused it. A connection whose answer did not come is closed, so that
nobody else reads it.

The danger that shapes this file: *the client's own `execute_command` sends a request again when its answer was lost*,
and what was done is done twice. So the connections are taken from its pools, and used here.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import redis
import redis.asyncio
from redis.asyncio.client import Pipeline as AioPipeline
from redis.client import Pipeline
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from tenure.errors import OutcomeUnknown, SetupError, StoreUnavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from tenure.errors import TenureError
    from tenure.fencing.keyspace.scripts import Script

HOPS: Final = 5
"""Masters that a request is sent on to while a cluster is being changed."""

_LOST: Final = (ConnectionError, TimeoutError, OSError)
_NOT_NOW: Final = (AskError, ClusterDownError, TryAgainError)


class Wire(Protocol):
    """The server of one fence.

    Attributes:
        is_async: whether its methods must be awaited under asyncio; otherwise they block.
        has_slots: whether the keys of a step must be declared, and share a slot.
        client: the user's.
    """

    is_async: bool
    has_slots: bool
    client: Any

    async def run(self, script: Script, keys: Sequence[Any], values: Sequence[Any]) -> Any:
        """Run a script on the server of its first key."""
        ...

    async def keys(self, words: Sequence[Any]) -> Sequence[Any]:
        """The keys of a command, where `has_slots`."""
        ...


def wire(client: Any) -> Wire:
    """Reach the server that a client talks to; no I/O.

    Raises:
        UsageError: it is no client of redis-py.
    """
    if isinstance(client, (Pipeline, AioPipeline)):
        raise UsageError("connection: a pipeline is no client; give the client that made it")
    if isinstance(client, redis.asyncio.RedisCluster):
        return AioCluster(client)
    if isinstance(client, redis.asyncio.Redis):
        return Aio(client)
    if isinstance(client, redis.RedisCluster):
        return BlockingCluster(client)
    if isinstance(client, redis.Redis):
        return Blocking(client)
    raise UsageError(f"connection: a client of redis-py is needed, not {type(client).__name__}")


class ScriptWire:
    """What all of them share: a script is asked for by its hash, and sent whole where the server does not know it."""

    has_slots = False

    def __init__(self, client: Any) -> None:
        self.client = client

    async def run(self, script: Script, keys: Sequence[Any], values: Sequence[Any]) -> Any:
        """As `Wire.run`."""
        words = (len(keys), *keys, *values)
        try:
            return await self._ask(keys[0], ("EVALSHA", script.digest, *words))
        except NoScriptError:
            # Refused before anything was done: the server was restarted, or has not met it yet.
            return await self._ask(keys[0], ("EVAL", script.text, *words))

    async def _ask(self, key: Any, words: Sequence[Any]) -> Any:
        raise NotImplementedError

    async def keys(self, words: Sequence[Any]) -> Sequence[Any]:  # noqa: ARG002 - there is one server for all
        """As `Wire.keys`."""
        return ()


class Blocking(ScriptWire):
    """A client of one server, which blocks."""

    is_async = False

    async def _ask(self, key: Any, words: Sequence[Any]) -> Any:  # noqa: ARG002 - there is one server for all
        return self._exchange(self.client.connection_pool, words)

    def _exchange(self, pool: Any, words: Sequence[Any]) -> Any:
        try:
            connection = pool.get_connection()
        except _LOST as error:
            raise _unreached(error) from error
        is_clean = False
        try:
            connection.send_command(*words)
            answer = connection.read_response()
            is_clean = True
            return answer
        except ResponseError:
            is_clean = True
            raise
        except _LOST as error:
            raise _unanswered(error) from error
        finally:
            if not is_clean:
                connection.disconnect()
            pool.release(connection)


class Aio(ScriptWire):
    """A client of one server, for asyncio."""

    is_async = True

    async def _ask(self, key: Any, words: Sequence[Any]) -> Any:  # noqa: ARG002 - there is one server for all
        async with self._lent() as connection:
            return await _exchange(connection, words)

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[Any]:
        await self.client.initialize()
        pool = self.client.connection_pool
        with _connecting():
            connection = await pool.get_connection()
        try:
            yield connection
        finally:
            await pool.release(connection)


async def _exchange(connection: Any, words: Sequence[Any]) -> Any:
    is_clean = False
    task = asyncio.current_task()
    cancelled = task.cancelling() if task else 0
    try:
        await connection.send_command(*words)
        if task and task.cancelling() > cancelled:
            # The driver sends under asyncio.wait_for, which in Python 3.11 forgets a cancellation that comes as it
            # ends; the task would wait for the answer all the same.
            raise asyncio.CancelledError
        answer = await connection.read_response()
        is_clean = True
        return answer
    except ResponseError:
        is_clean = True
        raise
    except _LOST as error:
        raise _unanswered(error) from error
    finally:
        if not is_clean:
            await connection.disconnect(nowait=True)


class BlockingCluster(Blocking):
    """A client of a cluster, which blocks."""

    has_slots = True

    async def _ask(self, key: Any, words: Sequence[Any]) -> Any:
        for _ in range(HOPS):
            node = self._node(key)
            try:
                return self._exchange(self.client.get_redis_connection(node).connection_pool, words)
            except MovedError as moved:
                self.client.nodes_manager.move_slot(moved)
            except _NOT_NOW as error:
                raise _not_now(error) from error
            except StoreUnavailable:
                # Perhaps another node has taken its place: whoever asks again finds it.
                with _connecting():
                    self.client.nodes_manager.initialize()
                raise
        raise StoreUnavailable("the cluster sends the request from node to node; it was not done")

    def _node(self, key: Any) -> Any:
        with _connecting():
            return self.client.get_node_from_key(key)

    async def keys(self, words: Sequence[Any]) -> Sequence[Any]:
        """As `Wire.keys`."""
        with _connecting():
            connection = self.client.get_default_node().redis_connection
            return self.client.commands_parser.get_keys(connection, *words) or ()


class AioCluster(ScriptWire):
    """A client of a cluster, for asyncio."""

    is_async = True
    has_slots = True

    async def _ask(self, key: Any, words: Sequence[Any]) -> Any:
        with _connecting():
            await self.client.initialize()
        for _ in range(HOPS):
            with _connecting():
                node = self.client.get_node_from_key(key)
            try:
                return await self._exchange(node, words)
            except MovedError as moved:
                await self.client.nodes_manager.move_slot(moved)
            except _NOT_NOW as error:
                raise _not_now(error) from error
            except StoreUnavailable:
                # Perhaps another node has taken its place: whoever asks again finds it.
                with _connecting():
                    await self.client.nodes_manager.initialize()
                raise
        raise StoreUnavailable("the cluster sends the request from node to node; it was not done")

    async def _exchange(self, node: Any, words: Sequence[Any]) -> Any:
        with _connecting():
            connection = node.acquire_connection()
        try:
            with _connecting():
                await node.disconnect_if_needed(connection)
                await connection.connect()
            return await _exchange(connection, words)
        finally:
            node.release(connection)

    async def keys(self, words: Sequence[Any]) -> Sequence[Any]:
        """As `Wire.keys`."""
        with _connecting():
            await self.client.initialize()
            return await self.client.commands_parser.get_keys(*words) or ()


# -- what the driver's errors say ----------------------------------------------------------------------------------


@contextmanager
def _connecting() -> Iterator[None]:
    """Before anything was sent."""
    try:
        yield
    except (RedisClusterException, *_LOST) as error:
        raise _unreached(error) from error


def _unreached(error: Exception) -> TenureError:
    """There was no connection to ask over."""
    if isinstance(error, AuthenticationError):
        return SetupError(f"the server refuses the login: {error}")
    return StoreUnavailable(f"the server cannot be reached, and nothing was done: {error}")


def _unanswered(error: Exception) -> TenureError:
    """Something was sent, perhaps."""
    if isinstance(error, BusyLoadingError):
        return StoreUnavailable(f"the server is loading its data, and nothing was done: {error}")
    return OutcomeUnknown(f"no answer came; the step was done as a whole or not at all: {error}")


def _not_now(error: RedisError) -> StoreUnavailable:
    return StoreUnavailable(f"the cluster is being changed, and nothing was done: {error}")
