"""Who reads a mailbox: one thread or task at a time, which anybody may wake. For the engines that hear over sockets.

Promises: an interrupt or a cancellation loses no message that was announced, for it is taken after the wait and never
during it; a `poke` ends the `receive` in progress, or the next one.
Does not promise that anything comes: whoever waits looks again (B4).
"""

from __future__ import annotations

import abc
import selectors
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from tenure.errors import OutcomeUnknown, SetupError, StoreUnavailable, UsageError
from tenure.model import Instant
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tenure.model import Seconds
    from tenure.ports import Message, Peer, Runtime

CONNECT_S: Final = 5.0
"""Seconds that one attempt to connect may take."""

CONNECT_PAUSES: Final = 25
"""How many times the pause that would follow, if that is less: half a second, then twice that, and so on."""

PAUSE_FIRST_S: Final = 0.02
PAUSE_MOST_S: Final = 1.0
"""Seconds between attempts to connect, with jitter."""

SILENCE_S: Final = 5.0
"""Seconds without the answer that is due, after which a connection is taken for a dead one."""

SLICE_S: Final = 1.0
"""Seconds that one wait may take: a timer sleeps through suspend."""

NEVER: Final = Instant(float("inf"))

_POKE: Final = b"\a"
_NUDGE: Final = b"."

Events = list[tuple[selectors.SelectorKey, int]]


class Line(Protocol):
    """A connection."""

    def fileno(self) -> int:
        """For waiting until something can be read."""
        ...

    def close(self) -> None:
        """Close it. Never raises."""
        ...


L = TypeVar("L", bound=Line)


class Listening(abc.ABC):
    """As `ports.Mailbox`, but for what is heard (`_turn`) and how one waits (`ByThread`, or `listening_aio.ByTask`).

    Attributes:
        overflowed: messages may have been lost; whoever lists the grants then clears it.
    """

    def __init__(self) -> None:
        self.overflowed = False
        self._came: list[Any] = []
        """What has come and was not handed over yet."""
        self._reader: object = None
        self._mutex = native.mutex()
        self._is_closed = False
        self._selector: selectors.BaseSelector | None = None
        # A pair of sockets, not a pipe: a poke by a late finalizer meets a closed object, never somebody else's number.
        self._wake, self._poke = socket.socketpair()
        self._wake.setblocking(False)
        self._poke.setblocking(False)

    # -- how one waits, and for what --------------------------------------------------------------------------------

    @abc.abstractmethod
    async def _ready(self, selector: selectors.BaseSelector, seconds: Seconds | None) -> Events:
        """Wait until something can be read; what."""

    @abc.abstractmethod
    def _me(self) -> object:
        """Who is reading."""

    @abc.abstractmethod
    async def _turn(self, selector: selectors.BaseSelector, until: Instant | None) -> bool:
        """Wait once; True if the caller of `receive` should have a look."""

    def _bound(self, until: Instant | None) -> Instant | None:
        """When a `receive` returns in any case."""
        return until

    def _taken(self) -> list[Message]:
        """Hand over what has come."""
        messages, self._came = self._came, []
        return messages

    def _begin(self, selector: selectors.BaseSelector) -> None:  # noqa: B027 - most have nothing before the first wait
        """Have a new selector hear what there is to hear already."""

    # -- the port ---------------------------------------------------------------------------------------------------

    def watch(self, peers: Sequence[Peer]) -> bool:  # noqa: ARG002 - over most networks nobody can be heard dying
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
            until = self._bound(until)
            while not self._came and not await self._turn(selector, until):
                pass
        finally:
            self._leave(reader)
        return self._taken()

    def poke(self) -> None:
        """As `ports.Mailbox.poke`; also from finalizers and signal handlers, also after `close`. Never raises."""
        with suppress(OSError):
            self._poke.send(_POKE)

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
        """Begin a receive. A reader that comes again has left, however it was interrupted."""
        with self._mutex:
            if self._reader is not None and self._reader != reader:
                raise UsageError("receive: this mailbox has a reader already; nothing was taken")
            if self._is_closed:
                raise UsageError("receive: this mailbox is closed")
            if self._selector is None:
                # Made late and looked up by name, so that a patched module's selector lets other greenlets run.
                # Kept only when complete: an interrupt in the middle must not leave one that hears half.
                selector = selectors.DefaultSelector()
                selector.register(self._wake, selectors.EVENT_READ)
                self._begin(selector)
                self._selector = selector
            self._reader = reader
            return self._selector

    def _leave(self, reader: object) -> None:
        with self._mutex:
            if self._reader == reader:
                self._reader = None
                if self._is_closed:
                    self._dispose()

    def _nudge(self) -> None:
        """Let whoever reads tend its connections; unlike a `poke`, it is no reason to look again."""
        with suppress(OSError):
            self._poke.send(_NUDGE)

    def _was_poked(self) -> bool:
        """Take what woke the reader; False if it was nudges alone."""
        said = _POKE
        with suppress(OSError):
            said = self._wake.recv(4096)
        return bool(said.strip(_NUDGE))

    def _dispose(self) -> None:
        # Never unregister here: after a fork the kernel's list is shared, and the parent would hear no more.
        for end in (self._wake, self._poke):
            with suppress(OSError):
                end.close()
        if self._selector is not None:
            with suppress(OSError):
                self._selector.close()


