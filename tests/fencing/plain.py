"""The stores without transactions of the user's, Redis and files, with the same face for tests."""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio

from tenure import fencing
from tests.fencing.session import Driver, Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TTL_MS = 1

WRITE_BESIDE = """
local fence = tonumber(redis.call('GET', KEYS[1]) or '0')
local token = tonumber(ARGV[1])
if fence > token or (ARGV[3] == 'strict' and fence ~= token) then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2])
return 1
"""

RAISE_FOR_A_MOMENT = """
if tonumber(redis.call('GET', KEYS[1]) or '0') > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

WRITE_UNDER_A_MOMENT = """
if tonumber(redis.call('GET', KEYS[1]) or '0') > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
return 1
"""


class Plain(Session):
    """No transactions of the user's, so nothing to begin, and nothing to take back."""

    dialect = ""

    def __init__(self) -> None:
        self.inside: Any = None
        """What the guard has given, in its block."""

    @asynccontextmanager
    async def guard(self, lease: Any, **named: Any) -> AsyncIterator[None]:
        made = self.make(lease, **named)
        outside = self.inside
        try:
            if hasattr(made, "__aenter__"):
                async with made as self.inside:
                    yield
            else:
                with made as self.inside:
                    yield
        finally:
            self.inside = outside

    async def add(self) -> None:
        await self.write(await self.value() + 1)

    async def do(self, statement: str) -> None:
        raise NotImplementedError

    async def one(self, statement: str) -> Any:
        raise NotImplementedError

    async def begin(self) -> None: ...

    async def commit(self) -> None: ...

    async def rollback(self) -> None: ...


class Keys(Plain):
    """A client of Redis; the counter is a key that shares the fence's slot, as in a cluster."""

    COUNTER = "{orders}:v"
    BESIDE = "{orders}:fence"

    async def ask(self, *words: Any) -> Any:
        """A command, in the block if there is one."""
        return (self.inside or self.connection).execute_command(*words)

    async def value(self) -> int:
        return int(await self.ask("GET", self.COUNTER))

    async def write(self, value: int) -> None:
        await self.ask("SET", self.COUNTER, value)

    async def fence(self) -> int | None:
        token = await self.ask("HGET", "tenure:fence:{orders}", "token")
        return None if token is None else int(token)

    async def prepare(self) -> None:
        await self.ask("SET", self.COUNTER, 0)

    async def beside(self) -> int:
        return int(await self.ask("GET", self.BESIDE) or 0)

    async def raise_beside(self, token: int) -> None:
        await self.ask("SET", self.BESIDE, token)

    async def write_beside(self, value: int, token: int, *, strict: bool = False) -> bool:
        how = "strict" if strict else ""
        return bool(await self.ask("EVAL", WRITE_BESIDE, 2, self.BESIDE, self.COUNTER, token, value, how))

    async def raise_for_a_moment(self, token: int) -> bool:
        return bool(await self.ask("EVAL", RAISE_FOR_A_MOMENT, 1, self.BESIDE, token, TTL_MS))

    async def write_under_a_moment(self, value: int, token: int) -> bool:
        return bool(await self.ask("EVAL", WRITE_UNDER_A_MOMENT, 2, self.BESIDE, self.COUNTER, token, value))

    async def close(self) -> None:
        self.connection.close()

    def make(self, lease: Any, **named: Any) -> Any:
        return fencing.redis(self.connection, lease, **named)


class RedisSession(Keys):
    def __init__(self, url: str) -> None:
        super().__init__()
        self.connection = redis.Redis.from_url(url)


class AsyncRedisSession(Keys):
    def __init__(self, url: str) -> None:
        super().__init__()
        self.connection = redis.asyncio.Redis.from_url(url)

    async def ask(self, *words: Any) -> Any:
        return await (self.inside or self.connection).execute_command(*words)

    async def close(self) -> None:
        await self.connection.aclose()


class FileSession(Plain):
    """A file that has the counter. Those who make their own fence keep it in another."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.connection = url
        self._counter = Path(url)
        self._beside = Path(f"{url}.beside")
        self._fence = self._counter.with_name(f".{self._counter.name}.tenure-fence")

    async def value(self) -> int:
        return int(self.inside.read_text() if self.inside else self._counter.read_text())

    async def write(self, value: int) -> None:
        if self.inside:
            self.inside.write_text(str(value))
        else:
            replace(self._counter, str(value))

    async def fence(self) -> int | None:
        with suppress(FileNotFoundError):
            return int(json.loads(self._fence.read_text())["token"])
        return None

    async def prepare(self) -> None:
        replace(self._counter, "0")

    async def beside(self) -> int:
        return int(self._beside.read_text()) if self._beside.exists() else 0

    async def raise_beside(self, token: int) -> None:
        replace(self._beside, str(token))

    async def write_beside(self, value: int, token: int, *, strict: bool = False) -> bool:
        # One step only because the drill stops nobody within.
        found = await self.beside()
        if found > token or (strict and found != token):
            return False
        await self.raise_beside(token)
        await self.write(value)
        return True

    async def close(self) -> None: ...

    def make(self, lease: Any, **named: Any) -> Any:
        named.pop("resource", None)  # the file is the resource
        return fencing.file(self.connection, lease, **named)


def replace(path: Path, text: str) -> None:
    """Whole or not at all, as those do who know half of it."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_text(text)
    new.rename(path)


PLAIN = {
    driver.name: driver
    for driver in (
        Driver("redis", "redis", RedisSession, rolls_back=False),
        Driver("redis-async", "redis", AsyncRedisSession, rolls_back=False),
        Driver("file", "file", FileSession),
    )
}
