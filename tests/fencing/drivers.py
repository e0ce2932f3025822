"""Every way to every store, by name; each imported when it is wanted."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fencing.session import Driver

DATABASES = ("stores", "orms")
MODULES = ("plain", "stores", "objects", "web", "orms")
"""In the order in which a driver is looked for: what takes longest to import comes last."""


def find(name: str) -> Driver:
    """One of them."""
    for module in MODULES:
        drivers = _load(module)
        if name in drivers:
            return drivers[name]
    raise KeyError(name)


def every() -> dict[str, Driver]:
    """All of them."""
    return {name: driver for module in MODULES for name, driver in _load(module).items()}


def databases() -> dict[str, Driver]:
    """Those of databases."""
    return {name: driver for module in DATABASES for name, driver in _load(module).items()}


def _load(module: str) -> dict[str, Driver]:
    drivers: dict[str, Driver] = import_module(f"tests.fencing.{module}").DRIVERS
    return drivers
