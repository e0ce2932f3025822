"""The mailbox: one stream of watches over a connection of its own, which is made by the first wait.

Promises: a waiter is woken by the end of a key that blocks it, or by what happens to its own session, and by nothing
else, so that a hand-over costs the same however many wait; whoever saw a key before its watch began looks again, also
after a break, so that no end is missed.
Does not promise that a wake-up means a grant: whoever wakes asks the store (C4).
"""

from __future__ import annotations

import abc
import selectors
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from tenure.engines.etcd.messages import WATCH, read_watched, unwatch, watch
from tenure.engines.etcd.pipe import UNAUTHENTICATED
from tenure.engines.etcd.watches import Wanted, from_address
from tenure.errors import OutcomeUnknown, SetupError, StoreUnavailable, UsageError
from tenure.model import Instant
from tenure.ports import Message
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenure.engines.etcd.dial import Dialer
    from tenure.engines.etcd.keys import Keys
    from tenure.engines.etcd.pipe import Pipe
    from tenure.engines.etcd.watches import Waiter, Watches
    from tenure.model import Seconds
    from tenure.ports import Peer, Runtime

PING_S: Final = 10.0
"""Seconds of silence after which the server is asked whether it is there. It throws out who asks every five."""

SILENCE_S: Final = 5.0
"""Seconds that it has to answer."""

CONNECT_S: Final = 5.0
"""Seconds that one attempt to connect may take."""

CONNECT_PAUSES: Final = 25
"""How many times the pause that would follow, if that is less: half a second, then twice that, and so on."""

PAUSE_FIRST_S: Final = 0.02
PAUSE_MOST_S: Final = 1.0
"""Seconds between attempts to connect, with jitter."""

_SLICE_S: Final = 1.0
_BRIEFLY_S: Final = 0.02
_NEVER: Final = Instant(float("inf"))
_POKE: Final = b"\a"
_WORK: Final = b"w"


