"""The engines that a cancellation is tried on for real."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

_serial = itertools.count(1)


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh store."""
    return {
        "memory": f"memory://cancellation-{next(_serial)}",
        "sqlite": f"sqlite://{tmp_path}/locks.db",
    }[request.param]
