"""The SQL files: read once, cut into named statements, written for a driver's placeholders.

A file is cut at lines `-- name: NAME`. What stands before the first one is the definition of the tables, which is
printed for the user and never run. Placeholders are written `:name`.
"""

from __future__ import annotations

import re
from functools import cache
from hashlib import blake2b
from importlib import resources
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_COMMENT: Final = re.compile(r"^\s*--.*\n|\s+--.*$", re.MULTILINE)
_PLACEHOLDER: Final = re.compile(r"(?<![:\w]):(\w+)")


class Statement(NamedTuple):
    """One statement, as each kind of driver wants it.

    Attributes:
        named: with `:name`, as sqlite3 and SQLAlchemy take it.
        percent: with `%(name)s`, as psycopg, PyMySQL and Django take it.
        numbered: with `$1`, as asyncpg takes it, and `order`, the names in that order.
        name: for where it is prepared under one; no other statement's.
    """

    named: str
    percent: str
    numbered: str
    order: tuple[str, ...]
    name: bytes


def statement(text: str) -> Statement:
    """Prepare a statement whose placeholders are written `:name`."""
    order = tuple(dict.fromkeys(_PLACEHOLDER.findall(text)))
    percent = _PLACEHOLDER.sub(r"%(\1)s", text.replace("%", "%%"))
    numbered = _PLACEHOLDER.sub(lambda found: f"${order.index(found[1]) + 1}", text)
    name = f"tenure_{blake2b(numbered.encode(), digest_size=8).hexdigest()}"
    return Statement(text, percent, numbered, order, name.encode())


@cache
def statements(family: str, dialect: str) -> Mapping[str, Statement]:
    """The statements of a file, by name."""
    parts = _NAME.split(_read(family, dialect))
    return {
        name: statement(_COMMENT.sub("", body).strip()) for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def schema(family: str, dialect: str) -> str:
    """The definition of the tables, with its comments, to be run by the user's own migrations."""
    return _NAME.split(_read(family, dialect))[0].strip() + "\n"


@cache
def _read(family: str, dialect: str) -> str:
    return resources.files("tenure.sql").joinpath(family, f"{dialect}.sql").read_text("utf-8")
