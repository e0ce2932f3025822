"""The mailbox: a channel, listened to on a connection of its own; where a pooler is in the way, a table that is asked.

Either is made by the first wait.

Promises: an interrupt or a cancellation loses no message that was announced, for it is taken after the wait and never
during it; whoever waits looks again after each (re)connection, since what was told before it was told to nobody.
Does not promise that none is lost: a notification reaches only whoever listens at that moment. The grants are listed
after every break and with each heartbeat (B4).
"""

from __future__ import annotations

import abc
import json
import selectors
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from tenure.engines.mail import decode
from tenure.errors import OutcomeUnknown, SetupError, StoreUnavailable, UsageError
from tenure.model import Instant
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenure.engines.postgres.link import Link
    from tenure.engines.postgres.store import Known, Wire
    from tenure.model import Seconds
    from tenure.ports import Message, Peer, Runtime

LISTENS: Final = "tenure_"
POLLS: Final = "poll_"
"""How an address begins; the server tells by it how to deliver."""

PING_S: Final = 10.0
"""Seconds of silence after which the server is asked whether it is there."""

SILENCE_S: Final = 5.0
"""Seconds beyond that after which a connection is taken for a dead one."""

CONNECT_S: Final = 5.0
"""Seconds that one attempt to connect may take."""

CONNECT_PAUSES: Final = 25
"""How many times the pause that would follow, if that is less: half a second, then twice that, and so on."""

PAUSE_FIRST_S: Final = 0.02
PAUSE_MOST_S: Final = 1.0
"""Seconds between attempts to connect, with jitter."""

_SLICE_S: Final = 1.0
_NEVER: Final = Instant(float("inf"))


class PostgresMailbox(abc.ABC):
    """As `ports.Mailbox`, but for how one waits and where the messages are."""

    def __init__(self, runtime: Runtime) -> None:
        self.overflowed = False
        self._runtime = runtime
        self._messages: list[Message] = []
        self._pause = PAUSE_FIRST_S
        self._reader: object = None
        self._mutex = native.mutex()
        self._is_closed = False
        self._selector: selectors.BaseSelector | None = None
        # A pair of sockets, not a pipe: a poke by a late finalizer meets a closed object, never somebody else's number.
        self._wake, self._poke = socket.socketpair()
        self._wake.setblocking(False)
        self._poke.setblocking(False)

    # -- how one waits ----------------------------------------------------------------------------------------------

    @abc.abstractmethod
    async def _ready(self, selector: selectors.BaseSelector, seconds: Seconds) -> Sequence[tuple[Any, int]]:
        """Wait until something can be read; what."""

    @abc.abstractmethod
    def _me(self) -> object:
        """Who is reading."""

    @abc.abstractmethod
    async def _turn(self, selector: selectors.BaseSelector, until: Instant | None) -> bool:
        """Wait once; True if the caller of `receive` should have a look."""

    # -- the port ---------------------------------------------------------------------------------------------------

    def watch(self, peers: Sequence[Peer]) -> bool:  # noqa: ARG002 - nobody can be heard dying over a network
        return True

    async def receive(self, until: Instant | None) -> list[Message]:
        """As `ports.Mailbox.receive`.

        Raises:
            UsageError: another thread or task is receiving, or the mailbox is closed; no message was taken.

        Cancellation, Ctrl-C: safe; what had come is kept for the next call.
        """
        # Entering is inside the try, for Ctrl-C may hit any line; leaving asks whether this one has entered.
        reader = self._me()
        try:
            selector = self._enter(reader)
            while not self._messages and not await self._turn(selector, until):
                pass
        finally:
            self._leave(reader)
        messages, self._messages = self._messages, []
        return messages

    def poke(self) -> None:
        """As `ports.Mailbox.poke`; also from finalizers and signal handlers, also after `close`. Never raises."""
        with suppress(OSError):
            self._poke.send(b"\a")

    def close(self) -> None:
        """Stop; a `receive` in progress returns. May be repeated."""
        with self._mutex:
            self._is_closed = True
            if self._reader is None:
                self._dispose()
        self.poke()

    def disown(self) -> None:
        """In a forked child: close what was inherited, and say nothing to the server."""
        self._is_closed = True
        self._mutex = native.mutex()
        self._dispose()

    # -- one reader at a time ---------------------------------------------------------------------------------------

    def _enter(self, reader: object) -> selectors.BaseSelector:
        with self._mutex:
            if self._reader is not None and self._reader != reader:
                raise UsageError("receive: this mailbox has a reader already; nothing was taken")
            if self._is_closed:
                raise UsageError("receive: this mailbox is closed")
            if self._selector is None:
                # Looked up late and by name, so that a patched module's selector lets other greenlets run.
                selector = selectors.DefaultSelector()
                selector.register(self._wake, selectors.EVENT_READ)
                self._selector = selector
            self._reader = reader
            return self._selector

    def _leave(self, reader: object) -> None:
        with self._mutex:
            if self._reader == reader:
                self._reader = None
                if self._is_closed:
                    self._dispose()

    def _dispose(self) -> None:
        # Never unregister here: after a fork the kernel's list is shared, and the parent would hear no more.
        for end in (self._wake, self._poke):
            with suppress(OSError):
                end.close()
        if self._selector is not None:
            with suppress(OSError):
                self._selector.close()

    # -- what both do -----------------------------------------------------------------------------------------------

    async def _rest(self, selector: selectors.BaseSelector, seconds: Seconds, until: Instant | None) -> bool:
        """Wait, but for a poke and no longer than asked for; True if one of the two ended it."""
        if until is not None:
            left = until - self._runtime.now()
            if left <= seconds:
                await self._woken(selector, max(0.0, left))
                return True
        return await self._woken(selector, seconds)

    async def _woken(self, selector: selectors.BaseSelector, seconds: Seconds) -> bool:
        return self._was_poked(await self._ready(selector, seconds))

    def _was_poked(self, events: Sequence[tuple[Any, int]]) -> bool:
        for key, _ in events:
            if key.fileobj is self._wake:
                with suppress(OSError):
                    self._wake.recv(4096)
                return True
        return False

    def _next_pause(self) -> Seconds:
        pause = self._pause * (0.5 + self._runtime.random())
        self._pause = min(self._pause * 2, PAUSE_MOST_S)
        return pause

    def _keep(self, payload: bytes) -> None:
        message = decode(payload)
        if message is not None:
            self._messages.append(message)


