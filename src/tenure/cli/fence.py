"""`tenure fence`: what the guards of a resource need from whoever runs it, and from shell scripts that write to it."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Final

from tenure.cli.fence_place import reached
from tenure.errors import SetupError
from tenure.fencing import schema
from tenure.fencing.rule import TOKEN_MAX
from tenure.model import Grant

if TYPE_CHECKING:
    import argparse

CHUNK: Final = 1024 * 1024


def fence(options: argparse.Namespace) -> int:
    """Do what was asked for."""
    if options.what == "schema":
        print(schema(options.subject or "postgresql"), end="")
        return 0
    if options.what == "check":
        return check(options)
    if options.what == "write":
        return write(options)
    from tenure.cli import fence_desk

    return {"show": fence_desk.show, "advance": fence_desk.advance, "adopt": fence_desk.adopt}[options.what](options)


def check(options: argparse.Namespace) -> int:
    """Raise the fence for the command of `tenure run` that this is called by."""
    grant = from_environment()
    with reached(options) as (desk, _):
        desk.enter(options.subject or grant.name, grant)
    return 0


def write(options: argparse.Namespace) -> int:
    """Replace a file with the standard input, under its fence."""
    from tenure.fencing import file

    with file(options.file, from_environment()) as guarded:
        shutil.copyfileobj(sys.stdin.buffer, guarded.open("wb"), CHUNK)
    return 0


def from_environment() -> Grant:
    """The grant that `tenure run` tells its command.

    Raises:
        SetupError: there is none, or it is damaged. Nothing is ever read as "no fencing".
    """
    try:
        name, token, floor = (os.environ[f"TENURE_{what}"] for what in ("NAME", "TOKEN", "FLOOR"))
    except KeyError as error:
        raise SetupError(f"{error.args[0]} is not set: call this in the command of `tenure run NAME -- ...`") from None
    largest, least = (int(text) if text.isascii() and text.isdigit() else 0 for text in (token, floor))
    if not 1 <= least <= largest <= TOKEN_MAX:
        raise SetupError(f"TENURE_TOKEN={token!r} and TENURE_FLOOR={floor!r} are no numbers of a lease")
    return Grant(name, largest, least, os.environ.get("TENURE_AUTHORITY", ""))
