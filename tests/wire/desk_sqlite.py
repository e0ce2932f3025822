"""The wire of the embedded engine: the file's schema and rows, the files beside it, the datagrams."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Final, Self

from tenure.engines.sqlite.clock import boot_us, clock_id
from tenure.engines.sqlite.database import Database
from tenure.engines.sqlite.endpoint import Endpoint, Sender
from tenure.engines.sqlite.files import open_home
from tenure.engines.sqlite.tables import FORMAT
from tenure.engines.sqlite.transport_blocking import BlockingStore
from tests.wire.scenario import SESSIONS, Play, scenario
from tests.wire.transcript import Transcript

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TABLES: Final = ("genesis", "sessions", "claims")
BOOT_TIMES: Final = ("until_us", "freed_us")
"""Of the boot's clock, whose times look like any number on a host that has just been started: shown by the wall's."""

PRAGMAS: Final = ("application_id", "user_version", "encoding", "page_size", "journal_mode", "auto_vacuum")


class SqliteDesk:
    """As `Desk`: a file, a connection, and the mailboxes of three clients."""

    has_tombstones = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._closing = ExitStack()
        home = open_home(str(path))
        sender = Sender(home)
        self._closing.callback(sender.close)
        self.store = BlockingStore(home, Database(home, sender), "at-nobody")
        self._closing.callback(self.store.shut)
        self._endpoints = [Endpoint.create(home, f"at-{session}") for session in SESSIONS]
        for endpoint in self._endpoints:
            self._closing.callback(endpoint.close)
        self._folder = home.folder
        self._boot_to_wall = int(time.time() * 1e6) - boot_us()

    def said(self) -> list[tuple[str, str]]:
        said = []
        for endpoint in self._endpoints:
            assert endpoint.mail is not None, "this system has no Unix sockets"
            while True:
                try:
                    message = endpoint.mail.recv(4096)
                except BlockingIOError:
                    break
                said.append(("!", f'to {endpoint.address}: "{message.decode()}"'))
        return said

    def state(self) -> list[tuple[str, str]]:
        found = []
        with closing(sqlite3.connect(self._path)) as connection:
            for table in TABLES:
                rows = connection.execute(f'SELECT * FROM "{table}" ORDER BY 1, 2')  # noqa: S608 - names of this file
                columns = [column[0] for column in rows.description]
                found += [(table, self._shown(dict(zip(columns, row, strict=True)))) for row in rows]
        return found

    def _shown(self, row: dict[str, Any]) -> str:
        return " ".join(f"{name}={self._value(name, value)}" for name, value in row.items())

    def _value(self, name: str, value: Any) -> str:
        if name in BOOT_TIMES and value:
            value += self._boot_to_wall
        return f"'{value}'" if isinstance(value, str) else str(value)

    def clocks(self) -> Sequence[int]:
        return (int(time.time() * 1e6),)

    def schema(self) -> list[str]:
        """What SQLite itself says of the file, and what lies beside it."""
        with closing(sqlite3.connect(self._path)) as connection:
            lines = [f"{name} = {connection.execute(f'PRAGMA {name}').fetchone()[0]}" for name in PRAGMAS]
            for kind, name, table in connection.execute(
                "SELECT type, name, tbl_name FROM sqlite_schema ORDER BY 3, 1, 2"
            ):
                lines.append(f"{kind} {name}" + (f" of {table}" if kind != "table" else ""))
                if kind == "table":
                    lines += [
                        f"  {column} {declared}{' not null' if not_null else ''}{f', key {key}' if key else ''}"
                        for _, column, declared, not_null, _, key in connection.execute(f'PRAGMA table_info("{name}")')
                    ]
                elif kind == "index":
                    lines += [f"  {row[2]}" for row in connection.execute(f'PRAGMA index_info("{name}")')]
        beside = sorted(os.listdir(self._folder))
        return [
            *lines,
            f"beside it, in NAME{self._folder.removeprefix(str(self._path))}:",
            *(f"  {name}" for name in beside),
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()


def record(path: Path) -> str:
    """The transcript of the format in force."""
    transcript = Transcript("SQLite", FORMAT)
    with SqliteDesk(path) as desk:
        scenario(Play(desk, transcript))
        transcript.section("the file", desk.schema())
        transcript.call(desk.store.database.id, "STORE")
    transcript.call(clock_id(), "BOOT/TIME-NAMESPACE")
    return transcript.text()
