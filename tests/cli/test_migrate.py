"""`tenure migrate`: the tables are made once, by whoever owns them; what needs none has nothing to do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tenure.cli import main
from tests.servers import postgres
from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_postgres = pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing()))


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


def test_an_engine_without_tables_has_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "memory://"]) == 0
    assert capsys.readouterr().out == "nothing to do\n"


@needs_postgres
def test_tables_are_made_once(server: PostgresServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "--url", server.url]) == 78
    assert "tenure migrate URL" in capsys.readouterr().err
    assert main(["migrate", server.url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["made the schema tenure", "made the tables, format 1"]
    assert lines[2].startswith("made the functions, revision ")
    assert main(["migrate", "--json", server.url]) == 0
    assert json.loads(capsys.readouterr().out) == {"done": []}
    assert main(["ls", "--url", server.url]) == 0


@needs_postgres
def test_who_may_not_make_tables_is_told(server: PostgresServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.run("CREATE ROLE nobody LOGIN")
    assert main(["migrate", server.url_as("nobody") + "?schema=elsewhere"]) == 78
    assert "right" in capsys.readouterr().err


def test_a_server_that_is_not_there() -> None:
    assert main(["migrate", "postgresql://user:word@127.0.0.1:1/db"]) == 69
