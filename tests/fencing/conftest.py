"""A store for each test, a server for each kind of store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.fencing.stores import DRIVERS, Driver, Session
from tests.servers import postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_numbers = iter(range(1_000_000))


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, Any]]:
    """The servers, each started when it is first wanted."""
    started: dict[str, Any] = {}
    yield started
    for server in started.values():
        server.close()


def new_url(servers: dict[str, Any], store: str, folder: Path) -> str:
    """A database of its own on the server of a kind of store."""
    number = next(_numbers)
    if store == "sqlite":
        return str(folder / f"store{number}.db")
    if store not in servers:
        if reason := postgres.missing():
            pytest.skip(reason)
        servers[store] = postgres.PostgresServer()
        servers[store].start()
    url: str = servers[store].url
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE d{number}".encode())
    return url.replace("/postgres", f"/d{number}")


class Rig:
    """One store with its tables, reached by one driver."""

    def __init__(self, driver: Driver, url: str) -> None:
        self.driver = driver
        self.url = url

    async def session(self) -> Session:
        return await self.driver.session(self.url)

    def run(self, scenario: Callable[..., Any]) -> None:
        """Run a scenario with as many sessions as it has arguments."""

        async def body() -> None:
            sessions = [await self.session() for _ in range(scenario.__code__.co_argcount)]
            try:
                await scenario(*sessions)
            finally:
                for session in sessions:
                    await session.close()

        asyncio.run(body())


@pytest.fixture(params=sorted(DRIVERS))
def rig(request: pytest.FixtureRequest, servers: dict[str, Any], tmp_path: Path) -> Rig:
    """Each driver in turn, on a store with the tables."""
    driver = DRIVERS[request.param]
    made = Rig(driver, new_url(servers, driver.store, tmp_path))

    async def prepare(session: Session) -> None:
        await session.prepare()

    made.run(prepare)
    return made
