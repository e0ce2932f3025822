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
    assert 0.9 < Bound(1)
    assert 1.1 < 0.6 + Bound(0.6)
    assert 1.1 < Bound(0.6) + 0.6
    with pytest.raises(Late, match=r"^1\.200 s is not less than 1\.100 s$"):
        assert 0.1 < 1.2 < 0.5 + Bound(0.6)
    with pytest.raises(Late):
        assert 1.0 < Bound(1)


def test_what_was_late_is_run_again_twice_at_most_and_nothing_else_is(tmp_path: Path) -> None:
    tests = tmp_path / "test_times.py"
    tests.write_text(TESTS)
    command = (ROOT / "scripts/test").read_text().splitlines()[-1]
    options = re.fullmatch(r'exec python -m pytest (.+) "\$@"', command)
    assert options is not None
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *shlex.split(options[1]), f"--rootdir={tmp_path}", "-p", "no:cacheprovider"]
        + ["-p", "no:randomly", "-o", "pythonpath=", "-c", "/dev/null", tests],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 failed, 1 passed, 3 rerun" in ran.stdout, ran.stdout + ran.stderr
    assert re.findall(r"^RERUN .*::(\w+)", ran.stdout, re.M).count("test_late_once") == 1, ran.stdout
