"""A file for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tenure import Client
from tests.sqlite.rig import LONG

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks.db"


@pytest.fixture
def client(path: Path) -> Iterator[Client]:
    with Client(f"sqlite://{path}", ttl=LONG) as client:
        yield client
