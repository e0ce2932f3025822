"""A server for each kind of store, started when it is first wanted, and empty databases on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import psycopg
import pymysql

from tests.servers import mariadb, postgres
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer
from tests.servers.processes import HOST

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.processes import Server


def missing(store: str) -> str | None:
    """Why there is no such store on this host, or None."""
    return {"postgresql": postgres.missing, "mysql": mariadb.missing}.get(store, lambda: None)()


class Servers:
    """The servers of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: dict[str, PostgresServer | MariaDBServer] = {}
        self._made = 0

    def new(self, store: str) -> tuple[str, Server | None]:
        """The URL of an empty database, and the server that it is on, if it is one that can be restarted."""
        self._made += 1
        if store == "sqlite":
            return str(self._folder / f"store{self._made}.db"), None
        if store not in self._started:
            self._started[store] = PostgresServer() if store == "postgresql" else MariaDBServer()
            self._started[store].start()
        server = self._started[store]
        name = f"d{self._made}"
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
