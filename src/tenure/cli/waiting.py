"""The line that says, on a terminal, for whom `tenure run` is waiting; rewritten in place about once a second."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from tenure.cli.supervise import clock
from tenure.cli.text import DIM, clean, duration, own_place, paint, who

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self, TextIO

    from tenure.client import Client
    from tenure.model import Queue

_FIRST_SECONDS = 0.3
"""Who gets the name sooner than this sees no line flash by."""
_EVERY_SECONDS = 1.0


class WaitingLine:
    """Shows the line while the main thread waits; as a context manager. Its own thread asks the engine."""

    def __init__(self, client: Client, name: str, stream: TextIO, number: Callable[[], int]) -> None:
        """Show who holds `name`; `number` tells our own claim's number, 0 while there is none."""
        self._client = client
        self._name = name
        self._stream = stream
        self._number = number
        self._began = clock()
        self._over = threading.Event()
        self._writing = threading.Lock()
        self._shown = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._show, name="tenure-run-line", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # Not joined: it may be waiting for an engine that does not answer. Under the lock it sees that it is over.
        self._over.set()
        with self._writing:
            if self._shown:
                self._write("\r\x1b[K")

    def _show(self) -> None:
        pause = _FIRST_SECONDS
        while not self._over.wait(pause):
            pause = _EVERY_SECONDS
            try:
                text = describe(self._client.inspect(self._name), self._number(), clock() - self._began, time.time())
            except Exception as error:  # noqa: BLE001 - a line for people must not disturb the waiting itself
                text = f"waiting for {self._name}: the engine does not say for whom ({clean(str(error))})"
            with self._writing:
                if not self._over.is_set():
                    self._write("\r" + paint(_fit(text, self._stream), DIM, self._stream) + "\x1b[K")
                    self._shown = True

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


def describe(queue: Queue, number: int, waited: float, now: float) -> str:
    """The line's text: who holds the name, for how long, how long we have waited and which place is ours."""
    parts = [f"waited {duration(waited)}"]
    place = own_place(queue, number)
    if place >= 0:
        parts.append(f"place {place + 1} of {len(queue.waiters)}")
    name = clean(queue.name)
    if not queue.holders:
        return f"waiting for {name}, {', '.join(parts)}"
    first = queue.holders[0]
    more = f" and {len(queue.holders) - 1} more" if len(queue.holders) > 1 else ""
    held = f"held by {who(first)}{more} for {duration(now - first.since)}, token {first.token}"
    return f"waiting for {name}: {held}; {', '.join(parts)}"


def _fit(text: str, stream: TextIO) -> str:
    """Cut to the terminal's width: a line that wraps cannot be rewritten in place."""
    try:
        width = os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        width = 80
    return text if len(text) < width else text[: max(0, width - 2)] + "…"
