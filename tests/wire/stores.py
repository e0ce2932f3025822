"""Stores as a format left them, kept as text: commands for Redis, statements for SQLite.

Only what could not be the same tomorrow is replaced: times, as NOW+1000s, and of a file the boot that they count from.
"""

from __future__ import annotations

import re
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Final

from tenure.engines.redis.store import genesis_key
from tenure.engines.sqlite.clock import boot_us, clock_id
from tests.wire.desk_redis import RedisDesk
from tests.wire.desk_sqlite import BOOT_TIMES, TABLES, SqliteDesk
from tests.wire.scenario import NAMESPACE, Play, busy_store
from tests.wire.transcript import NEAR_US, Transcript, told

if TYPE_CHECKING:
    from pathlib import Path

    from tests.redis.rig import SocketWire
    from tests.servers.redis import RedisServer

FIRST: Final = 1_764_000_000_000_001
"""The numbers on record begin here: in November 2025."""

CEILING: Final = FIRST + 60_000_000
"""Of a recorded file."""

STORE: Final = "0f" * 16

_TIME: Final = re.compile(r"NOW([+-]\d+)s")
_WHOLE: Final = re.compile(r"(?<!\d)\d{16}(?!\d)")


def number(nth: int) -> int:
    """The nth number of a recorded store."""
    return FIRST + nth - 1


def _played(play: Play) -> dict[str, str]:
    busy_store(play)
    return {str(drawn): str(number(nth)) for nth, drawn in enumerate(sorted(play.numbers.values()), 1)}


# -- Redis -------------------------------------------------------------------------------------------------------------


def record_redis(server: RedisServer, wire: SocketWire) -> str:
    """The commands that make the store."""
    numbers = _played(Play(RedisDesk(server, wire), Transcript("", 0)))
    store_id = server.cli("HGET", genesis_key(NAMESPACE, 0), "id")
    now = int(time.time() * 1e6)
    lines = []
    for key in sorted(server.cli("KEYS", "*")):
        kind = server.cli("TYPE", key)
        assert server.cli("PTTL", key) < 0, "what expires would need its time said, too"
        if kind == "hash":
            words = ["HSET", key, *server.cli("HGETALL", key)]
        elif kind == "zset":
            found = server.cli("ZRANGE", key, 0, -1, "WITHSCORES")
            words = ["ZADD", key, *(word for pair in zip(found[1::2], found[::2], strict=True) for word in pair)]
        else:
            words = ["RPUSH", key, *server.cli("LRANGE", key, 0, -1)]
        line = " ".join(f'"{word}"' if " " in word or not word else word for word in words)
        lines.append(_plain(line.replace(store_id, STORE), numbers, now))
    return "\n".join(lines) + "\n"


def load_redis(server: RedisServer, text: str) -> None:
    """Make the store, on an empty server."""
    for line in _timed(text, int(time.time() * 1e6)).splitlines():
        server.cli(*(word.strip('"') for word in re.findall(r'"[^"]*"|\S+', line)))


def _plain(line: str, numbers: dict[str, str], now: int) -> str:
    def shown(match: re.Match[str]) -> str:
        if match[0] in numbers or int(match[0]) == CEILING:
            return numbers.get(match[0], match[0])
        away = int(match[0]) - now
        assert abs(away) < NEAR_US, f"neither a number nor a time: {match[0]}"
        return f"NOW{told(away):+d}s"

    return _WHOLE.sub(shown, line)


def _timed(text: str, now: int) -> str:
    return _TIME.sub(lambda match: str(now + int(match[1]) * 1_000_000), text)


# -- SQLite ------------------------------------------------------------------------------------------------------------


def record_sqlite(path: Path) -> str:
    """The statements that make the file."""
    with SqliteDesk(path) as desk:
        numbers = _played(Play(desk, Transcript("", 0)))
        store_id = desk.store.database.id
    now, boot = int(time.time() * 1e6), boot_us()
    with closing(sqlite3.connect(path)) as connection:
        do = connection.execute
        lines = [f"PRAGMA {name} = {do(f'PRAGMA {name}').fetchone()[0]};" for name in ("application_id", "page_size")]
        lines.append("PRAGMA journal_mode = WAL;")
        for (statement,) in do("SELECT sql FROM sqlite_schema WHERE sql <> ''"):
            lines += [line.rstrip() for line in f"{statement};".splitlines()]
        for table in TABLES:
            rows = do(f'SELECT * FROM "{table}" ORDER BY 1, 2')  # noqa: S608 - names of that file
            columns = [column[0] for column in rows.description]
            for row in rows:
                values = [_literal(*value, boot) for value in zip(columns, row, strict=True)]
                line = " ".join(["INSERT INTO", table, "VALUES", f"({', '.join(values)});"])
                line = line.replace(store_id, STORE).replace(clock_id(), "BOOT")
                lines.append(_plain(line, numbers, now))
    return "\n".join(lines) + "\n"


def _literal(column: str, value: object, boot: int) -> str:
    if column in BOOT_TIMES and isinstance(value, int) and value:
        return f"NOW{told(value - boot):+d}s"
    if column == "ceiling":
        return str(CEILING)
    return str(value) if isinstance(value, int) else f"'{value}'"


def load_sqlite(path: Path, text: str, clock: str = "") -> None:
    """Make the file, as one of this boot unless another clock is named."""
    text = _timed(text.replace("BOOT", clock or clock_id()), boot_us())
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(text)
    path.chmod(0o600)
