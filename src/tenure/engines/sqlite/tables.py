"""The steps' tables in SQLite: one short statement each, read lazily, all within the caller's transaction."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from tenure.engines.tables import Glance
from tenure.errors import IncompatibleStore, UnsafeSetup
from tenure.model import EXCLUSIVE, NUMBER_MAX, SHARED, Kind, Mode, maker
from tenure.ports import SessionCard

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from tenure.engines.tables import ClaimRow
    from tenure.ports import ClaimRef, Entry

FORMAT: Final = 1
SPOKEN: Final = (1,)

APPLICATION_ID: Final = 0x746E7265
"""'tnre' in the file's header: `file` and `sqlite3` then know whose it is."""

CEILING_US: Final = 60_000_000
"""How many numbers one synced commit allows: a minute's, as numbers follow the clock in microseconds (B7)."""

_KINDS: Final = {Kind.EXCLUSIVE: 0, Kind.SHARED: 1, Kind.PERMITS: 2}

_CLAIM: Final = (
    'SELECT c.session, c.claim, c.name, c.number, c.kind, c.permits, c."limit", c.delay_us, c.floor, c.freed_us, '
    "c.info, coalesce(s.until_us, 0), coalesce(s.ended, 1), coalesce(s.address, '') "
    "FROM claims c LEFT JOIN sessions s ON s.id = c.session "
)
_QUEUE: Final = _CLAIM + "WHERE c.name = ? ORDER BY c.number"
_BACKWARDS: Final = _CLAIM + "WHERE c.name = ? AND c.number < ? ORDER BY c.number DESC"
_AFTER: Final = _CLAIM + "WHERE c.name = ? AND c.number > ? ORDER BY c.number LIMIT 1"
_NUMBERED: Final = _CLAIM + "WHERE c.name = ? AND c.number = ? AND c.session = ?"
_UNNUMBERED: Final = _CLAIM + "WHERE c.name = ? AND c.session = ? AND c.claim = ?"
_OWNED: Final = _CLAIM + "WHERE c.session = ? LIMIT ?"
_SESSION: Final = "SELECT until_us, ended, stolen, tombstones FROM sessions WHERE id = ?"
_CARD: Final = "SELECT id, 0.0, address, client, host, pid FROM sessions WHERE id = ?"
# Joined to one row, that there be one also without a session or a claim. Few columns, for Python's sqlite3 takes longer
# over each than SQLite does. Placeholders have no numbers: Python 3.12.0 to 3.12.3 take numbered ones for named.
_GLANCE: Final = """
SELECT m.until_us, coalesce(m.ended, 1), coalesce(m.stolen, 0), coalesce(m.tombstones, ''),
    CASE WHEN f.number IS NULL THEN NULL
        WHEN f.kind = 0 AND f.floor > 0 AND f.freed_us = 0 AND fs.ended = 0 THEN fs.until_us ELSE 0 END,
    coalesce(l.session, ''), coalesce(ls.address, ''),
    CASE WHEN l.delay_us = 0 AND l.freed_us = 0 AND ls.ended = 0 THEN ls.until_us ELSE 0 END
FROM (SELECT ? AS session, ? AS name) q
LEFT JOIN sessions m ON m.id = q.session
LEFT JOIN claims f ON f.name = q.name AND f.number = (SELECT min(number) FROM claims WHERE name = ?)
LEFT JOIN sessions fs ON fs.id = f.session
LEFT JOIN claims l ON l.name = q.name AND l.number = (SELECT max(number) FROM claims WHERE name = ?)
LEFT JOIN sessions ls ON ls.id = l.session
"""
_COUNTER: Final = "SELECT last, ceiling FROM genesis WHERE format = ? AND id = ? AND clock = ?"


