"""The help teaches by examples that parse, and the completion scripts are made from the same parser."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tenure.cli import main
from tenure.cli.completion import bash, fish, zsh
from tenure.cli.parser import Parser, build, parse

if TYPE_CHECKING:
    from pathlib import Path

PARSERS = {"": build(), **build().children}


def examples(parser: Parser) -> list[str]:
    text = (parser.epilog or "").partition("examples:\n")[2].partition("\n\n")[0]
    return [line.strip() for line in text.splitlines()]


def calls(line: str) -> list[list[str]]:
    """The calls of `tenure` in a line of shell."""
    lexer = shlex.shlex(line.replace('"$(', " ; ").replace(')"', " ; "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = []
    inside = False
    for word in lexer:
        if set(word) <= set("|&;<>()"):
            inside = False
        elif word == "tenure" and not inside:
            found.append([])
            inside = True
        elif inside:
            found[-1].append(word)
    return found


@pytest.mark.parametrize("name", PARSERS)
def test_every_help_has_examples_and_each_is_valid(name: str) -> None:
    lines = examples(PARSERS[name])

    assert 3 <= len(lines) <= 5
    for line in lines:
        assert calls(line), line
        for arguments in calls(line):
            if arguments[0] != "help":
                assert parse(arguments).action == arguments[0]


@pytest.mark.parametrize("name", PARSERS)
def test_help_is_printed_with_status_0(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    first = capsys.readouterr().out
    assert "examples:" in first
    assert main(["help", *name.split()]) == 0
    assert capsys.readouterr().out == first


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"tenure \d+\.\d+\.\S+\n", capsys.readouterr().out)


@pytest.mark.parametrize(("shell", "check"), [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")])
def test_completion_scripts_are_valid(
    shell: str, check: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")

    subprocess.run([program, check, str(script)], check=True)


@pytest.mark.parametrize("write", [bash, zsh, fish])
def test_completion_knows_every_command_and_long_option(write: object) -> None:
    assert callable(write)
    script = write(build())

    for name, parser in build().children.items():
        assert name in script
        for action in parser.actions:
            for flag in action.option_strings:
                assert (flag.lstrip("-") if write is fish else flag) in script


def complete(script: str, tmp_path: Path, *words: str) -> set[str]:
    """Ask bash what it would offer for the last word."""
    bash_program = shutil.which("bash")
    if bash_program is None:
        pytest.skip("bash is not installed")
    quoted = " ".join(shlex.quote(word) for word in words)
    (tmp_path / "script").write_text(
        f'tenure() {{ printf \'%s\\n\' \'{{"name": "deploy/x", "holders": []}}\'; }}\n{script}\n'
        f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _tenure; printf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
    )
    done = subprocess.run([bash_program, str(tmp_path / "script")], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_bash_completes_commands_options_names_and_shells(tmp_path: Path) -> None:
    script = bash(build())

    assert complete(script, tmp_path, "tenure", "i") == {"inspect"}
    assert complete(script, tmp_path, "tenure", "run", "x", "--s") == {"--shared", "--stop-margin"}
    assert complete(script, tmp_path, "tenure", "run", "dep") == {"deploy/x"}
    assert complete(script, tmp_path, "tenure", "completion", "f") == {"fish"}
    assert complete(script, tmp_path, "tenure", "run", "x", "--", "--s") == set()
