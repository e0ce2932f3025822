"""What `tenure run` says while it works: sentences for people, or events for programs. Never both.

The events and their fields are listed in the help of `tenure run` and are stable: fields may be added, none goes away.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from tenure.cli.text import clean, complain

if TYPE_CHECKING:
    from tenure.model import Contender, Queue


class Report:
    """Speaks on stderr; stdout belongs to the command.

    Attributes:
        as_json: whether it prints events.
        quiet: whether it keeps to errors.
    """

    def __init__(self, name: str, *, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._name = name

    def event(self, event: str, **fields: object) -> None:
        """Print one event, if events are wanted."""
        if not self.as_json:
            return
        import json

        line = json.dumps({"event": event, "time": round(time.time(), 6), "name": self._name, **fields})
        # Nobody may listen any more; the command goes on.
        with suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)

    def note(self, message: str) -> None:
        """Say something that is no error."""
        if not self.quiet:
            self.error(message)

    def error(self, message: str) -> None:
        """Say something that must be heard."""
        if not self.as_json:
            complain(message)

    def failure(self, message: str, status: int) -> None:
        """Say why the exit status is tenure's own."""
        self.event("error", message=clean(message), status=status)
        self.error(message)


def contender_fields(contender: Contender) -> dict[str, object]:
    """A contender as JSON has it; the same fields everywhere."""
    return {
        "token": contender.token,
        "mode": str(contender.mode.kind),
        "permits": contender.mode.permits,
        "limit": contender.mode.limit,
        "client": contender.client,
        "host": contender.host,
        "pid": contender.pid,
        "info": contender.info,
        "since": contender.since,
    }


def queue_fields(queue: Queue) -> dict[str, object]:
    """A queue as JSON has it."""
    return {
        "name": queue.name,
        "holders": [contender_fields(contender) for contender in queue.holders],
        "waiters": [contender_fields(contender) for contender in queue.waiters],
    }
