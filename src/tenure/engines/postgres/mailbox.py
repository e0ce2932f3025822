"""The mailbox: a channel, listened to on a connection of its own; where a pooler is in the way, a table that is asked.

Either is made by the first wait.

Promises: an interrupt or a cancellation loses no message that was announced, for it is taken after the wait and never
during it; whoever waits looks again after each (re)connection, since what was told before it was told to nobody.
Does not promise that none is lost: a notification reaches only whoever listens at that moment. The grants are listed
after every break and with each heartbeat (B4).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from tenure.engines.listening import NEVER, SILENCE_S, SLICE_S, Dialling, Listening, Pauses
from tenure.engines.mail import decode
from tenure.errors import OutcomeUnknown, SetupError, StoreUnavailable
from tenure.model import Instant

if TYPE_CHECKING:
    import selectors
    from collections.abc import Callable

    from tenure.engines.postgres.link import Link
    from tenure.engines.postgres.store import Known, Wire
    from tenure.model import Seconds
    from tenure.ports import Message, Runtime

LISTENS: Final = "tenure_"
POLLS: Final = "poll_"
"""How an address begins; the server tells by it how to deliver."""

PING_S: Final = 10.0
"""Seconds of silence after which the server is asked whether it is there."""

TAKE_S: Final = 5.0
"""Seconds that asking for messages may take."""


def _kept(payload: bytes) -> list[Message]:
    message = decode(payload)
    return [] if message is None else [message]


class ListeningMailbox(Dialling["Link"]):
    """Hears notifications."""

    def __init__(self, address: str, runtime: Runtime, known: Known, listen: Callable[[Seconds], Link]) -> None:
        """Hear nothing yet.

        Args:
            address: the channel.
            runtime: time and chance.
            known: what is known of the server; here, whether somebody listens.
            listen: connects, and listens to the channel; blocks.
        """
        super().__init__(runtime, listen)
        self._channel = address.encode()
        self._known = known
        known.hears = False
        self._had_line = False
        self._ping_at = NEVER

    async def _turn(self, selector: selectors.BaseSelector, until: Instant | None) -> bool:
        if self._line is None:
            if await self._connect(selector, until) is not None:
                self._ping_at = Instant(self._runtime.now() + PING_S)
                self._known.hears = True
                # What the last connection may have taken along is listed at the next heartbeat, asked for at once.
                self.overflowed = self.overflowed or self._had_line
                self._had_line = True
            # What was told before it was told to nobody; and after a failure, the keeper may have heard of the grant.
            return True
        now = self._runtime.now()
        left = SLICE_S if until is None else until - now
        if left <= 0:
            return True
        if not self._is_alive(self._line, now):
            self._drop()
            return True
        return self._heard(await self._ready(selector, min(SLICE_S, left)))

    def _is_alive(self, link: Link, now: Instant) -> bool:
        """Ask the server whether it is there, if it was silent for long; False once it is too late for an answer."""
        if now >= self._silent_at:
            return False
        if now >= self._ping_at:
            self._ping_at, self._silent_at = NEVER, Instant(now + SILENCE_S)
            try:
                # So few bytes on a connection that nothing else is sent on: the kernel takes them all.
                link.send(b"", ())
            except OSError:
                return False
        return True

    def _took(self, line: Link) -> bool:
        try:
            notices = line.notices()
            if self._silent_at is not NEVER and line.take() is not None:
                self._silent_at = NEVER
        except OSError:
            self._drop()
            return True
        if self._silent_at is NEVER:
            self._ping_at = Instant(self._runtime.now() + PING_S)
        self._pauses.over()
        for channel, payload in notices:
            if channel == self._channel:
                self._came += _kept(payload)
        return bool(notices)

    def _drop(self) -> None:
        self._known.hears = False
        super()._drop()


class PollingMailbox(Listening):
    """Asks for its messages, again and again while somebody waits."""

    def __init__(self, address: str, statement: bytes, poll: Seconds, wire: Wire, runtime: Runtime) -> None:
        super().__init__()
        self._runtime = runtime
        self._pauses = Pauses(runtime.random)
        self._address = address.encode()
        self._statement = statement
        self._poll_s = poll
        self._wire = wire

    async def _asked(self) -> list[str]:
        """The messages that lie there; they are removed."""
        answer = await self._wire.exchange(self._statement, [self._address], TAKE_S)
        if answer.state:
            raise StoreUnavailable(answer.message)
        messages: list[str] = json.loads(answer.value)
        return messages

    async def _mail(self) -> list[str]:
        """As `_asked`; a cancelled caller loses nothing."""
        return await self._asked()

    async def _turn(self, selector: selectors.BaseSelector, until: Instant | None) -> bool:
        try:
            messages = await self._mail()
        except (StoreUnavailable, OutcomeUnknown, SetupError):
            # Perhaps it was answered and the answer lost, with messages in it: they are listed instead.
            self.overflowed = True
            return await self._rest(selector, self._pauses.next(), until)
        self._pauses.over()
        for message in messages:
            self._came += _kept(message.encode())
        return bool(messages) or await self._rest(selector, self._poll_s, until)

    async def _rest(self, selector: selectors.BaseSelector, seconds: Seconds, until: Instant | None) -> bool:
        """Wait, but for a poke and no longer than asked for; True if one of the two ended it."""
        left = seconds if until is None else until - self._runtime.now()
        events = await self._ready(selector, max(0.0, min(left, seconds)))
        return (bool(events) and self._was_poked()) or (until is not None and left <= seconds)
