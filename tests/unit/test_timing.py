"""A test that was late is run again, and only such a one."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.timing import Bound, Late

ROOT = Path(__file__).parents[2]

TESTS = """
from tests.timing import Bound, Late

runs = []

def test_late_once():
    runs.append("once")
    assert len(runs) + 1 < Bound(2 if len(runs) == 1 else 9)

def test_always_late():
    runs.append("always")
    assert 2.0 < Bound(1)

def test_wrong():
    runs.append("wrong")
    assert runs == []
"""


def test_a_bound_compares_as_a_number_and_says_what_it_found() -> None:
    took = 1.1
    assert took < Bound(1.2)
    assert took < 0.6 + Bound(0.6)
    assert 1.0 < took < Bound(0.6) + 0.6
    with pytest.raises(Late, match=r"^1\.100 s is not less than 1\.000 s$"):
        assert 0.1 < took < 0.5 + Bound(0.5)
    with pytest.raises(Late):
        assert took < Bound(took)


def test_what_was_late_is_run_again_twice_at_most_and_nothing_else_is(tmp_path: Path) -> None:
    tests = tmp_path / "test_times.py"
    tests.write_text(TESTS)
    command = (ROOT / "scripts/test").read_text().splitlines()[-1]
    options = re.fullmatch(r'exec python -m pytest (.+) "\$@"', command)
    assert options is not None
    alone = shlex.split(f"--rootdir={tmp_path} -c /dev/null -o pythonpath= -p no:randomly -p no:cacheprovider")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *shlex.split(options[1]), *alone, tests],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 failed, 1 passed, 3 rerun" in ran.stdout, ran.stdout + ran.stderr
    assert re.findall(r"^RERUN .*::(\w+)", ran.stdout, re.MULTILINE).count("test_late_once") == 1, ran.stdout
