"""`tenure fence`: what the guards of a resource need from whoever runs it, and from shell scripts that write to it."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from tenure.errors import SetupError, UsageError
from tenure.fencing import schema
from tenure.fencing.rule import TOKEN_MAX
from tenure.model import Grant

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from tenure.fencing.desks import Desk

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


@contextmanager
def reached(options: argparse.Namespace) -> Iterator[tuple[Desk, str]]:
    """Reach the place of the fence that the arguments name; and that place, for people to read.

    Raises:
        SetupError, StoreUnavailable: it cannot be reached.
    """
    from tenure.config import shown
    from tenure.fencing import desks

    if options.file is not None:
        with desks.of_file(options.file) as desk:
            yield desk, f"file {os.path.abspath(options.file)}"
        return
    with ExitStack() as stack:
        try:
            desk = stack.enter_context(desks.at_url(options.at))
        except UsageError as error:
            # Not the command line is wrong but what it was pointed at.
            raise SetupError(str(error)) from error
        yield desk, shown(options.at)
