"""A real PostgreSQL server for tests.

PostgreSQL refuses to run as root. Under root it runs as another user who keeps one privilege, to read and write
whatever its path leads through: temporary folders of root's may lie where nobody else can reach.

Nothing is tuned for the tests' sake, except that what a power failure would lose is not waited for (`fsync=False`).
"""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from tests.servers import processes
from tests.servers.clock import Clock
from tests.servers.processes import HOST, PATIENCE, Server, until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.servers.certificates import Certificates

USER = "tenure"
"""The superuser of the database; no password is asked."""

STANDBY = "standby"
"""What a standby calls itself, for `synchronous_standby_names`."""


def _program(name: str) -> str | None:
    """Where a program of the server is; Debian leaves them off the PATH. TENURE_TESTS_POSTGRES names another folder."""
    if folder := os.environ.get("TENURE_TESTS_POSTGRES"):
        return shutil.which(name, path=folder)
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return shutil.which(name) or (str(found[-1]) if found else None)


def _owner() -> pwd.struct_passwd | None:
    """Who runs the server, if we must not."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _demoted() -> list[str]:
    """What stands before a command that must not run as root."""
    owner = _owner()
    if owner is None:
        return []
    who = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
    # The wish to die with the parent is forgotten when the user changes, so it is made once more.
    return ["setpriv", *who, "--inh-caps=+dac_override", "--ambient-caps=+dac_override", "setpriv", "--pdeathsig=KILL"]


@functools.cache
def missing() -> str | None:
    """Why no PostgreSQL server can be started on this host, or None."""
    if reason := processes.missing():
        return reason
    program = _program("postgres")
    if program is None or _program("initdb") is None:
        return "postgres is not installed (Debian: postgresql)"
    command = [*_demoted(), program, "--version"]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    return None if told.returncode == 0 else f"postgres does not run for another user: {told.stderr[:200]}"


def is_gone(pid: int) -> bool:
    """Whether a process holds nothing any more; whoever inherited it may be slow to bury it."""
    try:
        return Path("/proc", str(pid), "stat").read_text(errors="replace").rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


class PostgresServer(Server):
    """One PostgreSQL server, made anew.

    Args:
        fsync: wait for the disk, as a server in earnest does. A killed server loses nothing either way.
        file_most: bytes to which any of its files may grow; beyond, it finds its disk full. 0: no limit; may be changed
            for the next start.
        clock: let the test move its clocks; see `Clock`.
        certificates: speak TLS too; whoever comes by TLS as the user `client` must show that certificate.
        standby_of: a running server, of which this one is made a standby, by streaming replication.
        primary_port: where the standby finds it; its own port by default.
        extra: settings such as `max_connections=20`.

    Attributes:
        port: on 127.0.0.1; its Unix socket is in `folder`.
        url: of the database `postgres`, as psycopg, asyncpg and SQLAlchemy take it.
    """

    shut_signal = signal.SIGINT
    """Ends open connections too."""

    def __init__(
        self,
        *,
        fsync: bool = False,
        clock: bool = False,
        file_most: int = 0,
        certificates: Certificates | None = None,
        standby_of: PostgresServer | None = None,
        primary_port: int = 0,
        extra: Sequence[str] = (),
    ) -> None:
        super().__init__("postgres")
        self._clock = Clock(os.path.join(self.folder, "clock")) if clock else None
        self.file_most = file_most
        self.port = self.new_port()
        self.url = f"postgresql://{USER}@{HOST}:{self.port}/postgres"
        self._settings = [f"fsync={'on' if fsync else 'off'}", *extra]
        self._data = os.path.join(self.folder, "data")
        owner = _owner()
        if owner is not None:
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        if standby_of is not None:
            self._copy(standby_of, primary_port or standby_of.port)
        else:
            options = ["-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
            # Small segments of the log: they must stay below what a file may grow to.
            self._make("initdb", *options, *(["--wal-segsize=1"] if file_most else []))
        if certificates is not None:
            self._guard(certificates)

    def _make(self, program: str, *options: str) -> None:
        """Make the data's folder."""
        done = subprocess.run(
            [*_demoted(), _program(program) or program, "-D", self._data, *options],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if done.returncode:
            self.close()
            raise processes.ServerFailed(f"{program} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")

    def _copy(self, primary: PostgresServer, port: int) -> None:
        self._make("pg_basebackup", "-d", primary.url, "-X", "stream", "-c", "fast", "--no-sync")
        Path(self._data, "standby.signal").touch()
        # A cut is noticed soon, and made good soon.
        self._settings += [
            f"primary_conninfo=host={HOST} port={port} user={USER} application_name={STANDBY}",
            "wal_retrieve_retry_interval=100ms",
            "wal_receiver_timeout=1s",
        ]

    def _guard(self, certificates: Certificates) -> None:
        self._settings += [
            "ssl=on",
            f"ssl_cert_file={certificates.server}",
            f"ssl_key_file={certificates.server_key}",
            f"ssl_ca_file={certificates.authority}",
        ]
        rules = Path(self._data, "pg_hba.conf")
        ours = [f"hostssl all client {HOST}/32 cert", f"hostssl all secret {HOST}/32 scram-sha-256"]
        rules.write_text("\n".join([*ours, rules.read_text("utf-8")]), "utf-8")

    def kill(self) -> None:
        """As any server's; returns when its backends are gone too, without which it does not start again."""
        family = [pid for pid, _ in self._family()] if self.is_running else []
        super().kill()
        until(lambda: all(map(is_gone, family)), "the backends are gone")

    @property
    def clock(self) -> Clock:
        assert self._clock is not None, "made without clock=True"
        return self._clock

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **(self._clock.environment() if self._clock else {})}

    def close(self) -> None:
        super().close()
        if self._clock:
            self._clock.close()

    def url_as(self, user: str, password: str = "") -> str:
        """The URL of another user."""
        return self.url.replace(f"{USER}@", f"{user}:{password}@" if password else f"{user}@")

    def run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser, on a connection of its own; its rows."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def command(self) -> list[str]:
        settings = [f"listen_addresses={HOST}", f"port={self.port}", f"unix_socket_directories={self.folder}"]
        options = [word for setting in [*settings, *self._settings] for word in ("-c", setting)]
        limit = ["prlimit", f"--fsize={self.file_most}:unlimited"] if self.file_most else []
        return [*_demoted(), *limit, _program("postgres") or "postgres", "-D", self._data, *options]

    def is_ready(self) -> bool:
        with socket.create_connection((HOST, self.port), timeout=PATIENCE) as sock:
            # "Will you speak TLS?" is answered by a server in any state; only one that serves greets a user.
            user = b"user\0" + USER.encode() + b"\0database\0postgres\0\0"
            sock.sendall((8 + len(user)).to_bytes(4, "big") + (196608).to_bytes(4, "big") + user)
            # R: come in. E: still starting.
            return sock.recv(1) == b"R"
