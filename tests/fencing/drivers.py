"""Every way to every store, by name; each imported when it is wanted, for a holder of the drill starts often."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fencing.plain import PLAIN

if TYPE_CHECKING:
    from tests.fencing.session import Driver


def find(name: str) -> Driver:
    """One of them."""
    if name == "s3":
        from tests.fencing.objects import OBJECTS

        return OBJECTS[name]
    return PLAIN[name] if name in PLAIN else every()[name]


def every() -> dict[str, Driver]:
    """All of them."""
    from tests.fencing.objects import OBJECTS
    from tests.fencing.stores import SQL

    return SQL | PLAIN | OBJECTS
