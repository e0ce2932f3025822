"""Where the fence lies that a command of `tenure fence` is about."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from tenure.errors import SetupError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from tenure.fencing.desks import Desk


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
