"""The mailbox: a list on the server, read with BLPOP over a connection of its own, which is made by the first wait.

Promises: a message waits on the server while this client reconnects; an interrupt or a cancellation loses none that was
announced, for it is taken after the wait and never during it.
Does not promise that none is lost: a connection that breaks may take one along. After every break the grants are
listed (`overflowed`), and the waiters look (B4).
"""

from __future__ import annotations

import abc
import selectors
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError

from tenure.engines.mail import decode
from tenure.engines.redis.scripts import command
from tenure.errors import OutcomeUnknown, SetupError, StoreUnavailable, UsageError
from tenure.model import Instant
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenure.engines.redis.pipe import Pipe
    from tenure.model import Seconds
    from tenure.ports import Message, Peer, Runtime

BLPOP_S: Final = 5
"""Seconds after which the server says that nothing has come."""

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


class RedisMailbox(abc.ABC):
    """As `ports.Mailbox`, but for how one waits."""

    def __init__(self, key: str, runtime: Runtime) -> None:
        self.overflowed = False
        self.hints_only = False
        """A message is no grant: whoever waits looks, and waits for what the look is worth."""
        self._ask = command(("BLPOP", key, BLPOP_S))
        self._runtime = runtime
        self._pipe: Pipe | None = None
        self._silent_at = _NEVER
        """When the connection is given up; never while nothing is asked for."""
        self._messages: list[Message] = []
        self._pause = PAUSE_FIRST_S
        self._is_refused = False
        """The server answers connections and refuses what is asked on them."""
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
    async def _open(self, timeout: Seconds) -> Pipe:
        """Connect."""

    @abc.abstractmethod
    async def _ready(self, selector: selectors.BaseSelector, seconds: Seconds) -> Sequence[tuple[Any, int]]:
        """Wait until something can be read; what."""

    @abc.abstractmethod
    def _me(self) -> object:
        """Who is reading."""

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
            while not self._messages:
                if self._pipe is None and not await self._connect(selector, until):
                    break
                left = self._left(until)
                if left <= 0 or self._heard(await self._ready(selector, left)):
                    break
        finally:
            self._leave(reader)
        messages, self._messages = self._messages, []
        return messages

    def poke(self) -> None:
        """As `ports.Mailbox.poke`; also from finalizers and signal handlers, also after `close`. Never raises."""
        with suppress(OSError):
            self._poke.send(b"\a")

    def close(self) -> None:
        """Stop listening; a `receive` in progress returns. May be repeated."""
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

    # -- the connection ---------------------------------------------------------------------------------------------

    async def _connect(self, selector: selectors.BaseSelector, until: Instant | None) -> bool:
        """Connect, and ask; False after a failure and a pause: whoever waits looks again."""
        now = self._runtime.now()
        refused, self._is_refused = self._is_refused, False
        try:
            if refused:
                raise StoreUnavailable("what was asked on the last connection was refused")
            # Nothing wakes whoever connects, and the keeper may hear of the grant meanwhile: the first time briefly.
            most = min(CONNECT_S, self._pause * CONNECT_PAUSES)
            pipe = await self._open(most if until is None else min(most, max(0.001, until - now)))
        except (StoreUnavailable, OutcomeUnknown, SetupError):
            pause = self._pause * (0.5 + self._runtime.random())
            self._pause = min(self._pause * 2, PAUSE_MOST_S)
            self._heard(await self._ready(selector, pause if until is None else max(0.0, min(pause, until - now))))
            return False
        pipe.unblock()
        selector.register(pipe, selectors.EVENT_READ)
        self._pipe = pipe
        # What the last connection may have taken along is listed at the next heartbeat, which is asked for at once.
        self.overflowed = True
        return True

    def _left(self, until: Instant | None) -> Seconds:
        """Ask, unless that is done; how long to wait in one go."""
        now = self._runtime.now()
        if self._silent_at is _NEVER and self._pipe is not None:
            try:
                # So few bytes on a connection that nothing else is sent on: the kernel takes them all.
                self._pipe.send(self._ask)
            except OSError:
                self._drop()
                return 0.0
            self._silent_at = Instant(now + BLPOP_S + SILENCE_S)
        elif now >= self._silent_at:
            self._drop()
            return 0.0
        # In slices: a timer sleeps through suspend.
        return min(_SLICE_S, _SLICE_S if until is None else until - now)

    def _heard(self, events: Sequence[tuple[Any, int]]) -> bool:
        """Take what has come; True if the caller of `receive` should have a look."""
        hint = False
        for key, _ in events:
            if key.fileobj is self._wake:
                with suppress(OSError):
                    self._wake.recv(4096)
                hint = True
            elif self._pipe is not None:
                hint = self._took(self._pipe) or hint
        return hint

    def _took(self, pipe: Pipe) -> bool:
        try:
            answers = pipe.take()
        except OSError:
            self._drop()
            return True
        hint = False
        for answer in answers:
            self._silent_at = _NEVER
            if isinstance(answer, ResponseError):
                # Loading, no master, no right: whatever it is, it is asked again on a new connection, with pauses.
                self._drop()
                self._is_refused = True
                return True
            self._pause = PAUSE_FIRST_S
            if answer is not None:
                message = decode(answer[1])
                if message is not None:
                    self._messages.append(message._replace(number=0, floor=0) if self.hints_only else message)
                hint = True
        return hint

    def _drop(self) -> None:
        pipe, self._pipe = self._pipe, None
        self._silent_at = _NEVER
        if pipe is not None:
            if self._selector is not None:
                with suppress(KeyError, ValueError, OSError):
                    self._selector.unregister(pipe)
            pipe.close()

    def _dispose(self) -> None:
        # Never unregister here: after a fork the kernel's list is shared, and the parent would hear no more.
        for end in (self._wake, self._poke):
            with suppress(OSError):
                end.close()
        if self._selector is not None:
            with suppress(OSError):
                self._selector.close()
        if self._pipe is not None:
            self._pipe.close()
