"""What the command line says, as text: one line, safe for a terminal, colours only where they are wanted."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import TextIO

    from tenure.model import Contender, Queue

BOLD: Final = "1"
DIM: Final = "2"
RED: Final = "1;31"
YELLOW: Final = "33"
CYAN: Final = "36"
GREEN: Final = "32"


def complain(message: str) -> None:
    """Write one line to stderr; a closed stderr is nobody's problem."""
    with suppress(OSError, ValueError):
        print(f"tenure: {clean(message)}", file=sys.stderr, flush=True)


def clean(text: str) -> str:
    """Make text of others harmless: no escape sequence of a client's `info` may reach the operator's terminal."""
    return "".join(
        character if character.isprintable() else " " if character in "\r\n\t" else f"\\x{ord(character):02x}"
        for character in text
    )


def has_colour(stream: TextIO) -> bool:
    """Whether a stream is a terminal whose user has not asked for plain text (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, style: str, stream: TextIO) -> str:
    """Put text into a style, where the stream shows it."""
    return f"\x1b[{style}m{text}\x1b[0m" if has_colour(stream) else text


def duration(seconds: float) -> str:
    """A duration as people say it: `0.4s`, `12s`, `3m 12s`, `2h 5m`, `3d 4h`."""
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    for size, unit, smaller, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // smaller}{small_unit}"
    return f"{whole}s"


def who(contender: Contender) -> str:
    """One contender in a few words: who, where, what for."""
    place = f"{contender.host} pid {contender.pid}"
    client = contender.client
    # A client without a name of its own calls itself after its host and process; once is enough.
    named = client and contender.host not in client and str(contender.pid) not in client
    text = f"{client} on {place}" if named else place
    return clean(f"{text} ({contender.info})" if contender.info else text)


def busy(queue: Queue, now: float) -> str:
    """Who is in front, since when, with which token, and how many wait: half a sentence."""
    waiting = f"{len(queue.waiters)} waiting"
    if not queue.holders:
        return f"held by nobody at this moment; {waiting}"
    first = queue.holders[0]
    more = f" and {len(queue.holders) - 1} more" if len(queue.holders) > 1 else ""
    return f"held by {who(first)}{more} since {since(first, now)} with token {first.token}; {waiting}"


def since(contender: Contender, now: float) -> str:
    """When a contender came, by this machine's calendar, and how long ago that is."""
    age = now - contender.since
    form = "%H:%M:%S" if age < 43200 else "%Y-%m-%d %H:%M"
    return f"{time.strftime(form, time.localtime(contender.since))} ({duration(age)})"


def own_place(queue: Queue, number: int) -> int:
    """Where this process's own claim waits, from 0; -1 if it does not. Its number may not have been told yet."""
    host, pid = os.uname().nodename, os.getpid()
    for place, waiter in enumerate(queue.waiters):
        if waiter.token == number or (not number and (waiter.host, waiter.pid) == (host, pid)):
            return place
    return -1
