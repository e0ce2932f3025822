"""Where a fence is kept: in the table of fences, or in columns of the one row that it protects.

Promises: whatever the place, the same few statements: read, read and keep from changing, raise, number.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenure.arguments import text
from tenure.errors import UsageError
from tenure.sql.statements import Statement, statement, statements

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tenure.sql.dialects import Dialect

IDENTIFIER_BYTES: Final = 128


class Step(NamedTuple):
    """One committed step of a raise: read, judge, and write if the fence is too low."""

    read: Statement
    write: Statement


class Place(NamedTuple):
    """The statements of one place in one dialect.

    Attributes:
        check: reads the fence and keeps it from being raised until the transaction ends.
        lock: as `check`, and keeps it from being checked too.
        join: what comes before them so that they keep their word; None if nothing.
        snapshot: the token as the transaction's plain reads see it, asked after the lock, where a locking read sees
            past an older snapshot; None elsewhere.
        plant: what makes the fence where there is none; empty where only the user can.
        raising: the steps of a raise, each a transaction of its own.
        number: notes the number of an operation; None if there is no room for one.
        key: values that find the row.
    """

    check: Statement
    lock: Statement
    join: Statement | None
    snapshot: Statement | None
    plant: tuple[Statement, ...]
    raising: tuple[Step, ...]
    number: Statement | None
    key: Mapping[str, Any]


class Row:
    """The fence as columns of the row that it protects, for tables in which that is all there is to protect.

    The guard locks the row, so that its workers take turns.
    """

    def __init__(
        self,
        table: str,
        key: Mapping[str, Any],
        *,
        column: str = "fence",
        authority: str | None = None,
        seq: str | None = None,
    ) -> None:
        """Name the row.

        Args:
            table: its table, spelled as in the database; a dot separates a schema from it.
            key: the columns, and their values, that find one row.
            column: the column of the fence, an integer of 64 bits, 0 or NULL before the first holder.
            authority: the column of whose tokens these are, a string of up to 512 characters, empty or NULL before the
                first holder. None if there is none: then nobody's token is found to be foreign.
            seq: the column of the number of the last operation, an integer of 64 bits, 0 or NULL before the first. None
                if there is none: then operations cannot be numbered.

        Raises:
            UsageError: an argument is wrong.
        """
        self.table = _identifier("table", table)
        self.column = _identifier("column", column)
        self.authority = None if authority is None else _identifier("authority", authority)
        self.seq = None if seq is None else _identifier("seq", seq)
        if not key:
            raise UsageError("key: at least one column is needed to find the row")
        self.key = {_identifier("key", name): value for name, value in key.items()}
        named = [name.lower() for name in (self.column, self.authority, self.seq, *self.key) if name is not None]
        if len(set(named)) < len(named):
            # SQLite takes the last of two values for one column: a fence that is set to 0 as often as it is raised.
            raise UsageError("column, authority, seq, key: each names a column of its own")

    @property
    def resource(self) -> str:
        """What errors call it."""
        return f"{self.table}({', '.join(f'{name}={value!r}' for name, value in self.key.items())})"[:512]

    def place(self, dialect: Dialect) -> Place:
        """Its statements."""
        # Every identifier is quoted, and every value is a placeholder's.
        table, column = dialect.quoted(self.table), dialect.quoted(self.column)
        where = " AND ".join(f"{dialect.quoted(name)} = :key_{at}" for at, name in enumerate(self.key))
        fence = f"COALESCE({column}, 0)"
        seq, authority, raising, number = "0", "''", f"{column} = :floor", None
        if self.seq is not None:
            of = dialect.quoted(self.seq)
            seq, raising = f"COALESCE({of}, 0)", f"{raising}, {of} = 0"
            number = statement(f"UPDATE {table} SET {of} = :seq WHERE {where}")  # noqa: S608
        if self.authority is not None:
            of = dialect.quoted(self.authority)
            authority, raising = f"COALESCE({of}, '')", f"{raising}, {of} = :authority"
        lock = statement(f"SELECT {fence}, 0, {seq}, {authority} FROM {table} WHERE {where} {dialect.locking}".strip())  # noqa: S608
        write = statement(f"UPDATE {table} SET {raising} WHERE {where} AND {fence} < :floor")  # noqa: S608
        join = None if dialect.locking else statement(f"UPDATE {table} SET {column} = {column} WHERE 0")  # noqa: S608
        key = {f"key_{at}": value for at, value in enumerate(self.key.values())}
        snapshot = statement(f"SELECT {fence} FROM {table} WHERE {where}") if dialect.has_old_snapshots else None  # noqa: S608
        return Place(lock, lock, join, snapshot, (), (Step(lock, write),), number, key)


def _identifier(argument: str, name: Any) -> str:
    if ":" in text(argument, name, IDENTIFIER_BYTES, 1):
        raise UsageError(f"{argument}: a colon would be taken for a placeholder's")
    return str(name)


@cache
def _table(dialect: Dialect) -> Place:
    of = statements("fence", dialect.name)
    last = Step(of["lock"], of["raise"])
    plant = tuple(of[name] for name in ("plant", "plant_intent") if name in of)
    # Where many can check side by side, a raise announces itself first (rule D2).
    raising = (Step(of["look"], of["announce"]), last) if "announce" in of else (last,)
    return Place(of["check"], of["lock"], of.get("join"), of.get("snapshot"), plant, raising, of["number"], {})


@lru_cache(maxsize=1024)
def table(dialect: Dialect, resource: str) -> Place:
    """A row of the table of fences."""
    return _table(dialect)._replace(key={"resource": resource.encode() if dialect.has_bytes else resource})
