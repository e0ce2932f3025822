"""`tenure doctor`: what it prints, for whom, and with which exit status."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tenure.cli import main
from tests.servers import redis as rig
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Cli

needs_redis = pytest.mark.skipif(rig.missing() is not None, reason=str(rig.missing()))

WORD = "hunter2"


@pytest.fixture(scope="module")
def sound() -> Iterator[RedisServer]:
    with RedisServer(password=WORD, persistence="always") as started:
        yield started


@pytest.fixture
def server(sound: RedisServer) -> Iterator[RedisServer]:
    """A server without fault; a test may give it some."""
    yield sound
    sound.cli("CONFIG", "SET", "appendfsync", "always", "maxmemory", "0", "maxmemory-policy", "noeviction")


def make_warning(server: RedisServer) -> None:
    server.cli("CONFIG", "SET", "appendfsync", "no")


def make_danger(server: RedisServer) -> None:
    server.cli("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")


@needs_redis
def test_the_exit_status_is_that_of_the_worst_finding(server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", server.url]) == 0
    make_warning(server)
    assert main(["doctor", server.url]) == 1
    make_danger(server)
    assert main(["doctor", server.url]) == 2
    text = capsys.readouterr()
    assert WORD not in text.out + text.err
    assert text.err == ""


@needs_redis
def test_the_worst_is_printed_first_and_grouped(server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    make_warning(server)
    make_danger(server)
    main(["doctor", server.url, "--ttl", "10"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"redis://:***@{server.host}:{server.port}: locks reach all hosts that use this server"
    assert lines[1] == "offers fifo, multi_host, semaphore, shared; judged for a ttl of 10 s"
    heads = [line for line in lines if line and not line.startswith(" ")][2:]
    assert heads == ["DANGER", "WARNING", "OK"]
    at = lines.index("DANGER")
    assert lines[at + 1] == "  eviction      maxmemory 104857600 bytes, policy allkeys-lru"
    assert lines[at + 2].startswith("                When memory is full, the server evicts locks")
    assert lines[at + 3].startswith("                change: CONFIG SET maxmemory-policy noeviction")
    assert "  persistence   append-only file, synced when" in lines[lines.index("WARNING") + 1]


@needs_redis
def test_quiet_keeps_to_what_is_wrong(server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", server.url, "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    make_warning(server)
    assert main(["doctor", server.url, "--quiet"]) == 1
    assert capsys.readouterr().out.split()[:2] == ["WARNING", "persistence"]


SCHEMA = {
    "url": str, "engine": str, "scope": str, "ttl": float, "capabilities": list, "worst": str, "findings": list,
}  # fmt: skip


@needs_redis
def test_the_fields_of_json_are_stable(server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    make_danger(server)
    assert main(["doctor", "--url", server.url, "--json"]) == 2
    [line] = capsys.readouterr().out.splitlines()
    assert WORD not in line
    report = json.loads(line)
    assert {name: type(value) for name, value in report.items()} == SCHEMA
    assert report["worst"] == "danger"
    assert report["findings"][0]["name"] == "eviction"
    for finding in report["findings"]:
        assert list(finding) == ["name", "grade", "found", "means", "change"]
        assert all(isinstance(value, str) for value in finding.values())
        assert finding["grade"] in ("ok", "info", "warning", "danger")


def test_the_url_is_an_argument_or_an_option_or_in_the_environment(
    alone: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "memory://a"]) == 0
    assert main(["doctor", "--url", "memory://a"]) == 0
    monkeypatch.setenv("TENURE_URL", "memory://a")
    assert main(["doctor"]) == 0
    assert len(set(capsys.readouterr().out.split("offers"))) == 3
    assert main(["doctor", "memory://a", "--url", "memory://b"]) == 64
    assert main(["doctor", "--ttl", "0"]) == 64
    assert main(["doctor", "memory://a", "--ttl", "0.01"]) == 64


def test_the_fallback_does_not_go_unsaid(alone: Cli) -> None:
    alone.url = ""
    done = alone("doctor")
    assert done.returncode == 0
    assert "this user on this host only (neither --url nor TENURE_URL is given)" in done.stderr
    assert "locks.db, mode 0600" in done.stdout


def test_who_cannot_be_asked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["doctor", f"redis://:{WORD}@127.0.0.1:1"]) == 69
    assert main(["doctor", f"nonsense://:{WORD}@h"]) == 78
    assert main(["doctor", "sqlite:///dev/null"]) == 78
    assert main(["doctor", "memory://", f"redis://:{WORD}@h"]) == 64
    told = capsys.readouterr()
    assert told.out == ""
    assert WORD not in told.err
    assert [line.startswith("tenure: ") for line in told.err.splitlines()] == [True] * 4


@needs_redis
def test_a_wrong_password_is_configuration(server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"redis://:wr0ng@{server.host}:{server.port}"]) == 78
    told = capsys.readouterr()
    assert told.out == ""
    assert "wr0ng" not in told.err


def on_a_terminal(cli: Cli, *words: str, **more: str) -> str:
    """What `tenure WORDS` shows on a terminal of 80 columns."""
    master, slave = pty.openpty()
    environment = {"TERM": "xterm", "COLUMNS": "80", **more}
    process = cli.start(*words, env=environment, stdin=slave, stdout=slave, stderr=subprocess.STDOUT)
    os.close(slave)
    seen = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # what Linux says once nobody has the other side open
            break
        if not part:
            break
        seen += part
    process.wait()
    os.close(master)
    return seen.decode()


@needs_redis
def test_a_terminal_gets_colours_and_lines_that_fit(alone: Cli, server: RedisServer) -> None:
    make_danger(server)
    text = on_a_terminal(alone, "doctor", server.url)
    assert "\x1b[1;31mDANGER\x1b[0m" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= 80
    assert "\x1b" not in on_a_terminal(alone, "doctor", server.url, NO_COLOR="1")
    assert "\x1b" not in alone("doctor", server.url).stdout


def test_what_a_server_says_cannot_reach_the_terminal_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    from tenure import Finding, Grade, Report
    from tenure.cli.doctor import _show

    evil: Any = "\x1b]0;title\x07"
    _show(Report("url", "redis", evil, 1.0, frozenset(), (Finding("n", Grade.INFO, evil, evil, evil),)), quiet=False)
    assert "\x1b" not in capsys.readouterr().out
