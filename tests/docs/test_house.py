"""The tree agrees with itself: versions, lock files, the wheel's contents, scripts and tests that documents name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from tenure._version import __version__
from tests.docs.blocks import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def asked(group: str) -> set[str]:
    """The names that a dependency group asks for, those of included groups too."""
    names: set[str] = set()
    for entry in PROJECT["dependency-groups"][group]:
        if isinstance(entry, dict):
            names |= asked(entry["include-group"])
        else:
            names.add(normal(re.split(r"[^\w.-]", entry)[0]))
    return names


def locked(group: str) -> dict[str, str]:
    """The versions that a lock file pins."""
    text = (ROOT / "requirements" / f"{group}.txt").read_text("utf-8")
    return {normal(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)}


GROUPS = sorted(PROJECT["dependency-groups"])


@pytest.mark.parametrize("group", GROUPS)
def test_a_lock_file_pins_what_its_group_asks_for(group: str) -> None:
    assert asked(group) - locked(group).keys() == set(), "run scripts/lock"


def test_the_lock_files_agree_on_versions() -> None:
    versions: dict[str, set[str]] = {}
    for group in GROUPS:
        for name, version in locked(group).items():
            versions.setdefault(name, set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_the_build_needs_what_the_build_lock_has() -> None:
    assert {normal(re.split(r"[^\w.-]", entry)[0]) for entry in PROJECT["build-system"]["requires"]} <= asked("build")


def test_the_package_depends_on_nothing() -> None:
    assert PROJECT["project"]["dependencies"] == []


def test_the_changelog_knows_the_version() -> None:
    assert re.search(rf"^## \[?{re.escape(__version__)}\b", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)


def test_the_readme_is_the_description_of_the_package() -> None:
    if not (ROOT / "README.md").exists():
        pytest.skip("there is no README yet")
    assert PROJECT["project"].get("readme") == "README.md"


def test_the_scripts_that_the_documents_name_can_be_run() -> None:
    named = {
        name
        for path in ROOT.glob("*.md")
        for name in re.findall(r"(?<![\w/])(scripts/\w+|\.ci/run)\b", path.read_text("utf-8"))
    }
    assert {name for name in named if not os.access(ROOT / name, os.X_OK)} == set()
    assert named


def test_the_tests_that_the_documents_name_are_there() -> None:
    missing, named = [], 0
    for document in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        path = ""
        for file, name in re.findall(r"`(tests/[\w/]+\.py)?(?:::(test_\w+))?`", document.read_text("utf-8")):
            path = file or path  # `::test_name` is of the file that was named before it
            named += bool(file or name)
            if path and not ((ROOT / path).exists() and name in (ROOT / path).read_text("utf-8")):
                missing.append(f"{document.name}: {path}::{name}")
    assert missing == []
    assert named


def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob(f"tenure-{__version__}-*.whl")
    files = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src" / "tenure").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files - set(zipfile.ZipFile(wheel).namelist()) == set()
    assert "tenure/py.typed" in files
