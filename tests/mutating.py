"""The tests of an engine are tested: a mutant takes out one rule of it, and the test that is named for that must fail.

A mutant is a copy of the tree with one or more texts replaced; each text occurs exactly once in its file. The test runs
in a process of its own, with the copy first on the path.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import tenure

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path(__file__).parents[1]
SOURCE: Final = Path(tenure.__file__).parent

# Each start of pytest would load all that is installed for it, which takes twice as long as pytest itself; the
# configuration of this tree needs this one.
COMMAND: Final = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header"]
PLUGINS: Final = ["-p", "pytest_timeout", "-p", "no:cacheprovider"]


class Mutant(NamedTuple):
    """One rule taken out, and the test that must notice.

    Attributes:
        rule, what: which rule, and how it is broken.
        test: of the engine's folder.
        edits: file under src/tenure, text, replacement.
    """

    rule: str
    what: str
    test: str
    edits: tuple[tuple[str, str, str], ...]


def name(mutant: Mutant) -> str:
    """What pytest calls it."""
    return f"{mutant.rule}-{re.sub('[^a-z]+', '-', mutant.what)}"


def run(
    folder: Path,
    tests: Path,
    *names: str,
    patience: float,
    environment: Mapping[str, str] | None = None,
    seconds: float = 110,
) -> subprocess.CompletedProcess[str]:
    """Run tests of a folder of tests against the copy in `folder`, for so long; `patience` as in `tests/servers`."""
    variables = {
        **os.environ, "PYTHONPATH": str(folder), "TENURE_TESTS_PATIENCE": str(patience), "PYTEST_ADDOPTS": "",
        "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **(environment or {}),
    }  # fmt: skip
    return subprocess.run(
        [*COMMAND, *PLUGINS, f"--basetemp={folder / 'run'}", *(str(tests / name) for name in names)],
        env=variables, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip


def copied(folder: Path) -> Path:
    """A copy of the tree, compiled files included, for most of it stays as it is."""
    tree = folder / "tenure"
    shutil.copytree(SOURCE, tree, ignore=shutil.ignore_patterns("cli"))
    return tree


def dies(
    folder: Path, tests: Path, mutant: Mutant, *, patience: float, environment: Mapping[str, str] | None = None
) -> None:
    """Let a mutant's test run over it, and fail unless that has failed."""
    tree = copied(folder)
    for file, text, replacement in mutant.edits:
        before = (tree / file).read_text("utf-8")
        count = before.count(text)
        assert count == 1, f"{text!r} occurs {count} times in {file}; give the mutant a new text"
        (tree / file).write_text(before.replace(text, replacement), "utf-8")
    done = run(folder, tests, mutant.test, patience=patience, environment=environment)
    print(done.stdout[-500:])
    # 1: a test failed. Anything else is an error of this test, such as a test that is not there any more.
    said = f"{mutant.rule}, {mutant.what}, survived {mutant.test}: {done.stdout[-1500:]}{done.stderr[-500:]}"
    assert done.returncode == 1, said
    assert " failed" in done.stdout.splitlines()[-1], said


def live(folder: Path, tests: Path, file: str, *names: str, environment: Mapping[str, str] | None = None) -> None:
    """The control: on an unchanged copy the tests pass, and it is the copy that runs, as a file of it tells."""
    tree = copied(folder)
    text = (tree / file).read_text("utf-8")
    (tree / file).write_text(text + "\nopen(__file__ + '.used', 'w').close()\n", "utf-8")
    done = run(folder, tests, *names, patience=60.0, environment=environment, seconds=280)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tree / f"{file}.used").exists()
