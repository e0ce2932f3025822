"""A real ZooKeeper server for tests, alone or in an ensemble on loopback.

Its tick is short, so that sessions of a second are granted, and it answers all four-letter words. Nothing else is tuned
that a lock could depend on; what a test needs besides, it says in `extra` (lines of zoo.cfg) or `java` (options).
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.servers import processes
from tests.servers.clock import Clock
from tests.servers.processes import HOST, Group, Server, until
from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.servers.certificates import Certificates

JARS: Final = "TENURE_TESTS_ZOOKEEPER_JARS"
"""The environment's variable with a folder of jars, of another version than Debian's and what that needs."""

# Read once: a server that comes back in the middle of a test must be of the same version.
_jars = os.environ.get(JARS, "")

JAR = "/usr/share/java/zookeeper.jar"
LOGGER = "/usr/share/java/slf4j-simple.jar"
"""Without it the server prints nothing."""

TICK = 0.1
"""Seconds of a server's tick."""

NETTY = [
    f"/usr/share/java/netty-{part}.jar" for part in ("buffer", "codec", "common", "handler", "resolver", "transport")
]
"""What serves TLS; Debian's package does not name all of it."""

HEAP = ["-Xms48m", "-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xss512k"]
"""Small, and quick to start."""


@functools.cache
def missing() -> str | None:
    """Why no server can be started on this host, or None."""
    if reason := processes.missing():
        return reason
    if not (_jars or os.path.exists(JAR)):
        return "ZooKeeper is not installed (Debian: zookeeper)"
    return None if shutil.which("java") else "java is not installed (Debian: default-jre-headless)"


def classpath() -> str:
    """Where the server's classes are."""
    return f"{_jars}/*" if _jars else ":".join([JAR, LOGGER, *NETTY])


class ZooKeeperServer(Server):
    """One ZooKeeper server.

    Args:
        tick: seconds; a session's timeout is from two to twenty ticks unless `extra` says otherwise.
        members: the ensemble's lines `server.N=...`, for one of its nodes; `number` is its own N.
        certificates: serve TLS too, on a port of its own.
        client_certificate: whether TLS asks for one: none, want or need.
        clock: let the test move its clocks; see `Clock`.
        extra: lines of zoo.cfg; the last word on a setting.
        java: options of the virtual machine.

    Attributes:
        port, secure_port: on `host`; 0 if there is none.
    """

    host = HOST

    def __init__(
        self,
        *,
        tick: float = TICK,
        members: Sequence[str] = (),
        number: int = 0,
        port: int = 0,
        certificates: Certificates | None = None,
        client_certificate: str = "none",
        clock: bool = False,
        extra: Sequence[str] = (),
        java: Sequence[str] = (),
    ) -> None:
        super().__init__("zookeeper")
        self.port = port or self.new_port()
        self.secure_port = self.new_port() if certificates else 0
        self.tick = tick
        self._java = list(java)
        self._clock = Clock(os.path.join(self.folder, "clock")) if clock else None
        self._is_member = bool(members)
        data = os.path.join(self.folder, "data")
        os.mkdir(data)
        lines = {
            "tickTime": str(int(tick * 1000)),
            "dataDir": data,
            "clientPort": str(self.port),
            "clientPortAddress": HOST,
            "admin.enableServer": "false",
            "4lw.commands.whitelist": "*",
            "maxClientCnxns": "0",
            # Whoever is tested says what it needs; the server's own bounds have tests of their own.
            "minSessionTimeout": str(int(2 * tick * 1000)),
            "maxSessionTimeout": "100000000",
            "initLimit": "50",
            "syncLimit": "20",
        }
        if certificates:
            lines |= {
                "secureClientPort": str(self.secure_port),
                "secureClientPortAddress": HOST,
                "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
                "ssl.keyStore.location": self._pem(certificates.server_key, certificates.server),
                "ssl.keyStore.type": "PEM",
                "ssl.trustStore.location": os.fspath(shutil.copy(certificates.authority, f"{self.folder}/ca.pem")),
                "ssl.trustStore.type": "PEM",
                "ssl.clientAuth": client_certificate,
            }
        text = "".join(f"{name}={value}\n" for name, value in lines.items())
        text += "".join(f"{line}\n" for line in [*members, *extra])
        self._config = os.path.join(self.folder, "zoo.cfg")
        Path(self._config).write_text(text)
        if number:
            Path(data, "myid").write_text(str(number))

    def _pem(self, *parts: str | os.PathLike[str]) -> str:
        path = os.path.join(self.folder, "identity.pem")
        Path(path).write_text("".join(Path(part).read_text() for part in parts))
        return path

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def data(self) -> str:
        """Where it keeps snapshots and its log."""
        return os.path.join(self.folder, "data")

    @property
    def url(self) -> str:
        return f"zookeeper://{self.host}:{self.port}"

    @property
    def options(self) -> str:
        """What a client must know of this server."""
        return f"tick={self.tick:g}"

    @property
    def clock(self) -> Clock:
        assert self._clock is not None, "ask for a clock when the server is made"
        return self._clock

    def command(self) -> list[str]:
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        return ["java", *HEAP, *self._java, "-cp", classpath(), main, self._config]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **(self._clock.environment() if self._clock else {})}

    def word(self, word: str, timeout: float = 2.0) -> str:
        """What it answers to a four-letter word."""
        with socket.create_connection(self.address, timeout) as connection:
            connection.sendall(word.encode())
            answer = b""
            while part := connection.recv(65_536):
                answer += part
        return answer.decode()

    def facts(self) -> dict[str, str]:
        """What `mntr` tells."""
        return dict(re.findall(r"^(zk_\w+)\t(.*)$", self.word("mntr"), re.MULTILINE))

    @property
    def received(self) -> int:
        """Messages that clients have sent, this question included."""
        return int(self.facts()["zk_packets_received"])

    @property
    def role(self) -> str:
        """`standalone`, `leader` or `follower`; empty while it serves nobody."""
        try:
            # A server that starts may take a connection and never answer on it, but on the next one.
            found = re.search(r"^Mode: (.*)$", self.word("srvr", 0.3), re.MULTILINE)
        except OSError:
            return ""
        return found[1] if found else ""

    def is_ready(self) -> bool:
        if self._is_member:
            # A member serves when there is a quorum; its group waits for that.
            return self.word("ruok") == "imok"
        if self.role != "standalone":
            return False
        if self.secure_port:
            # It is opened after the other one, which answers already.
            socket.create_connection((HOST, self.secure_port), 2.0).close()
        return True

    def close(self) -> None:
        super().close()
        if self._clock:
            self._clock.close()


