"""Processes that hold a name, and a thread that waits for it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from tests.sqlite.rig import PATIENCE, sql, until

if TYPE_CHECKING:
    from pathlib import Path

    from tenure import Client


HOLD = """
client = tenure.Client(url, ttl=float(sys.argv[2]) if len(sys.argv) > 2 else 60).open()
lease = client.lock("n").acquire()
say("granted", lease.token)
"""

HOLDER = (
    HOLD
    + """
while True:
    word = told()
    if word == "state":
        say(lease.state.name)
    elif word == "lost":
        say(lease.lost.name if lease.lost else "none")
    elif word == "release":
        try:
            lease.release()
            say("released")
        except LeaseLost:
            say("lost")
"""
)


DIES_IN_ITS_STEP = """
from tenure.engines.queue import Steps
client = tenure.Client(url, ttl=60).open()
lease = client.lock("n").acquire()
say("granted", lease.token)
signal_sent = getattr(signal, told())
close = Steps.close
def fall(self, at, closings):
    done = close(self, at, closings)
    os.kill(os.getpid(), signal_sent)
    return done
Steps.close = fall
lease.release()
say("released")
told()
"""


class Waiter:
    """A thread that waits for the name; when it got it."""

    def __init__(self, client: Client, name: str = "n", wait: float = PATIENCE) -> None:
        self.at = 0.0
        self.token = 0
        self.error: BaseException | None = None
        self._client, self._name, self._wait = client, name, wait
        self._go = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._client.lock(self._name, wait=self._wait) as lease:
                self.at, self.token = time.monotonic(), lease.token
                self._go.wait(PATIENCE)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def done(self) -> float:
        """Wait until it had the name; when it got it."""
        until(lambda: self.at or self.error)
        assert self.error is None, self.error
        self._go.set()
        self._thread.join(PATIENCE)
        return self.at


def queue_of(path: Path, length: int) -> None:
    until(lambda: sql(path, "SELECT count(*) FROM claims WHERE name = 'tenure:n'") == [(length,)])
