"""One seed is one run: here, in another process, and under another hash seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tenure.testing.simulate import run_seed

SEEDS = (3, 14, 15)
PROGRAM = """
import sys
from tenure.testing.simulate import run_seed
for seed in sys.argv[2:]:
    print(run_seed(int(seed), sys.argv[1])[0].world.digest)
"""


@pytest.mark.parametrize("mode", ["safety", "liveness"])
def test_a_seed_gives_the_same_trace_in_another_process(mode: str) -> None:
    here = [run_seed(seed, mode)[0].world.digest for seed in SEEDS]
    source = str(Path(__file__).parents[2] / "src")
    for hash_seed in ("0", "4711"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, mode, *map(str, SEEDS)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": source},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.split() == here


def test_tracing_changes_nothing() -> None:
    assert run_seed(7, traced=True)[0].world.digest == run_seed(7)[0].world.digest


def test_seeds_differ() -> None:
    assert run_seed(1)[0].world.digest != run_seed(2)[0].world.digest
