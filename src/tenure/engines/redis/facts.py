"""What a Redis server says of itself, asked on one short-lived connection.

Promises: changes nothing. What this user may not ask is a gap in the facts, not an error. Commands that write are only
queued in a transaction that is discarded, where the server checks the rights and does no more.
Does not promise that every server tells everything: managed services hide CONFIG, and a restricted user lacks INFO.
"""

from __future__ import annotations

import re
import socket
import ssl
import statistics
import time
from functools import cache
from importlib import resources
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from redis.exceptions import ResponseError

from tenure.engines.redis.dial import Watched
from tenure.engines.redis.explain import explain
from tenure.engines.redis.pipe import Pipe
from tenure.engines.redis.scripts import command
from tenure.engines.redis.store import genesis_key
from tenure.engines.redis.url import NAME
from tenure.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tenure.engines.redis.dial import Dialer, Link
    from tenure.model import Seconds

ASK_MOST: Final = 5.0
"""Seconds that connecting, and then each group of questions, may take."""

SAMPLES: Final = 20
SAMPLING_MOST: Final = 2.0
"""Seconds after which no more round trips are measured; a slow network is known by then."""

_SETTINGS: Final = (
    "save", "stop-writes-on-bgsave-error", "appendonly", "appendfsync", "no-appendfsync-on-rewrite",
    "maxmemory", "maxmemory-policy", "maxclients", "min-replicas-to-write", "min-replicas-max-lag",
    "cluster-require-full-coverage", "cluster-node-timeout",
)  # fmt: skip

_UNFIT: Final = ("LOADING", "BUSY", "NOAUTH")
"""Errors of a server that answers no question at all."""

_SHAPES: Final[Mapping[str, tuple[str, ...]]] = {
    "BLPOP": ("1",),
    "DEL": (),
    "EXISTS": (),
    "HGET": ("f",),
    "HINCRBY": ("f", "1"),
    "HMGET": ("f",),
    "HSET": ("f", "v"),
    "MGET": (),
    "PERSIST": (),
    "PEXPIRE": ("1",),
    "PEXPIREAT": ("1",),
    "PTTL": (),
    "RPUSH": ("v",),
    "SET": ("v",),
    "ZADD": ("1", "m"),
    "ZRANGE": ("0", "0"),
    "ZRANGEBYSCORE": ("0", "0"),
    "ZREM": ("m",),
    "ZREVRANGE": ("0", "0"),
    "ZREVRANGEBYSCORE": ("0", "0"),
    "ZSCORE": ("m",),
}
"""What follows the key: a server looks at the number of arguments before it looks at rights."""

_CALL: Final = re.compile(r"""call\(\s*['"]([A-Z]+)['"]""")


class Transport(NamedTuple):
    """The connection itself.

    Attributes:
        is_local: it does not leave this host.
        is_encrypted: by TLS.
        is_verified: the server had to show a certificate that is trusted, for its own name.
        has_password: one is sent at login.
    """

    is_local: bool
    is_encrypted: bool
    is_verified: bool
    has_password: bool


class Rights(NamedTuple):
    """What this user may not do, of what locks need.

    Attributes:
        commands: those that are refused; None if the server does not tell.
        keys: those that are out of bounds, as patterns of the server's.
    """

    commands: tuple[str, ...] | None = None
    keys: tuple[str, ...] = ()


class Timing(NamedTuple):
    """Round trips, in seconds, and the server's clock.

    Attributes:
        median, worst: of `samples` round trips.
        offset: the server's clock less this host's; None if this user may not ask for the time.
        error: by how much `offset` may be wrong either way: half of the quickest round trip.
    """

    median: Seconds
    worst: Seconds
    samples: int
    offset: Seconds | None
    error: Seconds


class Record(NamedTuple):
    """The genesis record; format, partitions and template as the server has them, for it may be another release's."""

    format: str
    last: int
    partitions: str
    template: str = ""


