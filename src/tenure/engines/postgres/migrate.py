"""Make or renew the schema: plain SQL files, in one transaction, one migration at a time.

Promises: what is there already is found and left as it is; of many who ask at once, one does it and the others wait
for it and find it done (an advisory lock of the transaction).
Does not promise to need few rights: whoever makes the schema owns it, and clients need USAGE on it alone.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from importlib import resources
from typing import TYPE_CHECKING, Final

from tenure.engines.postgres.link import unknown, wait_here
from tenure.engines.postgres.store import FORMAT, SPOKEN
from tenure.errors import IncompatibleStore, SetupError, StoreUnavailable, UnsafeSetup
from tenure.runtimes import native

if TYPE_CHECKING:
    from tenure.engines.postgres.link import Answer, Link

MOST_S: Final = 30.0
"""Seconds that each statement may take, the wait for another migration included."""

ADVISORY: Final = 0x74656E757265
"""'tenure' as a number: the advisory lock around every migration of a database."""


def schema_text() -> str:
    """The statements that make the tables."""
    return _read("schema.sql")


def steps_text() -> str:
    """The statements that make the functions, or replace them. What ends them sets how all of them are planned."""
    return "".join(map(_read, ("transactions.sql", "usual.sql", "steps.sql")))


def steps_hash() -> str:
    """Names the functions of this release."""
    return hashlib.sha256(steps_text().encode()).hexdigest()[:16]


def _read(name: str) -> str:
    return resources.files("tenure.engines.postgres").joinpath("sql", name).read_text("utf-8")


def migrate(link: Link, schema: str) -> list[str]:
    """Bring a schema to this release; what was done, in words, nothing if it was there.

    Args:
        link: a connection as the user who is to own the schema.
        schema: its name.

    Raises:
        IncompatibleStore: it has a format that this release does not speak. Nothing was changed.
        UnsafeSetup: a right is missing, or the database's encoding is not UTF8. Nothing was changed.
        StoreUnavailable: the server cannot be asked, or another migration takes too long. Nothing was changed.
    """
    try:
        return _migrate(link, schema)
    except OSError as error:
        raise StoreUnavailable(f"the migration was cut off, and undone: {unknown(error, MOST_S)}") from error


def _migrate(link: Link, schema: str) -> list[str]:
    done: list[str] = []
    if _do(link, "SELECT current_setting('server_encoding')").value != b"UTF8":
        raise UnsafeSetup("the encoding of this database is not UTF8: names could be confused with each other")
    _do(link, "BEGIN ISOLATION LEVEL READ COMMITTED")
    try:
        _do(link, f"SET LOCAL lock_timeout = {int(MOST_S * 900)}")
        _do(link, f"SELECT pg_advisory_xact_lock({ADVISORY})")
        if not _do(link, "SELECT 1 FROM pg_namespace WHERE nspname = $1", schema).value:
            _do(link, f'CREATE SCHEMA "{schema}"')
            done.append(f"made the schema {schema}")
        _do(link, f'SET LOCAL search_path = "{schema}", pg_temp')
        if not _do(link, "SELECT to_regclass($1)", f'"{schema}".genesis').value:
            _script(link, schema_text())
            # Made before the functions: the number of the store is drawn here, where nobody can have it yet.
            _do(link, "INSERT INTO genesis (format, id, steps) VALUES ($1, $2, '')", str(FORMAT), native.new_id())
            done.append(f"made the tables, format {FORMAT}")
        found = _do(link, "SELECT format FROM genesis").value
        if not found.isdigit() or int(found) not in SPOKEN:
            raise IncompatibleStore(
                f"the schema {schema!r} has format {found.decode()}, and this release speaks {SPOKEN}",
                in_force=int(found) if found.isdigit() else None,
                spoken=SPOKEN,
            )
        if _do(link, "SELECT steps FROM genesis").value != steps_hash().encode():
            _script(link, steps_text())
            _do(link, "UPDATE genesis SET steps = $1", steps_hash())
            done.append(f"made the functions, revision {steps_hash()}")
        _do(link, "COMMIT")
    except BaseException:
        # The connection is closed by its owner, which undoes what is not committed; behind a pooler this does.
        with suppress(OSError):
            link.ask(b"ROLLBACK", (), 1.0, wait_here)
        raise
    return done


def _script(link: Link, text: str) -> None:
    """Run a file: one anonymous block would hide which statement failed, so each is sent by itself."""
    for statement in statements(text):
        _do(link, statement)


def statements(text: str) -> list[str]:
    """Cut a file at the semicolons that end its statements: those outside of $$ quotes and comments."""
    found, current, is_quoted = [], [], False
    for line in text.splitlines():
        if not is_quoted and line.lstrip().startswith("--"):
            continue
        if line.count("$$") % 2:
            is_quoted = not is_quoted
        current.append(line)
        bare = line.partition("--")[0].rstrip() if not is_quoted else ""
        if bare.endswith(";"):
            found.append("\n".join(current))
            current = []
    return found


def _do(link: Link, statement: str, *values: str) -> Answer:
    answer = link.ask(statement.encode(), [value.encode() for value in values], MOST_S, wait_here)
    if not answer.state:
        return answer
    said = f"{answer.message} ({answer.state})"
    if answer.state == "42501":
        raise UnsafeSetup(f"the migration needs a right that this user lacks: {said}")
    if answer.state in ("55P03", "25006") or answer.is_fatal:
        raise StoreUnavailable(f"the migration cannot be made now: {said}")
    raise SetupError(f"the migration failed, and was undone: {said}")
