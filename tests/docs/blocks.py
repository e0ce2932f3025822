"""Finds the examples of the documentation: fenced blocks of Python and shell, and the programs in `examples/`.

A block is not run only if an HTML comment directly before it says why: `<!-- not run: REASON -->`. A program says so
in a comment of its own among its first five lines: `# not run: REASON`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]

LANGUAGES = {
    "python": "python",
    "py": "python",
    "sh": "sh",
    "bash": "sh",
    "shell": "sh",
    "console": "console",
}

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<language>[\w+-]*)[^`]*$")
_NOT_RUN = re.compile(r"not run:(?P<reason>.*)", re.DOTALL)


class Block(NamedTuple):
    """One example.

    Attributes:
        path: the file that it is in, relative to the root of the repository.
        line: the line of its first statement, from 1.
        language: "python", "sh" or "console".
        source: what it says.
        reason: why it is not run; None if it is, empty if no reason is given.
    """

    path: Path
    line: int
    language: str
    source: str
    reason: str | None

    @property
    def id(self) -> str:
        return f"{self.path}:{self.line}"


def documents(root: Path = ROOT) -> list[Path]:
    """The files whose fenced blocks are examples."""
    found = [root / "README.md", *(root / "docs").rglob("*.md"), *(root / "examples").rglob("*.md")]
    return sorted(path for path in found if path.is_file())


def find_blocks(root: Path = ROOT) -> list[Block]:
    """Every example of the repository, in the order of files and lines."""
    blocks = [block for path in documents(root) for block in _fenced(path.relative_to(root), path.read_text("utf-8"))]
    for path in sorted((root / "examples").rglob("*")):
        language = {".py": "python", ".sh": "sh"}.get(path.suffix)
        if language is not None:
            source = path.read_text("utf-8")
            comments = [line for line in source.splitlines()[:5] if line.startswith("#")]
            blocks.append(Block(path.relative_to(root), 1, language, source, _reason("\n".join(comments))))
    return blocks


def _fenced(path: Path, text: str) -> Iterator[Block]:
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        opening = _FENCE.match(lines[at])
        at += 1
        if opening is None:
            continue
        first = at
        while at < len(lines) and not lines[at].strip().startswith(opening["fence"]):
            at += 1
        language = LANGUAGES.get(opening["language"].lower())
        if language is not None:
            body = [line.removeprefix(opening["indent"]) for line in lines[first:at]]
            yield Block(path, first + 1, language, "\n".join(body) + "\n", _reason(_comment_before(lines, first - 1)))
        at += 1


def _comment_before(lines: list[str], at: int) -> str:
    """The HTML comment that ends on the last line with text before line `at`, or nothing."""
    before = "\n".join(lines[:at]).rstrip()
    if not before.endswith("-->"):
        return ""
    return before[before.rfind("<!--") + 4 : -3]


def _reason(comment: str) -> str | None:
    found = _NOT_RUN.search(comment)
    return " ".join(found["reason"].split()) if found else None
