"""A server for each kind of store, started when it is first wanted, and empty databases on it."""

from __future__ import annotations

import importlib.util
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psycopg
import pymysql

from tests.servers import mariadb, postgres, processes, redis, s3
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer
from tests.servers.processes import HOST, PATIENCE, Server
from tests.servers.redis import RedisServer
from tests.servers.s3 import S3Server

if TYPE_CHECKING:
    from collections.abc import Callable


DATABASES = 1000


class ServiceServer(Server):
    """The fenced service of `service.py`; what it was asked to write, it has after a kill."""

    def __init__(self) -> None:
        super().__init__("service")
        self.port = self.new_port()
        self.url = f"http://{HOST}:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, str(Path(__file__).with_name("service.py")), str(self.port)]

    def is_ready(self) -> bool:
        with urllib.request.urlopen(f"{self.url}/ready/counter", timeout=PATIENCE):  # noqa: S310 - loopback
            return True


def _no_service() -> str | None:
    return processes.missing() or (None if importlib.util.find_spec("uvicorn") else "uvicorn is not installed")


Store = PostgresServer | MariaDBServer | RedisServer | S3Server | ServiceServer

_SERVERS: dict[str, Callable[[], Store]] = {
    "postgresql": PostgresServer,
    "mysql": MariaDBServer,
    # Killed and restarted, it must remember what it acknowledged.
    "redis": lambda: RedisServer(persistence="always", extra=[f"databases {DATABASES}"]),
    "s3": S3Server,
    "http": ServiceServer,
}

_MISSING: dict[str, Callable[[], str | None]] = {
    "postgresql": postgres.missing,
    "mysql": mariadb.missing,
    "redis": redis.missing,
    "s3": s3.missing,
    "http": _no_service,
}


def missing(store: str) -> str | None:
    """Why there is no such store on this host, or None."""
    return _MISSING[store]() if store in _MISSING else None


class Servers:
    """The servers of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: dict[str, Store] = {}
        self._made = 0

    def new(self, store: str) -> tuple[str, Server | None]:
        """The URL of an empty database, or of a bucket to be; and its server, if that can be restarted."""
        self._made += 1
        if store in ("sqlite", "file"):
            return str(self._folder / f"store{self._made}.{store}"), None
        if store not in self._started:
            self._started[store] = _SERVERS[store]()
            self._started[store].start()
        server = self._started[store]
        name = f"d{self._made}"
        if isinstance(server, S3Server):
            return f"{server.url}/{name}-store", server
        if isinstance(server, ServiceServer):
            return f"{server.url}/{name}", server
        if isinstance(server, RedisServer):
            assert self._made < DATABASES
            return f"{server.url}/{self._made}", server
        if isinstance(server, PostgresServer):
            with psycopg.connect(server.url, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}".encode())
            return server.url.replace("/postgres", f"/{name}"), server
        with pymysql.connect(host=HOST, port=server.port, user="root", ssl_disabled=True) as one:
            one.cursor().execute(f"CREATE DATABASE {name}")
        return server.url + name, server

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._started.values():
            server.close()
