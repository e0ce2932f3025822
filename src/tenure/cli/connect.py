"""Open the client that the command line's arguments and environment ask for."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tenure.cli.text import complain

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from tenure.client import Client
    from tenure.model import Seconds
    from tenure.observe.events import Event

SCOPE = "this user on this host only"
"""Three hosts that forgot the variable would each hold the lock: so the fallback never goes unsaid."""


def connect(
    options: argparse.Namespace,
    on_event: Callable[[Event], None] | None = None,
    *,
    locks: bool = True,
    on_fallback: Callable[[str], None] | None = None,
) -> tuple[Client, Seconds]:
    """Make a client, which does no I/O yet, and tell its TTL.

    Args:
        options: of the command line.
        on_event: as `Client` has it.
        locks: it is to lock, or to look at locks, for which an engine must reach other commands.
        on_fallback: told the scope, where nobody named an engine; a line on stderr by default.

    Raises:
        UsageError: --ttl is out of bounds; exit status 64.
        SetupError: the URL or the environment's settings are wrong; exit status 78.
    """
    from tenure import config, errors
    from tenure.client import Client
    from tenure.observe.log import silence

    # What the library logs, the command line says in its own words; without this, it would be said twice.
    silence()
    given = options.url or os.environ.get("TENURE_URL")
    url = given or "sqlite://"
    ttl: float | None = getattr(options, "ttl", None)
    if ttl is not None:
        config.seconds("--ttl", ttl, config.TTL_LEAST, config.TTL_MOST)
    try:
        client = Client(url, ttl=ttl, on_event=on_event)
        settled = config.settings(url, ttl=ttl, namespace=None, max_hold=None, require=(), skew=0.0, client=None)
    except errors.UsageError as error:
        # Not the command line is wrong but what it was pointed at.
        raise errors.SetupError(str(error)) from error
    if locks and url.partition("://")[0] == "memory":
        # Every command would hold the name in a store of its own, and nobody would be told.
        raise errors.SetupError("url: memory:// is one process's own, and each command is another process")
    if not given and on_fallback is not None:
        on_fallback(SCOPE)
    elif not given and not options.quiet:
        complain(fallen_back(SCOPE))
    return client, settled.ttl


def fallen_back(scope: str) -> str:
    """The sentence that says so."""
    return f"scope: {scope} (neither --url nor TENURE_URL is given)"


@contextmanager
def opened(client: Client) -> Iterator[Client]:
    """Open a client, and close it whatever happens.

    Raises:
        StoreUnavailable: the engine cannot be reached; exit status 69.
        SetupError: the URL names something that is no engine; exit status 78.
    """
    from tenure import errors

    try:
        try:
            client.open()
        except errors.UsageError as error:
            raise errors.SetupError(str(error)) from error
        yield client
    finally:
        client.close()
