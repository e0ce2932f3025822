"""Connections of psycopg to one database with the tables of fences, for each test anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.fencing.conftest import new_url
from tests.fencing.stores import PsycopgSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.fencing.servers import Servers

__all__ = ["RESOURCE", "blocked", "connect"]

RESOURCE: dict[str, Any] = {"resource": "orders"}


@pytest.fixture
def connect(servers: Servers) -> Iterator[Callable[[], psycopg.Connection[Any]]]:
    """Makes connections to a database with the tables."""
    url = new_url(servers, "postgresql")
    made: list[psycopg.Connection[Any]] = []

    def make() -> psycopg.Connection[Any]:
        made.append(psycopg.connect(url))
        return made[-1]

    session = PsycopgSession(url)
    for coroutine in (session.prepare(), session.close()):
        with pytest.raises(StopIteration):
            coroutine.send(None)
    yield make
    for connection in made:
        connection.close()


def blocked(connection: psycopg.Connection[Any]) -> bool:
    """Whether somebody waits for a lock of this database."""
    row = connection.execute(
        "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    ).fetchone()
    connection.rollback()
    assert row is not None
    return bool(row[0])
