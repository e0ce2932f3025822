"""Fences as an operator sees them, wherever they are kept: looked at, raised, and moved on purpose.

Promises: a fence is moved only if it is still what was looked at. Does not promise that moving one is right: whoever
lowers a fence lets stale holders in.
"""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol

from tenure.errors import SetupError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tenure.fencing.rule import Fence

FORMS: Final = (
    "postgresql://..., mysql://..., sqlite:///path, redis://..., redis+cluster://host,host or s3://bucket/key"
)

_SQL: Final = ("postgresql", "postgres", "mysql", "sqlite")
_REDIS: Final = ("redis", "rediss", "redis+unix", "redis+cluster", "rediss+cluster")

_MODULES: Final = {**dict.fromkeys(_SQL, "sql"), **dict.fromkeys(_REDIS, "keyspace"), "s3": "objects"}


class Desk(Protocol):
    """Where fences are kept."""

    def look(self, resource: str) -> Fence | None:
        """The fence; None if nobody has raised it yet."""
        ...

    def enter(self, resource: str, lease: Any) -> None:
        """Raise it, as a holder does.

        Raises:
            StaleToken, ForeignToken, FenceRegression: refused; nothing was done.
        """
        ...

    def move(self, resource: str, found: Fence | None, to: Fence) -> bool:
        """Put another fence in its place, if it is still as it was found."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


@contextmanager
def at_url(url: str) -> Iterator[Desk]:
    """Reach the fences of a database or a Redis, or that of an object in a bucket.

    Raises:
        UsageError: the URL names no place of fences; it is not repeated, for it may hold a password.
        SetupError: what the URL needs is not installed, or refuses this user.
        StoreUnavailable: it cannot be reached.
    """
    scheme = url.partition(":")[0].lower()
    if scheme not in _MODULES:
        raise UsageError(f"the place of the fence: {FORMS} is needed")
    try:
        module = import_module(f"tenure.fencing.desks.{_MODULES[scheme]}")
        desk: Desk = module.reach(url)
    except ImportError as error:
        raise SetupError(f"{scheme}: {error.name} is not installed") from error
    try:
        yield desk
    finally:
        desk.close()


@contextmanager
def of_file(path: str) -> Iterator[Desk]:
    """Reach the fence of a file."""
    from tenure.fencing.desks.files import FileDesk

    yield FileDesk(path)
