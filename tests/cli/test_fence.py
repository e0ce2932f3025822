"""`tenure fence`: guards for shell scripts, and fences for operators, wherever they are kept."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import sqlite3
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pymysql
import pytest
import redis

import tenure
from tenure import fencing
from tenure.cli import main
from tenure.fencing import desks
from tenure.fencing.rule import Fence
from tenure.model import Grant
from tests.fencing.servers import Servers, missing
from tests.fencing.stores import split
from tests.servers import s3

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Cli

STORES = ("sqlite", "postgresql", "mysql", "redis", "file", "s3")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with Servers(tmp_path_factory.mktemp("stores")) as made:
        yield made


def place(servers: Servers, store: str) -> list[str]:
    """Arguments that name an unraised fence of a kind of store."""
    if reason := missing(store):
        pytest.skip(reason)
    url, _ = servers.new(store)
    if store == "file":
        return ["--file", url]
    if store == "s3":
        endpoint, _, bucket = url.rpartition("/")
        s3.client(endpoint).create_bucket(Bucket=bucket)
        return ["--at", f"s3://{bucket}/stock.json?endpoint_url={endpoint}"]
    script = split(fencing.schema(store)) if store != "redis" else []
    if store == "sqlite":
        with closing(sqlite3.connect(url)) as connection:
            connection.executescript(fencing.schema("sqlite"))
        url = f"sqlite:///{url}"
    elif store == "postgresql":
        with psycopg.connect(url) as connection:
            connection.execute(fencing.schema("postgresql").encode())
    elif store == "mysql":
        host, port, database = re.findall(r"[^/@:]+", url.partition("@")[2])
        with pymysql.connect(host=host, port=int(port), user="root", database=database) as connection:
            for statement in script:
                connection.cursor().execute(statement)
    return ["orders", "--at", url]


@pytest.fixture(params=STORES)
def where(request: pytest.FixtureRequest, servers: Servers) -> list[str]:
    return place(servers, request.param)


@pytest.fixture(autouse=True)
def login(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of buckets, as boto3 has it; and of this host's user, nothing."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Be called by a `tenure run` that holds a token."""

    def become(token: int, authority: str = "redis:a1/app", floor: int | None = None) -> None:
        monkeypatch.setenv("TENURE_NAME", "orders")
        monkeypatch.setenv("TENURE_TOKEN", str(token))
        monkeypatch.setenv("TENURE_FLOOR", str(floor or token))
        monkeypatch.setenv("TENURE_AUTHORITY", authority)

    monkeypatch.delenv("TENURE_FENCE_URL", raising=False)
    monkeypatch.delenv("TENURE_AUDIT", raising=False)
    return become


def shown(where: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any] | None:
    capsys.readouterr()
    status = main(["fence", "show", *where, "--json"])
    found: dict[str, Any] | None = json.loads(capsys.readouterr().out)["fence"]
    assert status == (1 if found is None else 0)
    return found


