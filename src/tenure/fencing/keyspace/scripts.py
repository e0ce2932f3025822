"""The scripts of a fence: read once, sent by their hash."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import resources
from typing import NamedTuple


class Script(NamedTuple):
    """A text of Lua, and the hash that the server calls it by."""

    text: bytes
    digest: str


@lru_cache(maxsize=1)
def raising() -> Script:
    """Raise the fence."""
    return _script(_read("fence"), _read("raise"))


@lru_cache(maxsize=1)
def commands() -> Script:
    """Run commands under a check."""
    return _script(_read("fence"), _read("check"), _read("commands"))


@lru_cache(maxsize=64)
def wrapped(text: bytes) -> Script:
    """Run a script of the user's under a check."""
    return _script(_read("fence"), _read("check"), _read("script_before"), text, _read("script_after"))


def _script(*parts: bytes) -> Script:
    text = b"".join(parts)
    return Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest())


def _read(name: str) -> bytes:
    return resources.files("tenure.fencing.keyspace").joinpath("lua", f"{name}.lua").read_bytes()
