"""A fenced service over HTTP with the face that tests have for every store: its counter, written by requests.

A block of such a guard is no transaction: each request is one, of the service's own.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import requests

from tenure import fencing
from tests.fencing.plain import TRANSACTIONLESS, Apart
from tests.fencing.session import Driver
from tests.servers.processes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

COUNTER = "counter"

NO_TLS: dict[str, Any] = {"verify": False}
"""To load the host's certificates takes longer than a hundred requests."""


class WebSession(Apart):
    """A client of the service. Those who make their own fence keep it in numbers of the service that want no token."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._bare = httpx.Client(timeout=PATIENCE, **NO_TLS)
        self._read: int | None = None

    @asynccontextmanager
    async def guard(self, lease: Any, *, seq: int | None = None, **named: Any) -> AsyncIterator[None]:
        """The first request reads, and so raises the fence. The writing one has the number of the operation."""
        named = {"resource": "orders", **named}
        outside = self.inside
        self.inside = self.make(lease, **named), self.make(lease, seq=seq, **named)
        try:
            self._read = await self.ask("GET", "fenced", self.inside[0])
            yield
        finally:
            self.inside, self._read = outside, None

    async def open(self, lease: Any, **named: Any) -> None:
        async with self.guard(lease, **named):
            pass

    async def value(self) -> int:
        if self._read is not None:
            # What entering has read, once.
            value, self._read = self._read, None
            return value
        if self.inside:
            return await self.ask("GET", "fenced", self.inside[0])
        return self.get(COUNTER)

    async def write(self, value: int) -> None:
        if self.inside:
            await self.ask("PUT", f"fenced/{value}", self.inside[1])
        else:
            self.put(COUNTER, value)

    async def fence(self) -> int | None:
        return self.get("fence") or None

    async def prepare(self) -> None:
        self.put(COUNTER, 0)

    def get(self, name: str) -> int:
        return int(self._bare.get(f"{self._url}/{name}").raise_for_status().text)

    def put(self, name: str, number: int) -> None:
        self._bare.put(f"{self._url}/{name}/{number}").raise_for_status()

    async def close(self) -> None:
        self._bare.close()
        await self.shut()

    @abstractmethod
    async def ask(self, method: str, path: str, sender: Any) -> int:
        """Send a request that shows a token, by the library under test."""

    @abstractmethod
    async def shut(self) -> None:
        """Close its client."""


class HTTPXSession(WebSession):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.connection = httpx.Client(timeout=PATIENCE, **NO_TLS)

    def make(self, lease: Any, **named: Any) -> Any:
        return fencing.httpx(lease, **named)

    async def ask(self, method: str, path: str, sender: Any) -> int:
        return int(self.connection.request(method, f"{self._url}/{path}", auth=sender).raise_for_status().text)

    async def shut(self) -> None:
        self.connection.close()


class AsyncHTTPXSession(WebSession):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.connection = httpx.AsyncClient(timeout=PATIENCE, **NO_TLS)

    def make(self, lease: Any, **named: Any) -> Any:
        return fencing.httpx(lease, **named)

    async def ask(self, method: str, path: str, sender: Any) -> int:
        answer = await self.connection.request(method, f"{self._url}/{path}", auth=sender)
        return int(answer.raise_for_status().text)

    async def shut(self) -> None:
        await self.connection.aclose()


class RequestsSession(WebSession):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.connection = requests.Session()
        # Neither proxies nor logins of whoever runs the tests.
        self.connection.trust_env = False

    def make(self, lease: Any, **named: Any) -> Any:
        return fencing.requests(lease, **named)

    async def ask(self, method: str, path: str, sender: Any) -> int:
        answer = self.connection.request(method, f"{self._url}/{path}", auth=sender, timeout=PATIENCE)
        answer.raise_for_status()
        return int(answer.text)

    async def shut(self) -> None:
        self.connection.close()


def _driver(name: str, session: Any, guard: str) -> Driver:
    return Driver(name, "http", session, guard, TRANSACTIONLESS, rolls_back=False, is_stepped=False, tells_fence=False)


DRIVERS = {
    driver.name: driver
    for driver in (
        _driver("httpx", HTTPXSession, "httpx"),
        _driver("httpx-async", AsyncHTTPXSession, "httpx"),
        _driver("requests", RequestsSession, "requests"),
    )
}
