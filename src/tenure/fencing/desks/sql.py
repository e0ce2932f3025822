"""The tables of fences in one database, for operators."""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from tenure.errors import SetupError, StoreUnavailable, TenureError, UsageError
from tenure.fencing.database.places import table
from tenure.fencing.doors import open as open_fence
from tenure.fencing.rule import Fence
from tenure.runtimes.blocking import run
from tenure.sql.statements import statements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tenure.sql.ports import Database

PATIENCE_S: Final = 10


class _Unmoved(Exception):
    """Rolls back a transaction in which nothing was done."""


class Driver(NamedTuple):
    """How a database is reached: the driver's module, and what it raises: without a connection, and otherwise."""

    name: str
    connection: Any
    unreachable: type[Exception]
    error: type[Exception]


class SQLDesk:
    """As `Desk`."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._database: Database = import_module(f"tenure.sql.drivers.{driver.name}").adapt(driver.connection)

    def look(self, resource: str) -> Fence | None:
        """As `Desk.look`."""
        place = table(self._database.dialect, resource)
        with _reaching(self._driver):
            row = run(self._alone(self._database.fetch(place.check, place.key)))
        return None if row is None else Fence(*row)

    def enter(self, resource: str, lease: Any) -> None:
        """As `Desk.enter`."""
        with _reaching(self._driver):
            open_fence(self._driver.connection, lease, resource=resource)

    def move(self, resource: str, found: Fence | None, to: Fence) -> bool:
        """As `Desk.move`. Waits for the transactions of the holder, as a raise does."""
        try:
            with _reaching(self._driver):
                run(self._alone(self._move(resource, found, to)))
        except _Unmoved:
            return False
        return True

    def close(self) -> None:
        """As `Desk.close`."""
        self._driver.connection.close()

    async def _move(self, resource: str, found: Fence | None, to: Fence) -> None:
        database = self._database
        place, named = table(database.dialect, resource), statements("fence", database.dialect.name)
        if place.join is not None:
            await database.execute(place.join, {})
        row = await database.fetch(place.lock, place.key)
        if (None if row is None else Fence(*row)) != found:
            raise _Unmoved
        if row is None:
            for plant in place.plant:
                await database.execute(plant, place.key)
        await database.execute(named["adopt"], {**place.key, "token": to.token, "authority": to.authority})
        if "adopt_intent" in named:
            await database.execute(named["adopt_intent"], {**place.key, "token": to.intent})

    async def _alone(self, work: Any) -> Any:
        """In a transaction of its own."""
        database = self._database
        try:
            await database.begin(raising=True)
        except BaseException:
            work.close()
            raise
        try:
            result = await work
        except BaseException as error:
            await database.end(error)
            raise
        await database.end(None)
        return result


def reach(url: str) -> SQLDesk:
    """Connect.

    Raises:
        UsageError: the URL is wrong; it is not repeated, for it may hold a password.
        StoreUnavailable: it cannot be reached.
    """
    scheme = url.partition(":")[0].lower()
    if scheme == "sqlite":
        return SQLDesk(_sqlite(url))
    return SQLDesk(_mysql(url) if scheme == "mysql" else _postgresql(url))


def _sqlite(url: str) -> Driver:
    import sqlite3

    path = unquote(url.removeprefix("sqlite://").removeprefix("/"))
    if not url.startswith("sqlite:///") or not path or "?" in url:
        raise UsageError("the place of the fence: sqlite:///path is needed, with a fourth slash if the path begins so")
    try:
        # Looked for, not made: a fence in an empty database protects nothing.
        connection = sqlite3.connect(f"file:{quote(path)}?mode=rw", uri=True, timeout=PATIENCE_S)
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{path}: {error}") from error
    return Driver("sqlite3", connection, sqlite3.OperationalError, sqlite3.Error)


def _postgresql(url: str) -> Driver:
    import psycopg

    try:
        connection = psycopg.connect(url, connect_timeout=PATIENCE_S)
    except psycopg.OperationalError as error:
        raise StoreUnavailable(f"PostgreSQL cannot be reached: {_line(error)}") from error
    except psycopg.ProgrammingError as error:
        raise UsageError("the place of the fence: that is no URL of PostgreSQL") from error
    return Driver("psycopg", connection, psycopg.OperationalError, psycopg.Error)


def _mysql(url: str) -> Driver:
    import pymysql

    parts = urlsplit(url)
    try:
        port = parts.port or 3306
    except ValueError:
        port = 0
    if not parts.hostname or not port or not parts.path.strip("/") or parts.query:
        raise UsageError("the place of the fence: mysql://user:password@host:port/database is needed")
    try:
        connection = pymysql.connect(
            host=parts.hostname,
            port=port,
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            database=unquote(parts.path.strip("/")),
            connect_timeout=PATIENCE_S,
        )
    # Not those of `pymysql.err`: where PyMySQL serves Django as MySQLdb, that is another module with others in it.
    except pymysql.OperationalError as error:
        raise StoreUnavailable(f"MySQL cannot be reached: {_line(error)}") from error
    return Driver("pymysql", connection, pymysql.OperationalError, pymysql.Error)


@contextmanager
def _reaching(driver: Driver) -> Iterator[None]:
    try:
        yield
    except (TenureError, _Unmoved):
        raise
    except driver.unreachable as error:
        raise StoreUnavailable(f"the database is out of reach: {_line(error)}") from error
    except driver.error as error:
        raise SetupError(f"the database refuses: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
