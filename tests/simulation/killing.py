"""Run the simulation over one mutant of the tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.simulation.mutants import Mutant

SOURCE = Path(__file__).parents[2] / "src" / "tenure"


class Outcome(NamedTuple):
    """Whether the mutant died, after how many seeds, and of what."""

    is_dead: bool
    seeds: int
    cause: str


def kill(mutant: Mutant, folder: Path, seeds: int) -> Outcome:
    """Copy the tree, apply the mutant, run seeds until one fails; first the one that is known to find it.

    Raises:
        LookupError: its text does not occur exactly once.
    """
    tree = folder / "tenure"
    # Compiled files included, for most of it stays as it is.
    shutil.copytree(SOURCE, tree, ignore=shutil.ignore_patterns("sqlite", "cli"))
    target = tree / mutant.file
    text = target.read_text("utf-8")
    for old, new in filter(None, ((mutant.text, mutant.replacement), mutant.also)):
        if text.count(old) != 1:
            raise LookupError(f"{mutant.rule}, {mutant.what}: {old!r} occurs {text.count(old)} times in {mutant.file}")
        text = text.replace(old, new)
    target.write_text(text, "utf-8")
    if mutant.seed and (outcome := run(mutant, folder, str(mutant.seed))).is_dead:
        return outcome
    return run(mutant, folder, f"0..{seeds}")


def run(mutant: Mutant, folder: Path, seeds: str) -> Outcome:
    """Run seeds of the copy until one fails."""
    command = [sys.executable, "-m", "tenure.testing.simulate", "--seeds", seeds, "--mode", mutant.mode]
    if mutant.faults:
        command += ["--faults", mutant.faults]
    command += mutant.options
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    ran = re.search(r"^(\d+) seeds of", done.stdout, re.MULTILINE)
    if ran is None:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    cause = re.search(r"^  (?!plan)(\S+): .*", done.stdout, re.MULTILINE)
    return Outcome(done.returncode == 1, int(ran[1]), "" if cause is None else cause[0].strip())