class ListeningMailbox(PostgresMailbox):
    """Hears notifications."""

    def __init__(self, address: str, runtime: Runtime, known: Known) -> None:
        super().__init__(runtime)
        self._channel = address.encode()
        self._known = known
        known.hears = False
        self._had_link = False
        self._link: Link | None = None
        self._ping_at = _NEVER
        self._silent_at = _NEVER
        """When the connection is given up; never while nothing is asked for."""

    @abc.abstractmethod
    async def _open(self, timeout: Seconds) -> Link:
        """Connect, and listen."""

    async def _turn(self, selector: selectors.BaseSelector, until: Instant | None) -> bool:
        if self._link is None:
            await self._connect(selector, until)
            # What was told before it was told to nobody; and after a failure, the keeper may have heard of the grant.
            return True
        now = self._runtime.now()
        left = _SLICE_S if until is None else until - now
        if left <= 0:
            return True
        if not self._is_alive(self._link, now):
            self._drop()
            return True
        # In slices: a timer sleeps through suspend.
        return self._heard(await self._ready(selector, min(_SLICE_S, left)))

    async def _connect(self, selector: selectors.BaseSelector, until: Instant | None) -> None:
        now = self._runtime.now()
        try:
            # Nothing wakes whoever connects, and the keeper may hear of the grant meanwhile: the first time briefly.
            most = min(CONNECT_S, self._pause * CONNECT_PAUSES)
            link = await self._open(most if until is None else min(most, max(0.001, until - now)))
        except (StoreUnavailable, OutcomeUnknown, SetupError):
            await self._rest(selector, self._next_pause(), until)
            return
        selector.register(link, selectors.EVENT_READ)
        self._link = link
        self._ping_at = Instant(self._runtime.now() + PING_S)
        self._silent_at = _NEVER
        self._known.hears = True
        # What the last connection may have taken along is listed at the next heartbeat, which is asked for at once.
        self.overflowed = self.overflowed or self._had_link
        self._had_link = True

    def _is_alive(self, link: Link, now: Instant) -> bool:
        """Ask the server whether it is there, if it was silent for long; False once it is too late for an answer."""
        if now >= self._silent_at:
            return False
        if now >= self._ping_at:
            self._ping_at, self._silent_at = _NEVER, Instant(now + SILENCE_S)
            try:
                # So few bytes on a connection that nothing else is sent on: the kernel takes them all.
                link.send(b"", ())
            except OSError:
                return False
        return True

    def _heard(self, events: Sequence[tuple[Any, int]]) -> bool:
        """Take what has come; True if the caller of `receive` should have a look."""
        hint = self._was_poked(events)
        for key, _ in events:
            if key.fileobj is self._link and self._link is not None:
                hint = self._took(self._link) or hint
        return hint

    def _took(self, link: Link) -> bool:
        try:
            notices = link.notices()
            if self._silent_at is not _NEVER and link.take() is not None:
                self._silent_at = _NEVER
        except OSError:
            self._drop()
            return True
        if self._silent_at is _NEVER:
            self._ping_at = Instant(self._runtime.now() + PING_S)
        self._pause = PAUSE_FIRST_S
        for channel, payload in notices:
            if channel == self._channel:
                self._keep(payload)
        return bool(notices)

    def _drop(self) -> None:
        link, self._link = self._link, None
        self._known.hears = False
        if link is not None:
            if self._selector is not None:
                with suppress(KeyError, ValueError, OSError):
                    self._selector.unregister(link)
            link.close()

    def _dispose(self) -> None:
        super()._dispose()
        if self._link is not None:
            self._link.close()


class PollingMailbox(PostgresMailbox):
    """Asks for its messages, again and again while somebody waits."""

    def __init__(self, address: str, statement: bytes, poll: Seconds, wire: Wire, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._address = address.encode()
        self._statement = statement
        self._poll_s = poll
        self._wire = wire

    async def _taken(self) -> list[str]:
        """The messages that lie there; they are removed."""
        answer = await self._wire.exchange(self._statement, [self._address], CONNECT_S)
        if answer.state:
            raise StoreUnavailable(answer.message)
        messages: list[str] = json.loads(answer.value)
        return messages

    async def _mail(self) -> list[str]:
        """As `_taken`; a cancelled caller loses nothing."""
        return await self._taken()

    async def _turn(self, selector: selectors.BaseSelector, until: Instant | None) -> bool:
        try:
            messages = await self._mail()
        except (StoreUnavailable, OutcomeUnknown, SetupError):
            # Perhaps it was answered and the answer lost, with messages in it: they are listed instead.
            self.overflowed = True
            return await self._rest(selector, self._next_pause(), until)
        self._pause = PAUSE_FIRST_S
        for message in messages:
            self._keep(message.encode())
        return bool(messages) or await self._rest(selector, self._poll_s, until)
