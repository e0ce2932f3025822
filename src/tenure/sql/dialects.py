"""The dialects of SQL: what differs between databases beside the text of a statement."""

from __future__ import annotations

from typing import Final, NamedTuple

from tenure.errors import MissingTable


class Dialect(NamedTuple):
    """One kind of database.

    Attributes:
        name: as the SQL files and the command line call it.
        quote: what stands around an identifier.
        locking: what makes a SELECT keep the row until the transaction ends; empty where the transaction does.
        has_old_snapshots: whether a locking read passes in a transaction whose plain reads show an older state.
        has_bytes: whether names are kept as bytes, since its strings are compared by rules of language.
    """

    name: str
    quote: str
    locking: str
    has_old_snapshots: bool = False
    has_bytes: bool = False

    def quoted(self, identifier: str) -> str:
        """An identifier, exactly as it is spelled; a dot separates the schema from the table."""
        double = self.quote * 2
        return ".".join(f"{self.quote}{part.replace(self.quote, double)}{self.quote}" for part in identifier.split("."))


POSTGRESQL: Final = Dialect("postgresql", '"', "FOR UPDATE")
SQLITE: Final = Dialect("sqlite", '"', "")
MYSQL: Final = Dialect("mysql", "`", "FOR UPDATE", has_old_snapshots=True, has_bytes=True)

DIALECTS: Final = {dialect.name: dialect for dialect in (POSTGRESQL, SQLITE, MYSQL)}


def missing_table(error: BaseException, dialect: Dialect) -> BaseException:
    """What a table that is not there means: one of ours is `MissingTable`, with its remedy; else the error itself."""
    said = str(error).partition("\n")[0]
    if "tenure_" not in said:
        return error
    return MissingTable(
        f"this database has no such table ({said}); `tenure fence schema {dialect.name}` prints what your migrations "
        "must run"
    )