class Server(NamedTuple):
    """What one server says of itself.

    Attributes:
        shown: where it is, for people.
        is_watched: sentinels watch it.
        info: the fields of INFO; empty if this user may not use it.
        config: the settings that CONFIG GET told; empty likewise.
        hello: the fields of HELLO, which every user may use from Redis 6.2 on.
        user: as whom we are logged in; empty if nobody tells.
    """

    shown: str
    is_watched: bool
    info: Mapping[str, str]
    config: Mapping[str, str]
    hello: Mapping[str, str]
    user: str

    def setting(self, name: str, field: str = "") -> str | None:
        """A setting from CONFIG GET, else from a field of INFO; None if neither tells."""
        found = self.config.get(name)
        return self.info.get(field) if found is None else found

    @property
    def is_appending(self) -> bool | None:
        """Whether the append-only file is on; None if unknown."""
        found = self.setting("appendonly", "aof_enabled")
        return None if found is None else found in ("yes", "1")

    @property
    def role(self) -> str | None:
        """`master`, or `slave` or `replica`; None if unknown."""
        return self.info.get("role") or self.hello.get("role")


class Facts(NamedTuple):
    """All that was found out.

    Attributes:
        record: None if there is none yet; `is_read` tells whether that is known.
    """

    server: Server
    transport: Transport
    rights: Rights
    timing: Timing
    record: Record | None
    is_read: bool
    namespace: str


class Questions:
    """Asks one server."""

    def __init__(self, dialer: Dialer) -> None:
        """Connect.

        Raises:
            StoreUnavailable, UnsafeSetup, IncompatibleStore: the server cannot be asked.
        """
        self._dialer = dialer
        self._link: Link = dialer.dial(ASK_MOST)
        self._pipe = Pipe(self._link)

    def close(self) -> None:
        """Close the connection."""
        self._pipe.close()

    def server(self) -> Server:
        """How it is set up."""
        asked = [_words("INFO"), _words("HELLO"), _words("ACL", "WHOAMI")]
        info, hello, user, *told = self._ask(asked + [_words("CONFIG", "GET", name) for name in _SETTINGS])
        config: dict[str, str] = {}
        for answer in told:
            config |= _mapping(answer)
        return Server(
            self._dialer.shown,
            isinstance(self._dialer, Watched),
            _fields(info),
            config,
            _mapping(hello),
            _text(user),
        )

    def transport(self) -> Transport:
        """How the connection is guarded."""
        sock = self._link.socket
        context = sock.context if isinstance(sock, ssl.SSLSocket) else None
        is_local = sock.family == getattr(socket, "AF_UNIX", None) or ip_address(sock.getpeername()[0]).is_loopback
        return Transport(
            is_local,
            context is not None,
            context is not None and context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname,
            self._dialer.access.has_password,
        )

    def timing(self) -> Timing:
        """Round trips, and where the server's clock stands."""
        trips: list[Seconds] = []
        best: tuple[Seconds, Seconds] | None = None
        begun = time.monotonic()
        while len(trips) < SAMPLES and (len(trips) < 3 or time.monotonic() < begun + SAMPLING_MOST):
            wall, sent = time.time(), time.monotonic()
            [answer] = self._ask([_words("TIME")])
            trip = time.monotonic() - sent
            # A refusal takes the same way there and back.
            trips.append(trip)
            if isinstance(answer, list) and (best is None or trip < best[0]):
                best = trip, int(answer[0]) + int(answer[1]) / 1e6 - (wall + trip / 2)
        return Timing(
            statistics.median(trips),
            max(trips),
            len(trips),
            best[1] if best else None,
            best[0] / 2 if best else 0.0,
        )

    def cluster(self) -> tuple[Mapping[str, str], str]:
        """The fields of CLUSTER INFO and the lines of CLUSTER NODES; empty if this user may not ask."""
        told, nodes = self._ask([_words("CLUSTER", "INFO"), _words("CLUSTER", "NODES")])
        return _fields(told), _text(nodes)

    def record(self, namespace: str, partition: int = 0) -> tuple[Record | None, bool]:
        """The genesis record of a partition, and whether it could be read."""
        fields = ("format", "last", "partitions", "plain")
        [answer] = self._ask([_words("HMGET", genesis_key(namespace, partition), *fields)])
        if not isinstance(answer, list):
            return None, False
        if answer[0] is None:
            return None, True
        format_, last, partitions, template = map(_text, answer)
        return Record(format_, int(last) if last.isdigit() else 0, partitions, template), True

    def rights(self, namespace: str, partition: int = 0, template: str = "") -> Rights:
        """What this user may not do: all that locks need is put into a transaction, which is then discarded."""
        [begun] = self._ask([_words("MULTI")])
        if begun != b"OK":
            # Outside a transaction the commands would be carried out.
            return Rights()
        ours, plain = f"{{{namespace}:{partition}}}:*", template.replace(NAME, "*")
        key = ours.replace("*", "m:doctor")
        probes: list[tuple[str, tuple[str, ...]]] = [
            (ours, ("EVAL", "return 1", "1", key)),
            (ours, ("EVALSHA", "0" * 40, "1", key)),
            (ours, ("TIME",)),
        ]
        probes += [(ours, (name, key, *_SHAPES[name])) for name in needed() if name in _SHAPES]
        if plain:
            probes += [(plain, ("SET", template.replace(NAME, "doctor"), "v"))]
        answers = self._ask([*(_words(*words) for _, words in probes), _words("DISCARD")])
        commands: dict[str, None] = {}  # in order, each once
        keys: dict[str, None] = {}
        for (touched, (name, *_)), answer in zip(probes, answers, strict=False):
            text = str(answer) if isinstance(answer, ResponseError) else ""
            if text.startswith("ERR unknown command") or (text.startswith("NOPERM") and "run the '" in text):
                commands[name] = None
            elif text.startswith("NOPERM"):
                keys[touched] = None
        return Rights(tuple(commands), tuple(keys))

    def _ask(self, commands: Sequence[bytes]) -> list[Any]:
        """Send commands; an answer that is an error is returned, unless the server answers no question at all."""
        try:
            answers = self._pipe.exchange(b"".join(commands), len(commands), ASK_MOST)
        except TimeoutError as error:
            raise StoreUnavailable(f"{self._dialer.shown} did not answer within {ASK_MOST:g} s") from error
        except OSError as error:
            raise StoreUnavailable(f"{self._dialer.shown} broke the connection: {error}") from error
        for answer in answers:
            if isinstance(answer, ResponseError) and str(answer).startswith(_UNFIT):
                raise explain(answer, sent=False, at=self._dialer.shown) from answer
        return answers