class Pauses:
    """Between attempts to connect: each twice as long as the one before, with jitter."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._next = PAUSE_FIRST_S

    @property
    def patience(self) -> Seconds:
        """How long the next attempt may take."""
        # Nothing wakes whoever connects, and the keeper may hear of the grant meanwhile: the first time briefly.
        return min(CONNECT_S, self._next * CONNECT_PAUSES)

    def next(self) -> Seconds:
        """The pause after a failure."""
        pause = self._next * (0.5 + self._random())
        self._next = min(self._next * 2, PAUSE_MOST_S)
        return pause

    def over(self) -> None:
        """The server has answered."""
        self._next = PAUSE_FIRST_S


class Dialling(Listening, Generic[L]):
    """One that hears over a connection of its own, which is made by the first wait, and anew after a break."""

    def __init__(self, runtime: Runtime, dial: Callable[[Seconds], L]) -> None:
        """Listen to nothing yet.

        Args:
            runtime: time and chance.
            dial: connects within so many seconds; blocks.
        """
        super().__init__()
        self._runtime = runtime
        self._dial = dial
        self._line: L | None = None
        self._pauses = Pauses(runtime.random)
        self._is_refused = False
        """The server answers connections and refuses what is asked on them."""
        self._silent_at = NEVER
        """When the connection is given up; never while nothing is asked for."""

    @abc.abstractmethod
    async def _open(self, dial: Callable[[Seconds], L], timeout: Seconds) -> L:
        """Connect, in a way that lets others run."""

    @abc.abstractmethod
    def _took(self, line: L) -> bool:
        """Take what has come on the connection; True if the caller of `receive` should have a look."""

    def _heard(self, events: Events) -> bool:
        """Take what has come; True if the caller of `receive` should have a look."""
        hint = False
        for key, _ in events:
            if key.fileobj is self._wake:
                hint = self._was_poked() or hint
            elif self._line is not None:
                hint = self._took(self._line) or hint
        return hint

    async def _connect(self, selector: selectors.BaseSelector, until: Instant | None) -> L | None:
        """Connect; None after a failure and a pause: whoever waits looks again."""
        now = self._runtime.now()
        refused, self._is_refused = self._is_refused, False
        try:
            if refused:
                raise StoreUnavailable("what was asked on the last connection was refused")
            most = self._pauses.patience
            line = await self._open(self._dial, most if until is None else min(most, max(0.001, until - now)))
        except (StoreUnavailable, OutcomeUnknown, SetupError):
            pause = self._pauses.next()
            self._heard(await self._ready(selector, pause if until is None else max(0.0, min(pause, until - now))))
            return None
        selector.register(line, selectors.EVENT_READ)
        self._line, self._silent_at = line, NEVER
        return line

    def _drop(self) -> None:
        line, self._line = self._line, None
        self._silent_at = NEVER
        if line is not None:
            if self._selector is not None:
                with suppress(KeyError, ValueError, OSError):
                    self._selector.unregister(line)
            line.close()

    def _dispose(self) -> None:
        super()._dispose()
        if self._line is not None:
            self._line.close()


class ByThread:
    """How a thread waits. Under gevent that is a greenlet."""

    async def _ready(self, selector: selectors.BaseSelector, seconds: Seconds | None) -> Events:
        return selector.select(seconds)

    def _me(self) -> object:
        return threading.get_ident()

    async def _open(self, dial: Callable[[Seconds], L], timeout: Seconds) -> L:
        return dial(timeout)
