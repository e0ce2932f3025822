"""Our own guards through the drill that users have, which steps through the statements of those that have any."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tenure.testing import DrillFailed, drill, point, watch
from tests.fencing.conftest import new_url
from tests.fencing.drill import prepare
from tests.fencing.drivers import every, find
from tests.fencing.paths import DENYING

if TYPE_CHECKING:
    from tenure.testing import Drilled
    from tests.fencing.servers import Servers
    from tests.fencing.session import Session

SCHEDULES = 24
"""Of a right path: its own statements are many, and which of them are stopped at is spread evenly."""


def drilled(servers: Servers, name: str, write: Any, most: int) -> Drilled:
    driver = find(name)
    url = new_url(servers, driver.store)
    asyncio.run(prepare(name, url))

    async def connect() -> Session:
        session = await driver.session(url)
        if driver.is_stepped:
            watch(session.connection)
        return session

    async def pause(place: str) -> None:
        point(f"({place})")

    async def path(lease: Any, session: Session) -> None:
        await write(session, lease, pause)

    async def value(session: Session) -> int:
        return await session.value()

    return drill(path, connect=connect, value=value, schedules_max=most)


@pytest.mark.parametrize("name", every())
def test_the_public_drill_passes_a_guard(servers: Servers, name: str) -> None:
    done = drilled(servers, name, find(name).paths["guarded"], SCHEDULES)
    assert done.refused
    assert done.overtaken > done.schedules // 3
    places = [place for place in done.points if place.startswith("(")]
    assert places == ["(granted)", "(read)", "(written)"]
    assert (len(done.points) > len(places)) == find(name).is_stepped, "the statements are seen"
    if find(name).is_stepped:
        mark = "EVALSHA tenure:fence:" if find(name).store == "redis" else "tenure_fence"
        assert any(mark in place for place in done.points), "those of the guard too"


WRONG = (
    "unfenced",
    "read before raise",
    "write without raise",
    "check then write",
    "strict comparison",
    "TTL on the fence",
)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["sqlite3", "psycopg", "psycopg-async", "asyncpg", "pymysql", "redis"])
def test_the_public_drill_finds_out_what_is_wrong(servers: Servers, name: str, wrong: str) -> None:
    with pytest.raises(DrillFailed) as found:
        drilled(servers, name, find(name).naive[wrong], 1000)
    assert found.value.kind == ("denied" if wrong in DENYING else "lost")
