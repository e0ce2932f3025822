"""What a `sqlite:` URL means: which file, and for whom.

Promises: a URL is understood as a whole or refused with `UsageError`; nothing on disk is touched here.
Does not promise: SQLAlchemy's reading. `sqlite:///var/x.db` is the absolute path `/var/x.db`, as with `file:///`; a
path relative to the folder where a program happens to run would give two programs two locks.
"""

from __future__ import annotations

import os
import re
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote_to_bytes

from tenure.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMS: Final = (
    "allowed are sqlite:///absolute/path, sqlite:///absolute/path?shared=GROUP and sqlite:// (this user's own file)"
)
OPTIONS: Final = frozenset({"shared"})

_SCHEME: Final = re.compile(
    r"sqlite://(?P<host>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?P<rest>#.*)?", re.IGNORECASE | re.DOTALL
)
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


class SqliteUrl(NamedTuple):
    """A parsed URL.

    Attributes:
        path: the absolute path of the database; None for this user's own file (`default_path`).
        shared: the group whose members share the file; None for one user.
        options: every option that was given, decoded.
    """

    path: str | None
    shared: str | None
    options: Mapping[str, str]


def parse(url: str) -> SqliteUrl:
    """Say which file a URL means.

    Args:
        url: `sqlite:///path`, `sqlite:///path?shared=GROUP` or `sqlite://`; percent-escapes are decoded once.

    Raises:
        UsageError: the URL is none of these; nothing was touched. The message never repeats a host part, which may
            carry a password that was meant for another engine.
    """
    match = _SCHEME.fullmatch(url)
    if match is None:
        raise UsageError(f"url: it does not begin with sqlite://; {FORMS}")
    if match["host"]:
        raise UsageError(f"url: a SQLite file has no host (a path needs three slashes); {FORMS}")
    if match["rest"] is not None:
        raise UsageError(f"url: it has a fragment; write # in a path as %23; {FORMS}")
    options = _options(match["query"])
    shared = options.get("shared")
    if shared == "":
        raise UsageError("url: option shared names no group; allowed is shared=GROUP")
    if not match["path"]:
        if shared is not None:
            raise UsageError("url: option shared needs a path, for sqlite:// is one user's own file")
        return SqliteUrl(None, None, options)
    return SqliteUrl(_path(match["path"]), shared, options)


def _path(quoted: str) -> str:
    path = "/" + _decoded(quoted, "the path").lstrip("/")
    first = path.split("/")[1]
    if sys.platform == "win32" and re.fullmatch("[A-Za-z]:", first):
        path = path[1:]
    if path == "/":
        raise UsageError(f"url: the path is empty; {FORMS}")
    if path.endswith("/"):
        raise UsageError("url: the path names a folder; it must name the database file, such as /var/lib/app/locks.db")
    if first in (".", ".."):
        raise UsageError(f"url: the path is relative; {FORMS}")
    if first == ":memory:":
        raise UsageError("url: locks within one process are memory://, not sqlite:///:memory:")
    return path


def _options(query: str | None) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for part in query.split("&") if query else ():
        key, equals, value = part.partition("=")
        key = _decoded(key, "an option's name")
        if key not in OPTIONS or not equals:
            raise UsageError(f"url: unknown option {key!r}; allowed is shared=GROUP")
        if key in found:
            raise UsageError(f"url: option {key} is given twice; it may be given once")
        found[key] = _decoded(value, f"option {key}")
    return MappingProxyType(found)


def _decoded(quoted: str, what: str) -> str:
    if _BAD_ESCAPE.search(quoted):
        raise UsageError(f"url: {what} has a % that begins no escape; write it as %25")
    raw = unquote_to_bytes(quoted)
    if b"\0" in raw:
        raise UsageError(f"url: {what} has a NUL character, which no file or group name can have")
    return os.fsdecode(raw)


def default_path() -> str:
    """Name this user's own file, in the platform's folder for state; nothing is created.

    Raises:
        UsageError: the user's home cannot be found (a service without HOME and without an account entry).
    """
    return os.path.join(_state_folder(), "tenure", "locks.db")


def _state_folder() -> str:
    if sys.platform == "win32":
        return _absolute(os.environ.get("LOCALAPPDATA")) or os.path.join(_home(), "AppData", "Local")
    if sys.platform == "darwin":
        return os.path.join(_home(), "Library", "Application Support")
    # The XDG specification: a relative path in the variable is invalid and is to be ignored.
    return _absolute(os.environ.get("XDG_STATE_HOME")) or os.path.join(_home(), ".local", "state")


def _absolute(path: str | None) -> str | None:
    return path if path and os.path.isabs(path) else None


def _home() -> str:
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        raise UsageError(
            "url: sqlite:// needs this user's home folder, and none was found; name a file: sqlite:///path"
        )
    return home