def ask_all(dialer: Dialer, namespace: str, partition: int = 0) -> Facts:
    """Ask everything, of the server that has a partition.

    Raises:
        StoreUnavailable, UnsafeSetup, IncompatibleStore: the server cannot be asked.
    """
    questions = Questions(dialer)
    try:
        server = questions.server()
        record, is_read = questions.record(namespace, partition)
        return Facts(
            server,
            questions.transport(),
            questions.rights(namespace, partition, record.template if record else ""),
            questions.timing(),
            record,
            is_read,
            namespace,
        )
    finally:
        questions.close()


@cache
def needed() -> tuple[str, ...]:
    """The commands that the Lua scripts and the mailbox run, as the scripts themselves have them."""
    found = {"BLPOP"}
    for file in resources.files("tenure.engines.redis").joinpath("lua").iterdir():
        found |= set(_CALL.findall(file.read_text("utf-8")))
    return tuple(sorted(found))


def _words(*words: str) -> bytes:
    return command(words)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value) if isinstance(value, int) else ""  # an error, or nothing at all


def _fields(info: object) -> dict[str, str]:
    """The `name:value` lines of an INFO; none if it is an error."""
    if not isinstance(info, bytes):
        return {}
    return dict(line.split(":", 1) for line in _text(info).splitlines() if ":" in line)


def _mapping(answer: object) -> dict[str, str]:
    """A map of RESP3, or the flat list that RESP2 makes of it; empty if it is an error."""
    if isinstance(answer, list):
        answer = dict(zip(answer[::2], answer[1::2], strict=False))
    return {_text(name): _text(value) for name, value in answer.items()} if isinstance(answer, dict) else {}
