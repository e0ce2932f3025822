"""What pytest gets of tenure: two fixtures, and next to nothing to import."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import tenure.testing
from tenure.testing import VirtualClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PLUGIN = "tenure.testing.plugin"


def run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_fixtures_are_there_without_an_import(
    fence_drill: Callable[..., object], virtual_clock: VirtualClock
) -> None:
    assert fence_drill is tenure.testing.drill
    assert isinstance(virtual_clock, VirtualClock)
    assert [point.value for point in entry_points(group="pytest11", name="tenure")] == [PLUGIN]


def test_a_run_of_pytest_that_uses_neither_loads_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "test_of_somebody.py").write_text(
        "import sys\n"
        "def test():\n"
        "    ours = sorted(m for m in sys.modules if m.partition('.')[0] == 'tenure')\n"
        "    assert ours == ['tenure', 'tenure._version', 'tenure.testing', 'tenure.testing.plugin'], ours\n",
        "utf-8",
    )
    told = run("-m", "pytest", "-q", "-p", "no:cacheprovider", folder=tmp_path)
    assert told.returncode == 0, told.stdout
    program = f"import sys, {PLUGIN}, tenure.testing.losing; print('tenure.lease' in sys.modules)"
    control = run("-c", program, folder=tmp_path)
    assert control.stdout.strip() == "True"


def test_a_drill_that_fails_fails_its_test_with_the_schedule(tmp_path: Path) -> None:
    (tmp_path / "test_of_somebody.py").write_text(
        "import sqlite3\n"
        "def path(lease, db):\n"
        "    [v] = db.execute('SELECT v FROM t').fetchone()\n"
        "    db.execute('UPDATE t SET v = ?', (v + 1,))\n"
        "    db.commit()\n"
        "def test(fence_drill, tmp_path):\n"
        "    connect = lambda: sqlite3.connect(tmp_path / 'x.db')\n"
        "    connect().executescript('CREATE TABLE t (v); INSERT INTO t VALUES (0)')\n"
        "    fence_drill(path, connect=connect, value=lambda db: db.execute('SELECT v FROM t').fetchone()[0])\n",
        "utf-8",
    )
    told = run("-m", "pytest", "-q", "-p", "no:cacheprovider", folder=tmp_path)
    assert told.returncode == 1
    assert "updates are lost" in told.stdout
    assert "first   goes on" in told.stdout
    assert "lost 'drill'" not in told.stdout, "nobody wants a line for each lease of a drill"


def test_what_is_public_is_what_is_there() -> None:
    for name in tenure.testing.__all__:
        assert getattr(tenure.testing, name).__doc__
    assert dir(tenure.testing) == sorted(tenure.testing.__all__)
