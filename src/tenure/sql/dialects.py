"""The dialects of SQL: what differs between databases beside the text of a statement."""

from __future__ import annotations

from typing import Final, NamedTuple


class Dialect(NamedTuple):
    """One kind of database.

    Attributes:
        name: as the SQL files and the command line call it.
        quote: what stands around an identifier.
        locking: what makes a SELECT keep the row until the transaction ends; empty where the transaction does.
        has_readers: whether many transactions can check a fence side by side, so that they could keep a raise from
            ever coming through; a raise then announces itself (rule D2).
    """

    name: str
    quote: str
    locking: str
    has_readers: bool

    def quoted(self, identifier: str) -> str:
        """An identifier, exactly as it is spelled; a dot separates the schema from the table."""
        double = self.quote * 2
        return ".".join(f"{self.quote}{part.replace(self.quote, double)}{self.quote}" for part in identifier.split("."))


POSTGRESQL: Final = Dialect("postgresql", '"', "FOR UPDATE", has_readers=True)
SQLITE: Final = Dialect("sqlite", '"', "", has_readers=False)
MYSQL: Final = Dialect("mysql", "`", "FOR UPDATE", has_readers=True)

DIALECTS: Final = {dialect.name: dialect for dialect in (POSTGRESQL, SQLITE, MYSQL)}
