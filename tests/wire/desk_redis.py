"""The wire of Redis: scripts with their arguments and replies, and the keys."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError

from tenure.engines.redis import scripts
from tenure.engines.redis.life import FORMAT, PLAIN_FORMAT, Life
from tenure.engines.redis.partitions import Layout
from tenure.engines.redis.store import RedisStore, genesis_key
from tenure.runtimes import native
from tests.wire.scenario import NAMESPACE, Play, scenario
from tests.wire.transcript import Transcript

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.redis.rig import SocketWire
    from tests.servers.redis import RedisServer

COUNTS: Final = (8, 16)
TEMPLATE: Final = "lock:{name}"
"""Of the plain keys, in a store that has them."""

NAMES: Final = ("orders/42", "orders/43", "catalogue", "encoders", "device", "Straße")


class RedisDesk:
    """As `Desk`: one empty server and one connection.

    Args:
        template: of the plain keys beside the queues; empty for a store without.
    """

    has_tombstones = True

    def __init__(self, server: RedisServer, wire: SocketWire, template: str = "") -> None:
        self._server = server
        self._wire = wire
        self._said: list[tuple[str, str]] = []
        server.cli("FLUSHALL")
        step = scripts.script_beside if template else scripts.script
        known = [scripts.script("genesis"), *map(step, scripts.STEPS)]
        self._steps = {word: script.name for script in known for word in (script.by_hash[1], script.by_text[1])}
        self.store = RedisStore(self, NAMESPACE, Life(template), native.now)

    # -- as `store.Wire` --------------------------------------------------------------------------------------------

    async def exchange(self, payload: bytes, replies: int, timeout: float) -> list[Any]:
        answers = await self._wire.exchange(payload, replies, timeout)
        script, *others = commands(payload)
        if not isinstance(answers[0], ResponseError):
            self._said.append((">", " ".join([self._steps[script[1]], *map(_quoted, script[2:])])))
            self._said.append(("<", _quoted_reply(answers[0])))
            # Their replies are the server's own and the same for every client; the store's life is made of them.
            self._said += [(">", " ".join(map(_quoted, other))) for other in others]
        else:
            assert str(answers[0]).startswith("NOSCRIPT"), answers[0]
        return answers

    def forget(self) -> None:
        self._wire.forget()

    # -- as `Desk` --------------------------------------------------------------------------------------------------

    def said(self) -> list[tuple[str, str]]:
        said, self._said = self._said, []
        return said

    def state(self) -> list[tuple[str, str]]:
        return [row for key in sorted(self._server.cli("KEYS", "*")) for row in rows(self._server, key)]

    def clocks(self) -> Sequence[int]:
        return (int(time.time() * 1e6),)


def record(server: RedisServer, wire: SocketWire) -> str:
    """The transcript of the format in force."""
    transcript = _played(server, wire, FORMAT, "")
    transcript.section("where names lie in a cluster", [line for count in COUNTS for line in _spread(count)])
    return transcript.text()


def record_beside(server: RedisServer, wire: SocketWire) -> str:
    """The transcript of the format with plain keys beside the queues."""
    return _played(server, wire, PLAIN_FORMAT, TEMPLATE).text()


def _played(server: RedisServer, wire: SocketWire, number: int, template: str) -> Transcript:
    desk = RedisDesk(server, wire, template)
    transcript = Transcript("Redis", number)
    scenario(Play(desk, transcript))
    transcript.call(server.cli("HGET", genesis_key(NAMESPACE, 0), "id"), "STORE")
    return transcript


def _spread(count: int) -> list[str]:
    layout = Layout(NAMESPACE, None)
    layout.count = count
    keys = ((name, f"{NAMESPACE}:{name}") for name in NAMES)
    return [
        f"{count} partitions: {name} by {genesis_key(NAMESPACE, layout.of(key))}, in sessions ID{layout.part(key)}"
        for name, key in keys
    ]


def rows(server: RedisServer, key: str) -> list[tuple[str, str]]:
    """A key as lines."""
    kind = server.cli("TYPE", key)
    expires = ", expires" if server.cli("PTTL", key) >= 0 else ""
    where = f"{key} ({kind}{expires})"
    if kind == "hash":
        found = server.cli("HGETALL", key)
        return sorted((where, f"{field} = {value}") for field, value in zip(found[::2], found[1::2], strict=True))
    if kind == "zset":
        found = server.cli("ZRANGE", key, 0, -1, "WITHSCORES")
        return [(where, f'"{member}" at {score}') for member, score in zip(found[::2], found[1::2], strict=True)]
    if kind == "string":
        return [(where, f'"{server.cli("GET", key)}"')]
    assert kind == "list", f"a format has no {kind}"
    return [(where, f'"{element}"') for element in server.cli("LRANGE", key, 0, -1)]


def commands(payload: bytes) -> list[list[bytes]]:
    """Take requests apart, as a server does."""
    found, at = [], 0
    while at < len(payload):
        count, at = _length(payload, at, b"*")
        words = []
        for _ in range(count):
            length, at = _length(payload, at, b"$")
            words.append(payload[at : at + length])
            at += length + 2
        found.append(words)
    return found


def _length(payload: bytes, at: int, kind: bytes) -> tuple[int, int]:
    end = payload.index(b"\r\n", at)
    assert payload[at : at + 1] == kind
    return int(payload[at + 1 : end]), end + 2


def _quoted(word: bytes) -> str:
    text = word.decode()
    return text if text and " " not in text else f'"{text}"'


def _quoted_reply(reply: Any) -> str:
    return " ".join(str(each) if isinstance(each, int) else _quoted(each or b"") for each in reply)
