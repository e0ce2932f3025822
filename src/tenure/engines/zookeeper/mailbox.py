"""The mailbox: filled by the threads that hear the watches, read by whoever waits.

Promises: what comes in it is a grant, found by reading the queue after the watch that fired (B6); a cancelled `receive`
loses nothing.
Does not promise a message for each hand-over: a connection that breaks takes its watches along. When there is a new one
every waiting claim is looked up anew.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenure.model import Instant
    from tenure.ports import Message, Peer, Runtime


class ZooKeeperMailbox:
    """As `ports.Mailbox`."""

    def __init__(self, runtime: Runtime) -> None:
        self.overflowed = False
        self._signal = runtime.signal()
        self._messages: deque[Message] = deque()
        self._is_poked = False

    def watch(self, peers: Sequence[Peer]) -> bool:  # noqa: ARG002 - the store does, in the step that found them
        return True

    async def receive(self, until: Instant | None) -> list[Message]:
        while not self._messages and not self._is_poked:
            if not await self._signal.wait(until):
                break
        self._is_poked = False
        found: list[Message] = []
        while self._messages:
            found.append(self._messages.popleft())
        return found

    def poke(self) -> None:
        self._is_poked = True
        self._signal.set()

    def post(self, message: Message) -> None:
        """Put a message in; from any thread."""
        self._messages.append(message)
        self._signal.set()
