"""One connection to one store, with one face for tests, whatever the store and its driver.

Its methods may wait: those of blocking drivers block, so a test that wants two of them at work at once runs them in
threads or processes of their own.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from tenure import fencing
from tests.fencing.paths import NAIVE, PATHS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

TTL_US = 100
"""Of a fence that has one: any is too short for somebody who was away for longer."""


def now_us() -> int:
    """The same clock for all processes of a host."""
    return time.monotonic_ns() // 1000


class Session(ABC):
    """One connection of one driver."""

    dialect: str
    seq = 0
    """The number of the operation under way, for paths that number them."""

    @abstractmethod
    async def do(self, statement: str) -> None:
        """Run a statement, in a transaction of the driver's own making if none has begun."""

    @abstractmethod
    async def one(self, statement: str) -> Any:
        """The first column of the first row."""

    @abstractmethod
    async def begin(self) -> None:
        """Begin a transaction by hand, as the driver's users do."""

    @abstractmethod
    async def commit(self) -> None: ...

    @abstractmethod
    async def rollback(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    def make(self, lease: Any, **named: Any) -> Any:
        """The guard under test."""

    async def open(self, lease: Any, **named: Any) -> None:
        result = fencing.open(self.connection, lease, **named)
        if result is not None:
            await result

    connection: Any

    @asynccontextmanager
    async def guard(self, lease: Any, **named: Any) -> AsyncIterator[None]:
        """The guard, blocking or not."""
        made = self.make(lease, **named)
        if hasattr(made, "__aenter__"):
            async with made as connection:
                assert connection is self.connection
                yield
        else:
            with made as connection:
                assert connection is self.connection
                yield

    async def value(self) -> int:
        """The counter."""
        value = await self.one("SELECT v FROM counter WHERE id = 1")
        assert isinstance(value, int)
        return value

    async def write(self, value: int) -> None:
        """Set the counter, in a transaction if there are any."""
        await self.do(f"UPDATE counter SET v = {value} WHERE id = 1")

    async def add(self) -> None:
        """Add one to the counter."""
        await self.do("UPDATE counter SET v = v + 1 WHERE id = 1")

    async def fence(self) -> int | None:
        """The token of the fence, as a stranger sees it; None if there is none."""
        await self.rollback()
        token = await self.one("SELECT MAX(token) FROM tenure_fence WHERE resource = 'orders'")
        await self.rollback()
        assert token is None or isinstance(token, int)
        return token

    # -- a fence beside the value, for those who make their own ------------------------------------------------------

    async def beside(self) -> int:
        """What it is."""
        fence = await self.one("SELECT fence FROM counter WHERE id = 1")
        assert isinstance(fence, int)
        return fence

    async def raise_beside(self, token: int) -> None:
        """Raise it, committed."""
        await self.do(f"UPDATE counter SET fence = {token} WHERE id = 1 AND fence <= {token}")
        await self.commit()

    async def write_beside(self, value: int, token: int, *, strict: bool = False) -> bool:
        """Compare it, raise it and set the counter in one step, not committed yet; whether that was done."""
        comparison = "=" if strict else "<="
        await self.do(f"UPDATE counter SET v = {value}, fence = {token} WHERE id = 1 AND fence {comparison} {token}")
        return await self.beside() == token

    async def write_lapsing(self, token: int, value: int | None = None) -> bool:
        """As `write_beside`, with a fence that has a TTL, and has it anew; without a value, it is only raised."""
        now = now_us()
        await self.do(
            f"UPDATE counter SET v = {'v' if value is None else value}, fence = {token} WHERE id = 1 "
            f"AND (fence <= {token} OR (SELECT until FROM lapse) < {now})"
        )
        if await self.beside() != token:
            return False
        await self.do(f"UPDATE lapse SET until = {now + TTL_US}")
        return True

    @abstractmethod
    async def prepare(self) -> None:
        """Make what a user has before there are guards."""


class Driver(NamedTuple):
    """One way to reach one kind of store: a pair of guard and store, with its ways to write.

    Attributes:
        store: "sqlite", "postgresql", "mysql"; "redis", "file", "s3", "http".
        connect: makes a session; may be awaited for.
        guard: the guard's name in `tenure.fencing`.
        paths: ways to write that must lose nothing.
        naive: ways to write that must be found out.
        rolls_back: whether a block that ends with an error has done nothing.
        is_stepped: whether the public drill can step through the statements of `session.connection`.
        tells_fence: whether a refusal says what the fence has seen, and whose; a service keeps that to itself.
    """

    name: str
    store: str
    connect: Any
    guard: str
    paths: Mapping[str, Any] = PATHS
    naive: Mapping[str, Any] = NAIVE
    rolls_back: bool = True
    is_stepped: bool = True
    tells_fence: bool = True

    async def session(self, url: str) -> Session:
        made = self.connect(url)
        return made if isinstance(made, Session) else await made
