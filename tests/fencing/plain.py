"""The stores without transactions of the user's, Redis and files, with the same face for tests."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio

from tenure import fencing
from tests.fencing.paths import NAIVE, PATHS, without
from tests.fencing.session import TTL_US, Driver, Session, now_us

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TRANSACTIONLESS = without(PATHS, "opened", "in its row")
"""Ours, without transactions of the user's: there is none to be opened before."""

WRITE_BESIDE = """
local fence, token = tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(ARGV[1])
if fence > token or (ARGV[3] == 'strict' and fence ~= token) then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2])
return 1
"""

WRITE_LAPSING = """
local fence, until_us = tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(redis.call('GET', KEYS[3]) or '0')
if fence > tonumber(ARGV[1]) and until_us >= tonumber(ARGV[3]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
if ARGV[2] ~= '' then redis.call('SET', KEYS[2], ARGV[2]) end
redis.call('SET', KEYS[3], ARGV[4])
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
    LAPSE = "{orders}:lapse"

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

    async def write_lapsing(self, token: int, value: int | None = None) -> bool:
        keys = (self.BESIDE, self.COUNTER, self.LAPSE)
        now = now_us()
        written = "" if value is None else value
        return bool(await self.ask("EVAL", WRITE_LAPSING, len(keys), *keys, token, written, now, now + TTL_US))

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


class Apart(Plain):
    """A store without a step that compares and writes, so those who make their own fence take several.

    They are right only because the drill stops nobody within.
    """

    async def beside(self) -> int:
        return self.get("beside")

    async def raise_beside(self, token: int) -> None:
        self.put("beside", token)

    async def write_beside(self, value: int, token: int, *, strict: bool = False) -> bool:
        found = await self.beside()
        if found > token or (strict and found != token):
            return False
        await self.raise_beside(token)
        await self.write(value)
        return True

    async def write_lapsing(self, token: int, value: int | None = None) -> bool:
        if await self.beside() > token and self.get("lapse") >= now_us():
            return False
        await self.raise_beside(token)
        if value is not None:
            await self.write(value)
        self.put("lapse", now_us() + TTL_US)
        return True

    @abstractmethod
    def get(self, name: str) -> int:
        """A number that lies beside; 0 if there is none."""

    @abstractmethod
    def put(self, name: str, number: int) -> None: ...


class FileSession(Apart):
    """A file that has the counter. Those who make their own fence keep it in others."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.connection = url
        self._counter = Path(url)
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

    def get(self, name: str) -> int:
        path = self._at(name)
        return int(path.read_text()) if path.exists() else 0

    def put(self, name: str, number: int) -> None:
        replace(self._at(name), str(number))

    def _at(self, name: str) -> Path:
        return Path(f"{self.connection}.{name}")

    async def close(self) -> None: ...

    def make(self, lease: Any, **named: Any) -> Any:
        named.pop("resource", None)  # the file is the resource
        return fencing.file(self.connection, lease, **named)


def replace(path: Path, text: str) -> None:
    """Whole or not at all, as those do who know half of it."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_text(text)
    new.rename(path)


DRIVERS = {
    driver.name: driver
    for driver in (
        Driver("redis", "redis", RedisSession, "redis", TRANSACTIONLESS, rolls_back=False),
        Driver("redis-async", "redis", AsyncRedisSession, "redis", TRANSACTIONLESS, rolls_back=False),
        # A file's fence has no room for numbers of operations.
        Driver(
            "file",
            "file",
            FileSession,
            "file",
            without(TRANSACTIONLESS, "numbered"),
            without(NAIVE, "not numbered"),
            is_stepped=False,
        ),
    )
}
