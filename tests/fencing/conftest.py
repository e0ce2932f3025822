"""A store for each test, a server for each kind of store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.fencing.drivers import every, find
from tests.fencing.servers import Servers, missing
from tests.fencing.stores import SQL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


@pytest.fixture(params=sorted(every().keys() - {"file"}))
def counted(request: pytest.FixtureRequest, servers: Servers) -> Rig:
    """Each driver in turn whose fence has room for operation numbers."""
    return made(request.param, servers)


@pytest.fixture(params=sorted(SQL))
def sql(request: pytest.FixtureRequest, servers: Servers) -> Rig:
    """Each driver of a database in turn, on a store with the tables."""
    return made(request.param, servers)
