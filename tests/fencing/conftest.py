"""A store for each test, a server for each kind of store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.fencing.drivers import databases, every, find
from tests.fencing.servers import Servers, missing
from tests.servers.redis import RedisServer
from tests.servers.redis import missing as redis_missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.fencing.session import Driver, Session


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The servers, each started when it is first wanted."""
    with Servers(tmp_path_factory.mktemp("stores")) as made:
        yield made


def new_url(servers: Servers, store: str) -> str:
    """An empty database of a kind of store."""
    if reason := missing(store):
        pytest.skip(reason)
    return servers.new(store)[0]


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


def made(name: str, servers: Servers) -> Rig:
    """A driver on a store that is ready for it."""
    driver = find(name)
    rig = Rig(driver, new_url(servers, driver.store))

    async def prepare(session: Session) -> None:
        await session.prepare()

    rig.run(prepare)
    return rig


@pytest.fixture(params=sorted(every()))
def rig(request: pytest.FixtureRequest, servers: Servers) -> Rig:
    """Each driver in turn."""
    return made(request.param, servers)


@pytest.fixture(params=sorted(name for name, driver in every().items() if "numbered" in driver.paths))
def counted(request: pytest.FixtureRequest, servers: Servers) -> Rig:
    """Each driver in turn whose fence has room for operation numbers."""
    return made(request.param, servers)


@pytest.fixture(params=sorted(databases()))
def sql(request: pytest.FixtureRequest, servers: Servers) -> Rig:
    """Each driver of a database in turn, on a store with the tables."""
    return made(request.param, servers)


@pytest.fixture(scope="session")
def shared() -> Iterator[RedisServer]:
    """A Redis for tests that leave it as it was, but for its data."""
    if reason := redis_missing():
        pytest.skip(reason)
    with RedisServer() as server:
        yield server


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    """An empty Redis."""
    shared.cli("FLUSHALL")
    return shared


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    """A client of an empty Redis."""
    with redis.Redis.from_url(server.url) as made:
        yield made


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Of a file that is not there yet."""
    return str(tmp_path / "report.csv")
