"""The Lua scripts: read once, sent by their hash.

Promises: a script's text never changes while the process runs; its hash is what the server calls it by (EVALSHA).
"""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import hiredis

if TYPE_CHECKING:
    from collections.abc import Callable

Word = bytes | str | int

command = cast("Callable[[tuple[Word, ...]], bytes]", hiredis.pack_command)
"""A command, given as its words, as bytes of the wire. In C; its own annotation does not say how many it takes."""


@lru_cache(64)
def _packed(words: tuple[Word, ...]) -> bytes:
    return command(words).partition(b"\r\n")[2]


def call(head: tuple[Word, ...], arguments: tuple[Word, ...]) -> bytes:
    """As `command((*head, *arguments))`. The head, the same each time, is packed once: it is half of the words."""
    return b"*%d\r\n%b%b" % (len(head) + len(arguments), _packed(head), command(arguments).partition(b"\r\n")[2])


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
"""The scripts that are put together of several files. `genesis` stands alone."""

USUAL: Final = ("enter", "close")
"""Those that have their usual case in front, before the functions of the queue are made. Not where there are plain keys
beside the queues: a cycle that has to look at one is none of the quickest."""


class Script(NamedTuple):
    """A script and the commands that run it: the words in front of the number of its keys.

    Attributes:
        by_hash: EVALSHA, which the server refuses with NOSCRIPT if it does not know the script.
        by_text: EVAL, which also makes it known.
    """

    name: str
    by_hash: tuple[bytes, bytes]
    by_text: tuple[bytes, bytes]


@cache
def script(name: str) -> Script:
    """A script by its file's name."""
    return _script(name, parts(name))


@cache
def script_beside(name: str) -> Script:
    """A step's script for a store that has plain keys beside its queues."""
    return _script(name, ("start", "queue", "plain", name))


@cache
def script_on_cluster(name: str) -> Script:
    """A script as the nodes of a cluster run it: not while the slot is on the move."""
    return _script(name, ("moving", *parts(name)))


def _script(name: str, files: tuple[str, ...]) -> Script:
    text = b"".join(map(_read, files))
    digest = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
    return Script(name, (b"EVALSHA", digest), (b"EVAL", text))


def parts(name: str) -> tuple[str, ...]:
    """The files of a script, in order."""
    if name not in STEPS:
        return (name,)
    return ("start", f"{name}_usual", "queue", name) if name in USUAL else ("start", "queue", name)


def _read(name: str) -> bytes:
    return resources.files("tenure.engines.redis").joinpath("lua", f"{name}.lua").read_bytes()