def test_check_raises_the_fence_and_a_stale_holder_gets_79(
    where: list[str], hold: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(where, capsys) is None
    hold(7)
    assert main(["fence", "check", *where]) == 0
    assert main(["fence", "check", *where]) == 0
    found = shown(where, capsys)
    assert found is not None
    assert (found["token"], found["seq"], found["authority"]) == (7, 0, "redis/app")
    hold(9)
    assert main(["fence", "check", *where]) == 0
    hold(7)
    assert main(["fence", "check", *where]) == 79
    assert "another holder has been here" in capsys.readouterr().err
    hold(10, "etcd:b/app")
    assert main(["fence", "check", *where]) == 78
    hold(12, floor=8)
    assert main(["fence", "check", *where]) == 0
    assert main(["fence", "show", *where]) == 0
    assert re.search(r": token 9(, 9 announced)?, of redis/app\n", capsys.readouterr().out)


def test_adopt_moves_a_fence_on_purpose_and_says_so_first(
    where: list[str], hold: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hold(1_795_000_000_000_000)
    assert main(["fence", "check", *where]) == 0
    adopt = ["fence", "adopt", *where, "--authority", "etcd/app"]
    assert main(adopt) == 64  # nobody has confirmed
    audit = tmp_path / "audit"
    assert main([*adopt, "--yes", "--audit", str(tmp_path / "none" / "audit")]) == 78
    assert shown(where, capsys) != {"token": 0, "intent": 0, "seq": 0, "authority": "etcd/app"}
    assert main([*adopt, "--yes", "--token", "5", "--audit", str(audit)]) == 0
    out, err = capsys.readouterr()
    assert "moved from token 1795000000000000 of redis/app to token 5 of etcd/app" in out
    line = json.loads(audit.read_text())
    assert line == json.loads(err)
    assert (line["event"], line["from"]["token"], line["to"]["token"]) == ("fence-adopt", 1_795_000_000_000_000, 5)
    assert {"time", "at", "resource", "user", "host", "pid"} < line.keys()
    # Whoever held by the old engine is shut out, and so is whoever is too early by the new one.
    assert main(["fence", "check", *where]) == 78
    hold(4, "etcd:b/app")
    assert main(["fence", "check", *where]) == 79
    hold(6, "etcd:b/app")
    assert main(["fence", "check", *where]) == 0
    assert main([*adopt, "--yes"]) == 64  # to its own: that would lower it
    found = shown(where, capsys)
    assert found is not None
    assert (found["token"], found["authority"]) == (6, "etcd/app")


def test_a_fence_that_nobody_has_raised_can_be_given_to_an_authority(
    where: list[str], capsys: pytest.CaptureFixture[str], hold: Any
) -> None:
    # As TENURE_AUTHORITY has it, with the id of the store.
    assert main(["fence", "adopt", *where, "--authority", "etcd:b/app", "--yes"]) == 0
    hold(7)
    assert main(["fence", "check", *where]) == 78
    hold(7, "etcd:c/app")
    assert main(["fence", "check", *where]) == 0


def test_what_has_changed_meanwhile_is_not_moved(where: list[str], hold: Any) -> None:
    hold(7)
    assert main(["fence", "check", *where]) == 0
    reach = desks.of_file(where[1]) if where[0] == "--file" else desks.at_url(where[-1])
    with reach as desk:
        found = desk.look("orders")
        assert found is not None
        for wrong in (None, found._replace(token=6), found._replace(authority="x/y")):
            assert not desk.move("orders", wrong, Fence(1, 1, 0, "etcd/app"))
        assert desk.look("orders") == found
        assert desk.move("orders", found, Fence(1, 1, 0, "etcd/app"))
        assert not desk.move("orders", found, Fence(1, 1, 0, "etcd/app"))


def test_advance_enters_the_name_anew_and_raises_with_what_comes_of_it(
    where: list[str], hold: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    name = ["--name", "orders"] if where[0] != "orders" else []
    advance = ["fence", "advance", *where, *name, "--url", f"sqlite:///{tmp_path}/locks.db", "--yes", "--quiet"]
    assert main(advance) == 1  # there is none
    now = time.time_ns() // 1000
    hold(now - 1_000_000, "sqlite:x/tenure")
    assert main(["fence", "check", *where]) == 0
    assert main(advance) == 0
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["event"] == "fence-advance"
    raised = shown(where, capsys)
    assert raised is not None
    assert raised["token"] >= now
    # Ahead of the engine's clock by a moment, which outlasts two commands of a busy host: it enters again after it.
    ahead = time.time_ns() // 1000 + 2_000_000
    hold(ahead, "sqlite:x/tenure")
    assert main(["fence", "check", *where]) == 0
    assert main([*advance, "--wait", "0"]) == 75
    assert main(advance) == 0
    raised = shown(where, capsys)
    assert raised is not None
    assert raised["token"] > ahead
    # By less than a day: nothing is guessed, and the time is said.
    hold(now + 3_600_000_000, "sqlite:x/tenure")
    assert main(["fence", "check", *where]) == 0
    assert main(advance) == 75
    assert "pass it in" in capsys.readouterr().err
    hold(now + 2 * 86_400_000_000, "sqlite:x/tenure")
    assert main(["fence", "check", *where]) == 0
    before = shown(where, capsys)
    assert main(advance) == 78
    assert "a day ahead" in capsys.readouterr().err
    assert shown(where, capsys) == before


def test_advance_of_another_authoritys_fence_leaves_no_audit_line(
    servers: Servers, hold: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    where = place(servers, "sqlite")
    hold(7)
    assert main(["fence", "check", *where]) == 0
    url = f"sqlite:///{tmp_path}/locks.db"
    assert main(["fence", "advance", *where, "--url", url, "--yes", "--audit", str(tmp_path / "audit")]) == 78
    assert "cannot be compared" in capsys.readouterr().err
    assert not (tmp_path / "audit").exists()


# -- write ----------------------------------------------------------------------------------------------------------


def test_write_replaces_a_file_with_its_input(
    tmp_path: Path, hold: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.csv"

    def write(content: bytes) -> int:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return main(["fence", "write", "--file", str(path)])

    hold(9)
    assert write(b"one\xff") == 0
    assert path.read_bytes() == b"one\xff"
    hold(7)
    assert write(b"two") == 79
    assert path.read_bytes() == b"one\xff"
    assert sorted(os.listdir(tmp_path)) == [".report.csv.tenure-fence", "report.csv"]
    hold(9)
    assert write(b"") == 0
    assert path.read_bytes() == b""


def test_in_tenure_run_a_pipeline_is_fenced(fleet: Cli) -> None:
    tool = f"{sys.executable} -m tenure"
    done = fleet("run", "reports/daily", "--", "sh", "-c", f"echo made | {tool} fence write --file report.csv")
    assert (done.returncode, done.stderr) == (0, "")
    assert (fleet.folder / "report.csv").read_text() == "made\n"
    fence = json.loads((fleet.folder / ".report.csv.tenure-fence").read_text())
    assert fence["authority"] == "sqlite/tenure"
    # A later holder has been there: the command fails, and `tenure run` passes that on.
    fencing.open(str(fleet.folder / "report.csv"), fence["token"] + 86_400_000_000)
    done = fleet("run", "reports/daily", "--", "sh", "-c", f"echo late | {tool} fence write --file report.csv")
    assert done.returncode == 79
    assert (fleet.folder / "report.csv").read_text() == "made\n"


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "check orders",
        "check --file a orders",
        "check orders --at sqlite:///a --file b",
        "write",
        "write orders --file a",
        "show --at sqlite:///a",
        "adopt orders --at sqlite:///a",
        "adopt orders --at sqlite:///a --authority etcd",
        "adopt --file a --authority /x",
        "show orders --at s3://b/k",
        "schema oracle",
        "lower orders",
    ],
)
def test_a_wrong_command_line_is_usage(words: str, hold: Any, capsys: pytest.CaptureFixture[str]) -> None:
    hold(7)
    assert main(["fence", *words.split()]) == 64
    assert capsys.readouterr().err.startswith("tenure: ")


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("etcd://h", 78),
        ("nothing", 78),
        ("sqlite://", 78),
        ("sqlite:////nowhere/at/all.db", 69),
        ("mysql://secret@h", 78),
        ("mysql://u:secret@127.0.0.1:1/d", 69),
        ("postgresql://u:secret@127.0.0.1:1/d", 69),
        ("redis://:secret@127.0.0.1:1", 69),
        ("redis+cluster://127.0.0.1:1,127.0.0.1:2", 69),
        ("s3://b/k?endpoint_url=http://127.0.0.1:1", 69),
        ("s3://b/k?endpoint_url=http://u:secret@127.0.0.1:1", 78),
        ("s3://b/k?password=secret", 78),
        ("s3://u:secret@b/k", 78),
        ("s3://b", 78),
    ],
)
def test_a_place_that_is_none_or_out_of_reach(
    url: str, status: int, hold: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(7)
    assert main(["fence", "check", "--at", url]) == status
    assert "secret" not in capsys.readouterr().err
    monkeypatch.setenv("TENURE_FENCE_URL", url)
    assert main(["fence", "show", *([] if url.startswith("s3") else ["orders"])]) == status
    assert "secret" not in capsys.readouterr().err


def test_a_mysql_out_of_reach_is_known_also_where_pymysql_serves_django(
    hold: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(7)
    # As Django's backend leaves it, which imports the package once more, under the name that it was lent.
    monkeypatch.setattr(pymysql, "err", object())
    assert main(["fence", "check", "--at", "mysql://u:secret@127.0.0.1:1/d"]) == 69


@pytest.mark.parametrize("token", ["0", "-1", "7.0", "", "x", "9" * 30, "\u0667"])
def test_a_damaged_environment_is_never_no_fencing(
    token: str, hold: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hold(7)
    monkeypatch.setenv("TENURE_TOKEN", token)
    assert main(["fence", "check", "--file", str(tmp_path / "a")]) == 78
    monkeypatch.delenv("TENURE_TOKEN")
    assert main(["fence", "write", "--file", str(tmp_path / "a")]) == 78
    assert os.listdir(tmp_path) == []


def test_a_database_without_the_tables_names_the_command(
    tmp_path: Path, hold: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    hold(7)
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute("CREATE TABLE t (x)")
    for what in ("check", "show"):
        assert main(["fence", what, "orders", "--at", f"sqlite:///{tmp_path}/a.db"]) == 78
        assert "tenure fence schema sqlite" in capsys.readouterr().err


def test_a_damaged_fence_of_a_file_can_be_adopted(
    tmp_path: Path, hold: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    hold(7)
    path = str(tmp_path / "a")
    assert main(["fence", "check", "--file", path]) == 0
    (tmp_path / ".a.tenure-fence").write_text("what?")
    assert main(["fence", "check", "--file", path]) == 78
    assert main(["fence", "adopt", "--file", path, "--authority", "redis/app", "--token", "6", "--yes"]) == 0
    assert main(["fence", "check", "--file", path]) == 0


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("\n", 64), ("no\n", 64)])
def test_on_a_terminal_it_asks(
    answer: str, status: int, tmp_path: Path, hold: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(7)
    path = str(tmp_path / "a")
    assert main(["fence", "check", "--file", path]) == 0
    ours, theirs = pty.openpty()
    with open(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        os.write(ours, answer.encode())
        assert main(["fence", "adopt", "--file", path, "--authority", "etcd/app"]) == status
    os.close(ours)
    with pytest.raises((tenure.ForeignToken, tenure.StaleToken)):
        fencing.open(path, Grant("orders", 5, 5, "redis:a/app" if status == 0 else ""))


def test_a_key_that_carries_the_fence_can_be_read_by_eye(servers: Servers, hold: Any) -> None:
    where = place(servers, "redis")
    hold(7)
    assert main(["fence", "check", *where]) == 0
    with redis.Redis.from_url(where[2], decode_responses=True) as client:
        assert client.hgetall("tenure:fence:{orders}") == {"token": "7", "seq": "0", "authority": "redis/app"}


# -- objects ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(servers: Servers) -> Iterator[tuple[Any, list[str], dict[str, str]]]:
    """A store that fails on demand, arguments that name an object of it, and the same for the guard."""
    where = place(servers, "s3")
    name = where[1].split("/")[2]
    server: Any = servers.new("s3")[1]
    yield server, where, {"bucket": name, "key": "stock.json"}
    server.fail()
    server.ignore()


def test_an_object_keeps_its_payload_when_its_fence_is_moved(bucket: Any, hold: Any) -> None:
    server, where, at = bucket
    client = s3.client(server.url)
    for size in (3, 100_000):
        with fencing.s3(client, Grant("orders", 7, 7, "redis:a1/app"), **at) as stored:
            stored.write(b"x" * size)
        assert main(["fence", "adopt", *where, "--authority", "etcd/app", "--yes"]) == 0
        assert fencing.read_s3(client, **at) == b"x" * size
        assert main(["fence", "adopt", *where, "--authority", "redis/app", "--yes"]) == 0


def test_a_move_without_an_answer_is_told_by_the_object(
    bucket: Any, hold: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    server, where, _ = bucket
    hold(7)
    assert main(["fence", "check", *where]) == 0
    done = {"status": 500, "code": "InternalError", "after": True}
    server.fail(done)
    assert main(["fence", "adopt", *where, "--authority", "etcd/app", "--yes"]) == 0
    server.fail({"status": 503, "code": "SlowDown"})
    assert main(["fence", "adopt", *where, "--authority", "zookeeper/app", "--yes"]) == 69
    assert "look again" in capsys.readouterr().err
    found = shown(where, capsys)
    assert found is not None
    assert found["authority"] == "etcd/app"


def test_what_is_no_state_object_is_left_as_it_is(bucket: Any, hold: Any, capsys: pytest.CaptureFixture[str]) -> None:
    server, where, at = bucket
    client = s3.client(server.url)
    client.put_object(Bucket=at["bucket"], Key=at["key"], Body=b"somebody else's")
    hold(7)
    for words in (["check"], ["show"], ["adopt", "--authority", "etcd/app", "--yes"]):
        assert main(["fence", words[0], *where, *words[1:]]) == 78
    assert client.get_object(Bucket=at["bucket"], Key=at["key"])["Body"].read() == b"somebody else's"


def test_a_bucket_that_is_not_there_is_a_refusal(bucket: Any, hold: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, where, at = bucket
    hold(7)
    assert main(["fence", "check", "--at", where[1].replace(at["bucket"], "nowhere")]) == 78
    assert "NoSuchBucket" in capsys.readouterr().err


def test_an_endpoint_of_the_environment_is_told_without_its_login(
    hold: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://u:secret@127.0.0.1:1")
    hold(7)
    assert main(["fence", "check", "--at", "s3://b/k"]) == 69
    told = capsys.readouterr().err
    assert "127.0.0.1:1" in told
    assert "secret" not in told


def test_a_store_that_ignores_conditions_moves_no_fence(
    bucket: Any, hold: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, where, _ = bucket
    monkeypatch.setattr("tenure.fencing.objects.bucket._honouring", set())
    server.ignore("If-Match")
    assert main(["fence", "adopt", *where, "--authority", "etcd/app", "--yes"]) == 78
    assert "ignores If-Match" in capsys.readouterr().err
    server.ignore()
    assert shown(where, capsys) is None
