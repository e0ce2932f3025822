"""A real Redis master with its replica, and sentinels that replace the one by the other."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.servers.processes import HOST, PATIENCE, Group, Server, until
from tests.servers.redis import RedisServer, found, quoted, tls_lines
from tests.servers.resp import Connection, ReplyError, Word

if TYPE_CHECKING:
    from tests.servers.certificates import Certificates


class Sentinel(Server):
    """One sentinel; it writes into its own configuration what it learns.

    Args:
        certificates: serve by TLS, on a port of its own, and speak it to the servers and the other sentinels.
    """

    def __init__(self, certificates: Certificates | None = None) -> None:
        super().__init__("sentinel")
        self.port = self.new_port()
        self.tls_port = self.new_port() if certificates else 0
        self._certificates = certificates
        # A fixed identity, so that the others can know it from their start.
        self.identity = os.urandom(20).hex()
        self._config = os.path.join(self.folder, "sentinel.conf")

    @property
    def address(self) -> tuple[str, int]:
        """Where clients ask it: by TLS if it has certificates."""
        return HOST, self.tls_port or self.port

    def configure(self, lines: list[str]) -> None:
        own = [f"bind {HOST}", f"port {self.port}", f"dir {quoted(self.folder)}", f"sentinel myid {self.identity}"]
        if self._certificates:
            own += [*tls_lines(self._certificates, self.tls_port), f"sentinel announce-port {self.tls_port}"]
        Path(self._config).write_text("\n".join([*own, *lines, ""]), "utf-8")

    def command(self) -> list[str]:
        return [found("redis"), self._config, "--sentinel"]

    def is_ready(self) -> bool:
        return bool(self.cli("PING") == "PONG")

    def cli(self, *words: Word) -> Any:
        with Connection(socket.create_connection((HOST, self.port), PATIENCE)) as connection:
            return connection.call(*words)


class Sentinels(Group):
    """A master, its replica, and sentinels that replace the one by the other.

    The sentinels ask and tell each other ten times as often as they usually do, and know each other from the start:
    a fail-over takes two seconds instead of ten. What they decide, and how, is untouched.

    Args:
        count: of sentinels; a majority decides.
        down_after_ms: silence after which a sentinel takes the master for dead.
        options: of both `RedisServer`s.

    Attributes:
        name: what the sentinels call the master.
        servers: the master and the replica, as they were started.
        sentinels: by rank.
    """

    name = "tenure"

    def __init__(self, count: int = 3, *, down_after_ms: int = 500, **options: Any) -> None:
        super().__init__()
        first = RedisServer(**options)
        self.servers = [first, RedisServer(replica_of=first, **options)]
        self.sentinels = [Sentinel(options.get("certificates")) for _ in range(count)]
        self._down_after_ms = down_after_ms

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [sentinel.address for sentinel in self.sentinels]

    @property
    def master(self) -> RedisServer:
        """Whom the first sentinel that is up names."""
        return self._named_by(next(sentinel for sentinel in self.sentinels if sentinel.is_up))

    def wait_failover(self, lost: RedisServer) -> RedisServer:
        """Wait until all sentinels that are up name another server than `lost`, and it is master; that server."""
        (other,) = [server for server in self.servers if server is not lost]
        up = [sentinel for sentinel in self.sentinels if sentinel.is_up]
        # Three of them may split their votes several times over, and each election takes seconds.
        until(lambda: all(self._named_by(one) is other for one in up), "all sentinels name the replica", 3 * PATIENCE)
        until(lambda: other.role == "master", "the replica is promoted")
        return other

    def _named_by(self, sentinel: Sentinel) -> RedisServer:
        _, port = sentinel.cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)
        return next(server for server in self.servers if _port(server) == int(port))

    def set_up(self) -> None:
        self.start_all(self.servers)
        master, replica = self.servers
        replica.wait_replicated()
        quorum = len(self.sentinels) // 2 + 1
        for sentinel in self.sentinels:
            sentinel.configure(
                [
                    f"sentinel monitor {self.name} {HOST} {_port(master)} {quorum}",
                    f"sentinel down-after-milliseconds {self.name} {self._down_after_ms}",
                    f"sentinel failover-timeout {self.name} 2000",
                    *([f"sentinel auth-pass {self.name} {quoted(master.password)}"] if master.password else []),
                    f"sentinel known-replica {self.name} {HOST} {_port(replica)}",
                    *(
                        f"sentinel known-sentinel {self.name} {HOST} {other.address[1]} {other.identity}"
                        for other in self.sentinels
                        if other is not sentinel
                    ),
                ]
            )
        self.start_all(self.sentinels)
        for sentinel in self.sentinels:
            periods = {"info-period": 200, "ping-period": 100, "ask-period": 100, "publish-period": 200}
            # A machine that stood still for two seconds must not make them wait for thirty more.
            periods["tilt-period"] = 1000
            sentinel.cli("SENTINEL", "DEBUG", *(word for pair in periods.items() for word in pair))
        until(lambda: all(self._is_settled(sentinel) for sentinel in self.sentinels), "the sentinels have settled")

    def _is_settled(self, sentinel: Sentinel) -> bool:
        """Whether it can take part in a fail-over, and knows a replica to promote."""
        with suppress(ReplyError):
            sentinel.cli("SENTINEL", "CKQUORUM", self.name)
            (flat,) = sentinel.cli("SENTINEL", "REPLICAS", self.name)
            replica = dict(zip(flat[::2], flat[1::2], strict=True))
            return bool(replica["flags"] == "slave" and replica["master-link-status"] == "ok")
        return False


def _port(server: RedisServer) -> int:
    """The port that sentinels know a server by."""
    return server.tls_port or server.port
