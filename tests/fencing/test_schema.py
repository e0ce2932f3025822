"""The tables are the user's to make: printed by a command, shipped as SQL, never made by a guard."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING

import psycopg
import pytest

import tenure
from tenure.cli import main
from tenure.sql.dialects import DIALECTS
from tenure.sql.statements import schema, statement, statements
from tests.fencing.conftest import new_url

if TYPE_CHECKING:
    from tests.fencing.servers import Servers

SHIPPED = ("postgresql", "sqlite", "mysql")


def test_the_command_prints_what_the_database_takes(servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fence", "schema", "sqlite"]) == 0
    sqlite3.connect(":memory:").executescript(capsys.readouterr().out)
    assert main(["fence", "schema"]) == 0
    script = capsys.readouterr().out
    assert main(["fence", "schema", "postgresql"]) == 0
    assert capsys.readouterr().out == script
    with psycopg.connect(new_url(servers, "postgresql")) as connection:
        connection.execute(script.encode())
    assert script == tenure.fencing.schema("postgresql")
    with pytest.raises(tenure.UsageError, match="postgresql, sqlite, mysql"):
        tenure.fencing.schema("oracle")
    assert main(["fence", "schema", "oracle"]) == 64
    assert main(["fence"]) == 64


@pytest.mark.parametrize("dialect", SHIPPED)
def test_no_statement_that_a_guard_runs_defines_anything(dialect: str) -> None:
    for name, made in statements("fence", dialect).items():
        assert not re.search(r"\b(CREATE|ALTER|DROP|TRUNCATE|DELETE)\b", made.named, re.IGNORECASE), name
    assert "CREATE TABLE tenure_fence" in schema("fence", dialect)


def test_a_statement_is_written_for_every_kind_of_placeholder() -> None:
    made = statement("UPDATE t SET a = :b, c = '100%' WHERE b = :b AND d = :d1")
    assert made.named == "UPDATE t SET a = :b, c = '100%' WHERE b = :b AND d = :d1"
    assert made.percent == "UPDATE t SET a = %(b)s, c = '100%%' WHERE b = %(b)s AND d = %(d1)s"
    assert made.numbered == "UPDATE t SET a = $1, c = '100%' WHERE b = $1 AND d = $2"
    assert made.order == ("b", "d1")


def test_an_identifier_cannot_end_its_quotes() -> None:
    assert DIALECTS["postgresql"].quoted('a"b.c') == '"a""b"."c"'
    assert DIALECTS["mysql"].quoted("a`b") == "`a``b`"