class EtcdMailbox(abc.ABC):
    """As `ports.Mailbox`, but for how one waits."""

    def __init__(self, dialer: Dialer, keys: Keys, watches: Watches, runtime: Runtime) -> None:
        self.overflowed = False
        self._dialer = dialer
        self._keys = keys
        self._watches = watches
        self._runtime = runtime
        self._pipe: Pipe | None = None
        self._stream = 0
        """That of the watches; 0 until the first is asked for."""
        self._unsent = b""
        self._last_id = 0
        self._asked: dict[bytes, int] = {}
        self._ids: dict[int, bytes] = {}
        self._heard_at = Instant(0.0)
        self._silent_at = _NEVER
        """When the connection is given up; never while nothing is asked for."""
        self._messages: list[Message] = []
        self._pause = PAUSE_FIRST_S
        self._is_refused = False
        """The node answers connections and ends the watches."""
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

    def _connect_to_node(self, timeout: Seconds) -> Pipe:
        return self._dialer.dial(timeout)

    # -- the port ---------------------------------------------------------------------------------------------------

    def watch(self, peers: Sequence[Peer]) -> bool:
        found = [from_address(peer.address) for peer in peers]
        if found:
            waiter = found[0][0]
            # Also its own session: a steal is written there, and it ends there.
            own = Wanted(self._keys.session(waiter.session), found[0][1].revision, puts=True)
            asks, late = self._watches.set(waiter, [own, *(wanted for _, wanted in found)])
            if asks and self._reader is not None and self._reader != self._me():
                # Whoever reads asks for it, and reads on.
                self._nudge(_WORK)
            if late:
                return False
        return not self._is_closed

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
                if self._pipe is None and not self._watches.is_empty and not await self._connect(selector, until):
                    break
                self._ask()
                left = self._left(until)
                if left <= 0 or self._heard(await self._ready(selector, left)):
                    break
        finally:
            self._leave(reader)
        messages, self._messages = self._messages, []
        return messages

    def poke(self) -> None:
        """As `ports.Mailbox.poke`; also from finalizers and signal handlers, also after `close`. Never raises."""
        self._nudge(_POKE)

    def _nudge(self, byte: bytes) -> None:
        with suppress(OSError):
            self._poke.send(byte)

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
        """Connect; False after a failure and a pause: whoever waits looks again."""
        now = self._runtime.now()
        refused, self._is_refused = self._is_refused, False
        try:
            if refused:
                raise StoreUnavailable("the watches on the last connection were refused")
            # Nothing wakes whoever connects: the first time briefly.
            most = min(CONNECT_S, self._pause * CONNECT_PAUSES)
            pipe = await self._open(most if until is None else min(most, max(0.001, until - now)))
        except (StoreUnavailable, OutcomeUnknown, SetupError):
            pause = self._pause * (0.5 + self._runtime.random())
            self._pause = min(self._pause * 2, PAUSE_MOST_S)
            self._heard(await self._ready(selector, pause if until is None else max(0.0, min(pause, until - now))))
            return False
        pipe.unblock()
        selector.register(pipe, selectors.EVENT_READ)
        self._pipe, self._stream = pipe, 0
        self._heard_at, self._silent_at = self._runtime.now(), _NEVER
        self._asked, self._ids, self._unsent = {}, {}, b""
        for wanted in self._watches.everything():
            self._ask_for(pipe, wanted)
        return True

    def _ask(self) -> None:
        """Tell the server what is watched from now on, and what no longer."""
        pipe = self._pipe
        if pipe is None:
            return
        for key, wanted in self._watches.changes():
            asked = self._asked.pop(key, 0)
            if asked:
                self._ids.pop(asked, None)
                pipe.http2.send(self._stream, unwatch(asked))
            if wanted is not None:
                self._ask_for(pipe, wanted)
        self._send(pipe)

    def _ask_for(self, pipe: Pipe, wanted: Wanted) -> None:
        self._last_id += 1
        self._asked[wanted.key], self._ids[self._last_id] = self._last_id, wanted.key
        request = watch(self._last_id, wanted.key, puts=wanted.puts)
        if self._stream:
            pipe.http2.send(self._stream, request)
        else:
            self._stream = pipe.http2.request(WATCH, request, token=self._dialer.token, more=True)

    def _send(self, pipe: Pipe) -> None:
        payload = self._unsent + pipe.http2.take()
        if payload:
            try:
                self._unsent = pipe.send(payload)
            except OSError:
                self._drop()

    def _left(self, until: Instant | None) -> Seconds:
        """Ask whether the server is there, if it was silent for long; how long to wait in one go."""
        now = self._runtime.now()
        if self._pipe is not None and now >= self._silent_at:
            self._dialer.avoid(self._pipe.address)
            self._drop()
            return 0.0
        if self._pipe is not None and self._silent_at is _NEVER and now >= self._heard_at + PING_S:
            self._pipe.http2.ping()
            self._send(self._pipe)
            self._silent_at = Instant(now + SILENCE_S)
        # In slices: a timer sleeps through suspend.
        most = _BRIEFLY_S if self._unsent else _SLICE_S
        return min(most, most if until is None else until - now)

    def _heard(self, events: Sequence[tuple[Any, int]]) -> bool:
        """Take what has come; True if the caller of `receive` should have a look."""
        hint = False
        for key, _ in events:
            if key.fileobj is self._wake:
                with suppress(OSError):
                    hint = _POKE in self._wake.recv(4096) or hint
            elif self._pipe is not None:
                hint = self._took(self._pipe) or hint
        return hint

    def _took(self, pipe: Pipe) -> bool:
        try:
            answers = pipe.take()
            self._send(pipe)
            self._heard_at, self._silent_at = self._runtime.now(), _NEVER
            for answer in answers:
                for message in answer.messages:
                    self._pause = PAUSE_FIRST_S
                    self._watched(message)
                if answer.status is not None:
                    # No leader, no right, an old token: whatever it is, it is asked again elsewhere, with pauses.
                    if answer.status == UNAUTHENTICATED:
                        self._dialer.forget_token(self._dialer.token)
                    raise OSError(answer.text)
        except (OSError, ValueError):
            self._dialer.avoid(pipe.address)
            self._drop()
            self._is_refused = True
            return True
        return False

    def _watched(self, raw: bytes) -> None:
        said = read_watched(raw)
        if said.created and not said.canceled:
            key = self._ids.get(said.watch_id)
            if key is not None:
                self._hint(self._watches.began(key, said.revision))
        fired = set(said.events)
        if said.canceled:
            key = self._ids.pop(said.watch_id, None)
            if key is not None:
                self._asked.pop(key, None)
                fired.add(key)
        for key in fired:
            self._hint(self._watches.fire(key))

    def _hint(self, waiters: Sequence[Waiter]) -> None:
        self._messages += [Message(waiter.session, waiter.claim, 0, 0) for waiter in waiters]

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
