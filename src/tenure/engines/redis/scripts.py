"""The Lua scripts: read once, sent by their hash.

Promises: a script's text never changes while the process runs; its hash is what the server calls it by (EVALSHA).
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from typing import Any, Final, NamedTuple, cast

from hiredis import pack_command as _pack_command

pack_command = cast("Any", _pack_command)
"""It takes a tuple of any length, which its own annotation does not say."""

STEPS: Final = (
    "enter",
    "look",
    "close",
    "heartbeat",
    "standing",
    "claims",
    "end",
    "steal",
    "inspect",
    "names",
)
"""The scripts that `queue.lua` is put in front of. `genesis` stands alone."""


class Script(NamedTuple):
    """A script and the commands that run it, as bytes of the wire up to its key.

    Attributes:
        by_hash: EVALSHA, which the server refuses with NOSCRIPT if it does not know the script.
        by_text: EVAL, which also makes it known.
    """

    name: str
    by_hash: bytes
    by_text: bytes


@cache
def script(name: str) -> Script:
    """A script by its file's name."""
    text = _read("queue") + _read(name) if name in STEPS else _read(name)
    digest = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
    return Script(name, bulk(b"EVALSHA") + bulk(digest) + bulk(b"1"), bulk(b"EVAL") + bulk(text) + bulk(b"1"))


def bulk(value: bytes) -> bytes:
    """One argument of a command."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def command(head: bytes, heads: int, *arguments: bytes | str | int) -> bytes:
    """A whole command: `heads` arguments that are packed already, then the others."""
    body = pack_command(arguments)
    return b"*%d\r\n%b%b" % (heads + len(arguments), head, body[body.index(b"\n") + 1 :])


def _read(name: str) -> bytes:
    return resources.files("tenure.engines.redis").joinpath("lua", f"{name}.lua").read_bytes()
