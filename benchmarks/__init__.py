"""Benchmarks of tenure against its peers and against what the machine allows: `python -m benchmarks`.

They measure the tree that they lie in, installed or not. See README.md for how to read the table.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent

# This tree's package, before any that is installed.
sys.path.insert(0, str(ROOT / "src"))
