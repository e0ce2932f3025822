"""What an ensemble says of itself: four-letter words on short-lived connections, and one session that only reads.

Promises: changes nothing. What a server does not answer is a gap in the facts, not an error: most words are off unless
`4lw.commands.whitelist` names them, and only `srvr` is on by default.
Does not promise to see every member of the ensemble: it asks those that the URL names.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenure.engines.zookeeper import jute
from tenure.engines.zookeeper.dial import Expired, Line
from tenure.engines.zookeeper.layout import Genesis, read_genesis
from tenure.errors import StoreUnavailable, UnsafeSetup
from tenure.runtimes import native

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from tenure.engines.address import Address
    from tenure.engines.zookeeper.dial import Dialer
    from tenure.engines.zookeeper.layout import Layout
    from tenure.model import Seconds

ASK_MOST: Final = 3.0
"""Seconds that one server has for one question."""

SAMPLES: Final = 20

_READ_MOST: Final = 1 << 20
_NOT_SERVING: Final = "not currently serving"


class Server(NamedTuple):
    """One server, as it answers.

    Attributes:
        trouble: why it does not; empty if it does.
        mode: standalone, leader, follower, observer or read-only; empty if it is not told.
        conf: the lines of `conf`, and `mntr` those of `mntr`; empty where the word is off.
    """

    shown: str
    trouble: str
    version: str
    mode: str
    conf: Mapping[str, str]
    mntr: Mapping[str, str]


class Facts(NamedTuple):
    """All that was found out.

    Attributes:
        granted: seconds of the session that was opened for this.
        asked: seconds that it asked for.
        trips: of reads, in seconds.
        record: the genesis record; None if there is none yet, or it is none of ours (`is_ours`).
        may_read: whether this login may read it.
        tick: seconds, as the URL says.
    """

    servers: tuple[Server, ...]
    granted: Seconds
    asked: Seconds
    trips: tuple[Seconds, ...]
    record: Genesis | None
    is_ours: bool
    may_read: bool
    is_encrypted: bool
    has_login: bool
    is_local: bool
    tick: Seconds

    def setting(self, name: str) -> str | None:
        """A setting of the first server that tells."""
        return next((s.conf[name] for s in self.servers if name in s.conf), None)


def ask_all(dialer: Dialer, layout: Layout, ttl: Seconds, ticks_least: int) -> Facts:
    """Ask everything.

    Raises:
        StoreUnavailable, UnsafeSetup: no server opens a session.
    """
    url = dialer.url
    servers = tuple(_server(dialer, address) for address in url.hosts)
    asked = max(ttl, ticks_least * url.tick)
    trouble: Exception | None = None
    for address in url.hosts:
        try:
            dialled = dialer.dial(address, ASK_MOST, round(asked * 1000), None, 0)
        except (StoreUnavailable, UnsafeSetup, Expired) as error:
            trouble = error
            continue
        line = _Reader(dialled.socket)
        with dialled.socket:
            try:
                return _questions(line, dialled.connected.timeout_ms / 1000, asked, layout, servers, dialer, address)
            except OSError as error:
                trouble = StoreUnavailable(f"{address} broke the connection: {error}")
    raise trouble or StoreUnavailable(f"{url.shown}: no server answers")


def _questions(
    line: _Reader,
    granted: Seconds,
    asked: Seconds,
    layout: Layout,
    servers: tuple[Server, ...],
    dialer: Dialer,
    address: Address,
) -> Facts:
    answer = line.ask(jute.get(layout.root))
    trips = []
    for _ in range(SAMPLES):
        begun = time.monotonic()
        line.ask(jute.exists("/"))
        trips.append(time.monotonic() - begun)
    with suppress(OSError):
        line.ask(jute.CLOSING)
    data = b"" if isinstance(answer, jute.Refusal) else answer[0]
    record = read_genesis(data) if data else None
    return Facts(
        servers,
        granted,
        asked,
        tuple(trips),
        record,
        record is not None or not data,
        not (isinstance(answer, jute.Refusal) and answer.code == jute.NO_AUTH),
        dialer.url.tls is not None,
        dialer.url.login is not None,
        address.host in ("localhost", "::1") or address.host.startswith("127."),
        dialer.url.tick,
    )


class _Reader:
    """Requests one after another; watches are not asked for."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._xid = 0

    def ask(self, request: jute.Request) -> Any:
        self._xid += 1
        return Line(self._socket, time.monotonic() + ASK_MOST).ask(self._xid, request)[0]


def _server(dialer: Dialer, address: Address) -> Server:
    try:
        srvr = _word(dialer, address, b"srvr")
    except (OSError, UnsafeSetup) as error:
        return Server(str(address), str(error), "", "", {}, {})
    trouble = "it serves nobody: there is no quorum" if _NOT_SERVING in srvr else ""
    version = re.search(r"^Zookeeper version: ([0-9.]+)", srvr, re.MULTILINE)
    mode = re.search(r"^Mode: (.*)$", srvr, re.MULTILINE)
    conf, mntr = "", ""
    with suppress(OSError, UnsafeSetup):
        conf = _word(dialer, address, b"conf")
        mntr = _word(dialer, address, b"mntr")
    return Server(
        str(address),
        trouble,
        version[1] if version else "",
        mode[1] if mode else "",
        dict(re.findall(r"^(\w[\w.]*)=(.*)$", conf, re.MULTILINE)),
        dict(re.findall(r"^(zk_\w+)\t(.*)$", mntr, re.MULTILINE)),
    )


def _word(dialer: Dialer, address: Address, word: bytes) -> str:
    end = native.now() + ASK_MOST
    with dialer.plain(address, ASK_MOST) as connection:
        connection.sendall(word)
        found = b""
        while len(found) < _READ_MOST:
            connection.settimeout(max(0.001, end - native.now()))
            part = connection.recv(1 << 16)
            if not part:
                break
            found += part
    return found.decode("utf-8", "replace")