class NeedsCeiling(Exception):
    """The next number lies above what is known to be durable: sync a higher ceiling first, then repeat the step."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Genesis(NamedTuple):
    """The record that says whose store this is (rule B12)."""

    format: int
    id: str
    clock: str
    last: int
    ceiling: int


class SessionRow(NamedTuple):
    """As `queue.SessionRow`."""

    until_us: int
    ended: int
    stolen: int
    tombstones: str


class Row(NamedTuple):
    """As `queue.ClaimRow`."""

    session: str
    claim: int
    name: str
    number: int
    kind: int
    permits: int
    limit: int
    delay_us: int
    floor: int
    freed_us: int
    info: str
    until_us: int
    ended: int
    address: str

    @property
    def mode(self) -> Mode:
        """How the claim wants its name."""
        if self.kind == 0:
            return EXCLUSIVE
        if self.kind == 1:
            return SHARED
        if self.kind == 2 and 1 <= self.permits <= self.limit:
            return Mode(Kind.PERMITS, self.permits, self.limit)
        # Such a claim fits nowhere, not even first: the queue behind it would count as empty, for everybody.
        raise IncompatibleStore(
            f"claim {self.number} of {self.name!r} is damaged: kind {self.kind}, limit {self.limit}",
            spoken=SPOKEN,
        )


_row = maker(Row)
_glance = maker(Glance)


class SqliteTables:
    """Sessions, claims and numbers of one open file. The caller holds a write transaction."""

    def __init__(self, connection: sqlite3.Connection, life: str) -> None:
        self.life = life
        # A cursor made once saves a tenth of each statement. What is read lazily has one of its own each time: a kept
        # one that was not read to its end would hold its snapshot past COMMIT, and once another process has written,
        # the next BEGIN IMMEDIATE fails (SQLITE_BUSY_SNAPSHOT).
        self._connection = connection
        self._do = connection.cursor().execute
        self._read = connection.execute
        self.last = 0
        self._ceiling = 0

    def renew(self) -> None:
        """Let go of a statement that Ctrl-C cut off half-read: its snapshot would outlive the transaction."""
        self._do = self._connection.cursor().execute

    def check(self, expected: Genesis) -> None:
        """Compare the genesis record and read the counter; the first statement of every step.

        Raises:
            IncompatibleStore: another format, or another store under the same path.
        """
        # SQLite compares, and gives two columns: each one more costs a tenth of the statement.
        row = self._do(_COUNTER, expected[:3]).fetchone()
        if row is None:
            self._refuse(expected)
        self.last, self._ceiling = row

    def _refuse(self, expected: Genesis) -> NoReturn:
        row = self._do("SELECT format, id FROM genesis").fetchone()
        if row is None or row != expected[:2]:
            found = None if row is None else row[0]
            raise IncompatibleStore(
                f"the store changed to format {found}; this client speaks {SPOKEN}", in_force=found, spoken=SPOKEN
            )
        raise UnsafeSetup(
            "the file is in use under another boot or time namespace, whose clock cannot be compared with this one"
        )

    def journal(self) -> str:
        """The file's journal mode, which SQLite may have refused to change without saying so."""
        mode: str = self._do("PRAGMA journal_mode").fetchone()[0]
        return mode

    def draw(self, wall_us: int) -> int:
        number = max(self.last + 1, wall_us)
        if number > self._ceiling:
            if number > NUMBER_MAX:
                raise UnsafeSetup(f"the next fencing token would exceed {NUMBER_MAX}: the wall clock is far ahead")
            raise NeedsCeiling(number)
        self._do("UPDATE genesis SET last = ?", (number,))
        self.last = number
        return number

    # -- sessions ---------------------------------------------------------------------------------------------------

    def glance(self, session: str, name: str) -> Glance:
        return _glance(self._do(_GLANCE, (session, name, name, name)).fetchone())

    def session(self, session: str) -> SessionRow | None:
        row = self._do(_SESSION, (session,)).fetchone()
        return None if row is None else SessionRow(*row)

    def card(self, session: str) -> SessionCard | None:
        row = self._do(_CARD, (session,)).fetchone()
        return None if row is None else SessionCard._make(row)

    def open(self, card: SessionCard, until_us: int, ended: int, stolen: int, tombstones: str) -> None:
        self._do(
            "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (card.id, until_us, ended, stolen, card.address, card.client, card.host, card.pid, tombstones),
        )

    def extend(self, session: str, until_us: int) -> None:
        self._do("UPDATE sessions SET until_us = ? WHERE id = ?", (until_us, session))

    def latch(self, session: str, now_us: int) -> None:
        self._do("UPDATE sessions SET ended = 1, until_us = min(until_us, ?) WHERE id = ?", (now_us, session))

    def rob(self, session: str) -> None:
        self._do("UPDATE sessions SET stolen = stolen + 1 WHERE id = ?", (session,))

    def bury(self, session: str, claim: int) -> None:
        self._do(
            "UPDATE sessions SET tombstones = CASE tombstones WHEN '' THEN ' ' ELSE tombstones END || ? || ' ' "
            "WHERE id = ?",
            (claim, session),
        )

    def drop(self, session: str) -> None:
        self._do("DELETE FROM sessions WHERE id = ?", (session,))

    def over(self, now_us: int, limit: int) -> list[str]:
        rows = self._do("SELECT id FROM sessions WHERE until_us <= ? LIMIT ?", (now_us, limit))
        return [row[0] for row in rows.fetchall()]

    # -- claims -----------------------------------------------------------------------------------------------------

    def queue(self, name: str) -> Iterator[Row]:
        return map(_row, self._read(_QUEUE, (name,)))

    def backwards(self, name: str, below: int) -> Iterator[Row]:
        return map(_row, self._read(_BACKWARDS, (name, below)))

    def after(self, name: str, number: int) -> Row | None:
        row = self._do(_AFTER, (name, number)).fetchone()
        return None if row is None else _row(row)

    def find(self, ref: ClaimRef) -> Row | None:
        if ref.number:
            row = self._do(_NUMBERED, (ref.name, ref.number, ref.session)).fetchone()
        else:
            row = self._do(_UNNUMBERED, (ref.name, ref.session, ref.claim)).fetchone()
        return None if row is None else _row(row)

    def insert(self, entry: Entry, number: int, floor: int, delay_us: int) -> bool:
        session, mode = entry.session.id, entry.mode
        if entry.again and self._do(_UNNUMBERED, (entry.name, session, entry.claim)).fetchone() is not None:
            return False
        self._do(
            "INSERT INTO claims VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)",
            (
                entry.name,
                number,
                session,
                entry.claim,
                _KINDS[mode.kind],
                mode.permits,
                mode.limit,
                delay_us,
                floor,
                entry.info,
            ),
        )
        return True

    def remove(self, session: str, name: str, number: int) -> bool:
        done = self._do("DELETE FROM claims WHERE name = ? AND number = ? AND session = ?", (name, number, session))
        return done.rowcount == 1

    def tell(self, name: str, number: int, floor: int) -> None:
        self._do("UPDATE claims SET floor = ? WHERE name = ? AND number = ?", (floor, name, number))

    def free_at(self, name: str, number: int, at_us: int) -> None:
        self._do("UPDATE claims SET freed_us = ? WHERE name = ? AND number = ?", (at_us, name, number))

    def owned(self, session: str, limit: int) -> list[ClaimRow]:
        return [Row._make(row) for row in self._do(_OWNED, (session, limit)).fetchall()]

    def names(self, prefix: str) -> list[str]:
        # Not LIKE: a prefix is not a pattern. U+10FFFF sorts behind every name, as UTF-8 sorts like code points.
        rows = self._do(
            "SELECT DISTINCT name FROM claims WHERE name >= ? AND name < ? ORDER BY name",
            (prefix, prefix + "\U0010ffff"),
        )
        return [row[0] for row in rows.fetchall()]

    def addresses(self) -> frozenset[str]:
        return frozenset(row[0] for row in self._do("SELECT address FROM sessions").fetchall())


@cache
def schema() -> tuple[str, ...]:
    """The statements that make an empty store."""
    from importlib import resources

    text = resources.files("tenure.engines.sqlite").joinpath("sql/schema.sql").read_text("utf-8")
    lines = (line.partition("--")[0] for line in text.splitlines())
    return tuple(statement for statement in "\n".join(lines).split(";") if statement.strip())
