"""A real PgBouncer for tests, in front of a PostgreSQL server.

In transaction mode: a connection to the server is a client's for one transaction, and the next one's after it.
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers import postgres
from tests.servers.postgres import USER, _demoted, _owner
from tests.servers.processes import HOST, PATIENCE, Server

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer


def _program() -> str | None:
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@functools.cache
def missing() -> str | None:
    """Why no pooler can be started on this host, or None."""
    if reason := postgres.missing():
        return reason
    return None if _program() else "pgbouncer is not installed (Debian: pgbouncer)"


class PgBouncer(Server):
    """One pooler.

    Args:
        server: in front of which server.
        pool: how many connections it keeps to it; fewer than clients have.

    Attributes:
        port: on 127.0.0.1.
        url: of the database `postgres`, through the pooler.
    """

    def __init__(self, server: PostgresServer, *, pool: int = 8) -> None:
        super().__init__("pgbouncer")
        self.port = self.new_port()
        self.url = f"postgresql://{USER}@{HOST}:{self.port}/postgres"
        self._config = os.path.join(self.folder, "pgbouncer.ini")
        users = os.path.join(self.folder, "users.txt")
        Path(users).write_text(f'"{USER}" ""\n', "utf-8")
        lines = [
            "[databases]",
            f"* = host={HOST} port={server.port}",
            "[pgbouncer]",
            f"listen_addr = {HOST}",
            f"listen_port = {self.port}",
            "unix_socket_dir =",
            "auth_type = trust",
            f"auth_file = {users}",
            "pool_mode = transaction",
            f"default_pool_size = {pool}",
            "max_client_conn = 2000",
        ]
        Path(self._config).write_text("\n".join([*lines, ""]), "utf-8")
        owner = _owner()
        if owner is not None:
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)

    def command(self) -> list[str]:
        return [*_demoted(), _program() or "pgbouncer", self._config]

    def is_ready(self) -> bool:
        with socket.create_connection((HOST, self.port), timeout=PATIENCE) as sock:
            user = b"user\0" + USER.encode() + b"\0database\0postgres\0\0"
            sock.sendall((8 + len(user)).to_bytes(4, "big") + (196608).to_bytes(4, "big") + user)
            return sock.recv(1) == b"R"
