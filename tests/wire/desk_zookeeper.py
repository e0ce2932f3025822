"""The wire of ZooKeeper: nodes, their data, and the requests that write."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from tenure.engines.zookeeper import jute
from tenure.engines.zookeeper.dial import Dialer
from tenure.engines.zookeeper.hub import Hub
from tenure.engines.zookeeper.layout import FORMAT, Layout
from tenure.engines.zookeeper.link import Link
from tenure.engines.zookeeper.mailbox import ZooKeeperMailbox
from tenure.engines.zookeeper.store import ZooKeeperStore
from tenure.engines.zookeeper.url import parse
from tenure.engines.zookeeper.wire import Batch
from tenure.runtimes.blocking import KeeperRuntime
from tests.servers.processes import until
from tests.wire.scenario import NAMESPACE, Play, scenario
from tests.wire.transcript import Transcript

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenure.engines.zookeeper.asking import Question
    from tests.servers.zookeeper import ZooKeeperServer

_WRITES: Final = {
    jute.CREATE2: "create",
    jute.CREATE_CONTAINER: "create container",
    jute.DELETE: "delete",
    jute.SET_DATA: "write",
    jute.CHECK: "check",
}
_KINDS: Final = {
    jute.PERSISTENT: "",
    jute.EPHEMERAL_SEQUENTIAL: ", ephemeral, sequential",
    jute.EPHEMERAL: ", ephemeral",
}
_SUB: Final = struct.Struct(">i?i")


class ZooKeeperDesk(ZooKeeperStore):
    """As `Desk`, and the store itself: a tree of its own on a server."""

    has_tombstones = False

    def __init__(self, server: ZooKeeperServer, chroot: str, transcript: Transcript) -> None:
        dialer = Dialer(parse(f"{server.url}{chroot}?{server.options}"))
        self._chroot = chroot
        self._transcript = transcript
        self._said: list[tuple[str, str]] = []
        runtime = KeeperRuntime()
        super().__init__(Hub(dialer, Layout(chroot, NAMESPACE)), runtime)
        self.hub.mailbox = ZooKeeperMailbox(runtime)
        self._hand = Link(Dialer(parse(server.url + f"?{server.options}")), 30.0)

    @property
    def store(self) -> ZooKeeperStore:
        return self

    def begin(self, link: Link, requests: Sequence[jute.Request]) -> Question:
        for request in requests:
            self._said += [(">", line) for line in [_request(request)] if line]
        return super().begin(link, requests)

    def said(self) -> list[tuple[str, str]]:
        said, self._said = self._said, []
        return said

    def state(self) -> list[tuple[str, str]]:
        return sorted(self._below(self._chroot))

    def _below(self, path: str) -> list[tuple[str, str]]:
        [[data, stat], names] = self._read(path)
        base = self.hub.genesis.base if self.hub.genesis else 0
        made = self._transcript.named(stat.czxid + base)
        about = ["ephemeral"] if stat.owner else []
        about += [f"made as {made}"] if made != str(stat.czxid + base) else []
        about += [f"version {stat.version}"] if stat.version else []
        found = [(path, f"'{data.decode()}'" + (f" ({', '.join(about)})" if about else ""))]
        return found + [row for name in names for row in self._below(f"{path}/{name}")]

    def _read(self, path: str) -> list[Any]:
        batch = Batch([jute.get(path), jute.children(path)], lambda: None)
        self._hand.submit(batch)
        until(lambda: batch.is_done, "an answer")
        assert batch.error is None, batch.error
        return batch.answers

    def clocks(self) -> Sequence[int]:
        return ()

    def shut(self) -> None:
        self._hand.close()
        self.hub.shut()


def record(server: ZooKeeperServer, chroot: str) -> str:
    """The transcript of the format in force."""
    transcript = Transcript("ZooKeeper", FORMAT)
    desk = ZooKeeperDesk(server, chroot, transcript)
    try:
        scenario(Play(desk, transcript))
        assert desk.hub.genesis is not None
        transcript.call(desk.hub.genesis.id, "STORE")
        transcript.call(chroot, "/CHROOT")
    finally:
        desk.shut()
    return transcript.text()


def _request(request: jute.Request) -> str:
    """A request that writes, in words; empty for one that does not."""
    if request.type == jute.MULTI:
        return "multi: " + "; ".join(_parts(request.body))
    return _words(request.type, request.body, 0)[0] if request.type in _WRITES else ""


def _parts(body: bytes) -> list[str]:
    found: list[str] = []
    at = 0
    while True:
        kind, is_done, _ = _SUB.unpack_from(body, at)
        if is_done:
            return found
        words, at = _words(kind, body, at + _SUB.size)
        found.append(words)


def _words(kind: int, body: bytes, at: int) -> tuple[str, int]:
    path, at = _buffer(body, at)
    words = f"{_WRITES[kind]} {path.decode()}"
    if kind in (jute.CREATE2, jute.CREATE_CONTAINER, jute.SET_DATA):
        data, at = _buffer(body, at)
        words += f" '{data.decode()}'"
    if kind in (jute.CREATE2, jute.CREATE_CONTAINER):
        (acls,) = struct.unpack_from(">i", body, at)
        at += 4
        for _ in range(acls):
            _, at = _buffer(body, _buffer(body, at + 4)[1])
    (last,) = struct.unpack_from(">i", body, at)
    if kind == jute.CREATE2:
        words += _KINDS[last]
    return words, at + 4


def _buffer(body: bytes, at: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from(">i", body, at)
    length = max(0, length)
    return body[at + 4 : at + 4 + length], at + 4 + length
