"""Every example of README, docs and examples runs as it stands.

A Python block is a program of its own; a shell block is one script under `bash -eu`; in a console block, lines after
`$ ` are the script, and the other lines, if any, are all that it prints, where `...` stands for anything. Each runs in
a directory and a home of its own, with TENURE_URL naming a fresh embedded store there; one that says REDIS_URL,
POSTGRES_URL, S3_URL or ZOOKEEPER_URL finds a real server by it.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest

from tests.docs.blocks import ROOT, Block, documents, find_blocks
from tests.servers import etcd, postgres, redis, s3, zookeeper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SECONDS_MAX = 60

BLOCKS = find_blocks()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name: the path of a Unix socket must fit into 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="tn"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], dict[str, str]]]:
    """What the environment must say for a block, whose servers are started when they are first wanted."""
    with ExitStack() as stack:

        @functools.cache
        def redis_url() -> str:
            return stack.enter_context(redis.RedisServer()).url

        @functools.cache
        def postgres_url() -> str:
            return stack.enter_context(postgres.PostgresServer()).url

        @functools.cache
        def etcd_url() -> str:
            return stack.enter_context(etcd.EtcdServer()).url

        @functools.cache
        def s3_url() -> str:
            return stack.enter_context(s3.S3Server()).url

        @functools.cache
        def zookeeper_url() -> str:
            # With the tick that a server has by default, as the examples say nothing of it.
            return stack.enter_context(zookeeper.ZooKeeperServer(tick=2.0)).url

        known = {
            "REDIS_URL": (redis, redis_url),
            "POSTGRES_URL": (postgres, postgres_url),
            "ETCD_URL": (etcd, etcd_url),
            "S3_URL": (s3, s3_url),
            "ZOOKEEPER_URL": (zookeeper, zookeeper_url),
        }

        def variables(source: str) -> dict[str, str]:
            wanted = {name: found for name, found in known.items() if name in source}
            for kind, _ in wanted.values():
                if reason := kind.missing():
                    pytest.skip(reason)
            return {name: url() for name, (_, url) in wanted.items()}

        yield variables


def run(block: Block, place: Path, variables: Mapping[str, str] = MappingProxyType({})) -> tuple[int, str]:
    """Run a block; return its exit status and all that it printed."""
    command, source = _program(block, place)
    (place / "home").mkdir()
    (place / "work").mkdir()
    environment = {
        "HOME": str(place / "home"),
        "LANG": "C.UTF-8",
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
        "PYTHONWARNINGS": "error",
        "TENURE_URL": f"sqlite://{place}/locks.db",
        "TMPDIR": str(place),
        # Whoever reaches an object store has these from somewhere.
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        **variables,
    }
    process = subprocess.Popen(
        command,
        cwd=place / "work",
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A group of its own, so that what a block leaves running ends with it.
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(source, timeout=SECONDS_MAX)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        output += f"\n(not done after {SECONDS_MAX} s)"
    return process.returncode, output


def _program(block: Block, place: Path) -> tuple[list[str], str]:
    """The command that runs a block, and what it reads as its input."""
    if block.language == "python":
        file = place / "example.py"
        file.write_text(block.source, "utf-8")
        return [sys.executable, str(file)], ""
    script = place / "example.sh"
    script.write_text(_split(block)[0] if block.language == "console" else block.source, "utf-8")
    return ["bash", "-eu", str(script)], ""


def _split(block: Block) -> tuple[str, str]:
    """The script of a console block, and what the block shows as printed."""
    script, shown = "", ""
    typing = False
    for line in block.source.splitlines():
        typing = line.startswith("$ ") or (typing and line.startswith("> "))
        if typing:
            script += line[2:] + "\n"
        else:
            shown += line.rstrip() + "\n"
    return script, shown.strip()


def _pattern(shown: str) -> re.Pattern[str]:
    """What matches the output of a console block; `...` stands for anything."""
    return re.compile(".*?".join(re.escape(part) for part in shown.split("...")), re.DOTALL)


@pytest.mark.parametrize("block", [pytest.param(block, id=block.id) for block in BLOCKS])
def test_an_example_runs_as_it_stands(block: Block, place: Path, servers: Callable[[str], dict[str, str]]) -> None:
    if block.reason is not None:
        assert block.reason, f"{block.id}: say why it is not run"
        pytest.skip(f"{block.id} is not run: {block.reason}")
    status, output = run(block, place, servers(block.source))
    assert status == 0, f"{block.id} ended with status {status}:\n{output}"
    shown = _split(block)[1] if block.language == "console" else ""
    if shown:
        printed = "\n".join(line.rstrip() for line in output.strip().splitlines())
        assert _pattern(shown).fullmatch(printed), f"{block.id} printed:\n{output}"


def test_the_documents_have_examples() -> None:
    if not documents():
        pytest.skip("there is no document yet")
    assert BLOCKS, "no example was found, so none was run"


def test_more_examples_are_run_than_not() -> None:
    skipped = [f"{block.id}: {block.reason}" for block in BLOCKS if block.reason is not None]
    assert len(skipped) <= len(BLOCKS) / 2, "\n".join([f"{len(skipped)} of {len(BLOCKS)} are not run:", *skipped])


class TestTheSearch:
    """A search that finds nothing would pass everything."""

    def write(self, root: Path, text: str) -> list[Block]:
        (root / "README.md").write_text(text, "utf-8")
        return find_blocks(root)

    def test_a_block_is_found_with_its_line_and_language(self, tmp_path: Path) -> None:
        text = "# x\n\n```python\nimport os\n\nos.getpid()\n```\n\n1. item\n\n   ```sh\n   true\n     false\n   ```\n"
        assert [(b.line, b.language, b.source) for b in self.write(tmp_path, text)] == [
            (4, "python", "import os\n\nos.getpid()\n"),
            (12, "sh", "true\n  false\n"),
        ]

    def test_other_languages_are_no_examples(self, tmp_path: Path) -> None:
        assert self.write(tmp_path, "```toml\na = 1\n```\n\n```\n```python\n```\n") == []

    def test_only_a_comment_directly_before_a_block_excuses_it(self, tmp_path: Path) -> None:
        text = "<!-- not run: needs\na server -->\n```sh\na\n```\n<!-- not run: far -->\ntext\n```sh\nb\n```\n"
        assert [b.reason for b in self.write(tmp_path, text)] == ["needs a server", None]

    def test_a_reason_that_is_missing_is_no_reason(self, tmp_path: Path) -> None:
        assert [b.reason for b in self.write(tmp_path, "<!-- not run: -->\n```sh\na\n```\n")] == [""]

    def test_programs_are_found(self, tmp_path: Path) -> None:
        (tmp_path / "examples" / "deep").mkdir(parents=True)
        (tmp_path / "examples" / "deep" / "a.py").write_text('"""What it shows."""\n', "utf-8")
        (tmp_path / "examples" / "b.sh").write_text("#!/bin/sh\n# not run: needs a fleet\n", "utf-8")
        found = [(str(b.path), b.language, b.reason) for b in find_blocks(tmp_path)]
        assert found == [("examples/b.sh", "sh", "needs a fleet"), ("examples/deep/a.py", "python", None)]


class TestTheRun:
    """A run that overlooks a failure would pass everything too."""

    def block(self, language: str, source: str) -> Block:
        return Block(Path("README.md"), 1, language, source, None)

    @pytest.mark.parametrize(
        ("language", "source", "status"),
        [
            ("python", "raise SystemExit(3)", 3),
            ("python", "import warnings; warnings.warn('old')", 1),
            ("sh", "false\ntrue", 1),
            ("sh", 'echo "$no_such_variable"', 1),
            ("console", "$ exit 4", 4),
            ("console", "$ echo a \\\n>   b\na b", 0),
        ],
    )
    def test_a_failure_is_seen(self, language: str, source: str, status: int, place: Path) -> None:
        assert run(self.block(language, source), place)[0] == status

    def test_a_console_block_is_a_script_and_what_it_prints(self) -> None:
        block = self.block("console", "$ first \\\n>   more\ntoken ...\n> quoted\n$ second\nend\n")
        assert _split(block) == ("first \\\n  more\nsecond\n", "token ...\n> quoted\nend")

    def test_what_a_console_block_shows_is_compared(self) -> None:
        pattern = _pattern("token ...\nend")
        assert pattern.fullmatch("token 12\nend")
        assert not pattern.fullmatch("token 12\nmore")

    def test_a_block_sees_a_home_and_a_store_of_its_own(self, place: Path) -> None:
        status, output = run(self.block("sh", 'echo "$HOME $TENURE_URL $PWD"'), place)
        assert (status, output.split()) == (0, [f"{place}/home", f"sqlite://{place}/locks.db", f"{place}/work"])


def test_the_links_between_documents_lead_somewhere() -> None:
    dead = []
    for path in [*documents(), *ROOT.glob("*.md")]:
        prose = re.sub(r"^(`{3,}).*?^\1", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            file = target.partition("#")[0]
            if "://" not in target and file and not (path.parent / file).exists():
                dead.append(f"{path.relative_to(ROOT)}: {target}")
    assert not dead