LENT: Final = "TENURE_TESTS_ZOOKEEPER"
"""The environment's variable with the port of a server that whoever started these tests lends to them."""

_lent = os.environ.get(LENT, "")


class LentServer(ZooKeeperServer):
    """A server that another process has started, and ends."""

    def __init__(self, port: int) -> None:
        super().__init__(port=port)

    def start(self) -> None:
        until(self.is_ready, "the server that was lent answers")


def lent(server: ZooKeeperServer) -> dict[str, str]:
    """The environment of tests that are to use this server where they ask for `shared`."""
    return {LENT: str(server.port)}


def shared() -> ZooKeeperServer:
    """A server for tests that each have a tree of their own: the one that was lent, or a new one."""
    return LentServer(int(_lent)) if _lent else ZooKeeperServer()


class Ensemble(Group):
    """Three servers, of which two make a quorum, with a network between them that fails on demand.

    Args:
        tick: seconds.
        sync_limit: for how many ticks a follower that is cut off from its leader still serves.
        extra, java: for each server, as there.
    """

    def __init__(
        self,
        *,
        tick: float = TICK,
        sync_limit: int = 20,
        extra: Sequence[str] = (),
        java: Sequence[str] = (),
        size: int = 3,
    ) -> None:
        super().__init__()
        self.tick = tick
        self._holders = [processes.reserve_port() for _ in range(2 * size)]
        ports = [processes.port_of(holder) for holder in self._holders]
        numbers = range(size)
        # Each follows its leader through a proxy of its own; elections go straight.
        self._proxies = {(a, b): Proxy((HOST, ports[2 * b])) for a in numbers for b in numbers if a != b}
        self.servers = [
            ZooKeeperServer(
                tick=tick,
                members=[f"server.{b + 1}={HOST}:{self._port(a, b, ports)}:{ports[2 * b + 1]}" for b in numbers],
                number=a + 1,
                extra=[f"syncLimit={sync_limit}", *extra],
                java=java,
            )
            for a in numbers
        ]

    def _port(self, a: int, b: int, ports: Sequence[int]) -> int:
        return ports[2 * b] if a == b else self._proxies[a, b].port

    def cut_off(self, server: ZooKeeperServer) -> None:
        """Keep back all that this member and the others send each other, but for elections."""
        number = self.servers.index(server)
        for pair, proxy in self._proxies.items():
            if number in pair:
                proxy.hold()

    def heal(self) -> None:
        """A network without faults; what was held is lost with its connections."""
        for proxy in self._proxies.values():
            proxy.cut()
            proxy.heal()

    def set_up(self) -> None:
        for proxy in self._proxies.values():
            proxy.__enter__()
        self.start_all(self.servers)
        self.wait_served()

    def wait_served(self) -> None:
        """Wait until there is a leader and all that run follow it."""
        up = [server for server in self.servers if server.is_up]
        until(
            lambda: sorted(server.role for server in up) == ["follower"] * (len(up) - 1) + ["leader"],
            "an ensemble has a leader",
        )

    @property
    def leader(self) -> ZooKeeperServer:
        found: ZooKeeperServer = until(
            lambda: next((s for s in self.servers if s.is_up and s.role == "leader"), None), "there is a leader"
        )
        return found

    @property
    def followers(self) -> list[ZooKeeperServer]:
        leader = self.leader
        return [s for s in self.servers if s is not leader and s.is_up]

    @property
    def url(self) -> str:
        hosts = ",".join(f"{server.host}:{server.port}" for server in self.servers)
        return f"zookeeper://{hosts}"

    @property
    def options(self) -> str:
        return f"tick={self.tick:g}"

    def close(self) -> None:
        super().close()
        for proxy in self._proxies.values():
            proxy.close()
        for holder in self._holders:
            holder.close()
