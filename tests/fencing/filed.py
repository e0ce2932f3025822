"""Guarded files for tests: written, and looked at."""

from __future__ import annotations

import os

from tenure import fencing
from tenure.fencing.files import place as at


def fence_of(path: str) -> int:
    """The token of its fence."""
    place = at.find(path)
    with at.locked(place) as descriptor:
        return at.read_fence(descriptor, place.fence).token


def write(path: str, token: int, text: str) -> None:
    """Replace it in a guarded block."""
    with fencing.file(path, token) as file:
        file.write_text(text)


def names(path: str) -> set[str]:
    """What lies in its folder."""
    return set(os.listdir(os.path.dirname(path)))
