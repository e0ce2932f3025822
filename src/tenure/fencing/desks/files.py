"""The fence of one file, for operators. What it protects is the file: the resource is not asked for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tenure.errors import IncompatibleStore
from tenure.fencing.doors import file
from tenure.fencing.files import place as at

if TYPE_CHECKING:
    from tenure.fencing.rule import Fence


class FileDesk:
    """As `Desk`."""

    def __init__(self, path: str) -> None:
        self._path = path

    def look(self, resource: str) -> Fence | None:  # noqa: ARG002 - the file is the resource
        """As `Desk.look`. A damaged fence is none."""
        place = at.find(self._path)
        if not os.path.lexists(place.fence):
            return None
        with at.locked(place) as descriptor:
            return _readable(descriptor, place.fence)

    def enter(self, resource: str, lease: Any) -> None:  # noqa: ARG002 - the file is the resource
        """As `Desk.enter`."""
        file(self._path, lease).open()

    def move(self, resource: str, found: Fence | None, to: Fence) -> bool:  # noqa: ARG002 - the file is the resource
        """As `Desk.move`."""
        place = at.find(self._path)
        with at.locked(place) as descriptor:
            if _readable(descriptor, place.fence) != found:
                return False
            at.write_fence(place, to)
        return True

    def close(self) -> None:
        """As `Desk.close`."""


def _readable(descriptor: int, path: str) -> Fence | None:
    try:
        fence = at.read_fence(descriptor, path)
    except IncompatibleStore:
        return None
    return fence if fence.token or fence.authority else None
