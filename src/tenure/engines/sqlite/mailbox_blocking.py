"""The mailbox for waiting threads, and `Ears`, what it shares with the mailbox for tasks.

Promises: a message that was taken from the socket is returned by this `receive` or the next one, also when a signal
handler or a cancellation interrupts; the end of a watched neighbour ends the wait.
Does not promise: that anything comes. Where a neighbour cannot be heard, or this client has no sockets, `receive`
returns empty-handed every so often (`DEAF_S`, `MUTE_S`), so that the caller looks: bounded polling.
"""

from __future__ import annotations

import _socket
import os
import selectors
import threading
import weakref
from contextlib import suppress
from itertools import repeat
from typing import TYPE_CHECKING, Final, cast

from tenure.engines.mail import PAYLOAD_MAX, decode
from tenure.engines.sqlite.endpoint import Silence, connect
from tenure.errors import UsageError
from tenure.model import Instant
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tenure.engines.sqlite.endpoint import Endpoint
    from tenure.ports import Message, Peer

PEERS_MAX: Final = 64
"""Neighbours that one mailbox listens to at a time; the nearest in the queue come first."""

OVERFLOW: Final = 5
"""So many messages in one go, and some may not have found room: the socket holds 11 (rule B4)."""

DEAF_S: Final = 0.25
"""Seconds between looks while a neighbour that blocks us cannot be heard; grants are heard all the same."""

DYING_S: Final = 0.002
"""Seconds until the first of these looks; from there to `DEAF_S` each waits twice as long as the one before. The kernel
closes a dying process's pulse before or after its presence file, so that one look may come too early by a moment."""

MUTE_S: Final = 0.05
"""Seconds between looks where this client has no mail socket."""

_SLICE_S: Final = 1.0
_MAIL: Final = "\0mail"
_WAKE: Final = "\0wake"


class Ears:
    """What a mailbox listens to: its own mail, pokes, and the pulses of its neighbours.

    Attributes:
        overflowed: set when many messages came in one go; whoever lists the grants then clears it.
    """

    def __init__(self, endpoint: Endpoint, now: Callable[[], Instant]) -> None:
        self.overflowed = False
        self._endpoint = endpoint
        self._now = now
        self._pid = os.getpid()
        self._mutex = native.mutex()
        self._raw: list[bytes] = []
        self._peers: dict[str, _socket.socket] = {}
        self._absent: dict[str, None] = {}
        self._deaf_until = Instant(0.0)
        self._deaf_pause = DYING_S
        self._reader: object = None
        self._closed = False
        self._selector: selectors.BaseSelector | None = None
        # A pair of sockets, not a pipe: a poke by a late finalizer then meets a closed object, and never the number of
        # a descriptor that is somebody else's by now.
        self._wake, self._poke = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self._wake.setblocking(False)
        self._poke.setblocking(False)
        _ears.add(self)

    def watch(self, peers: Sequence[Peer]) -> bool:
        """As `ports.Mailbox.watch`; no system call for a neighbour that is listened to already.

        False only once for each address: an address that nobody listens at may be that of a living client without
        sockets, so the second time `receive` polls instead. Whoever asks again after a False cannot spin.
        """
        heard = True
        with self._mutex:
            if self._closed:
                return False
            for index, peer in enumerate(peers):
                if peer.address == self._endpoint.address:
                    continue
                if index >= PEERS_MAX:
                    self._deaf_until = max(self._deaf_until, peer.due)
                elif peer.address in self._peers:
                    self._peers[peer.address] = self._peers.pop(peer.address)
                else:
                    heard = self._listen(peer) and heard
        return heard

    def poke(self) -> None:
        """As `ports.Mailbox.poke`; also from finalizers and signal handlers, also after `close`. Never raises."""
        with suppress(OSError):
            self._poke.send(b"\a")

    def close(self) -> None:
        """Stop listening; a `receive` in progress returns. The endpoint stays open. May be repeated."""
        with self._mutex:
            self._closed = True
            if self._reader is None:
                self._dispose()
        self.poke()

    def disown(self) -> None:
        """In a forked child: close every descriptor. The parent's selector is shared, so nothing is unregistered."""
        self._closed = True
        self._mutex = native.mutex()
        self._dispose()

    def _listen(self, peer: Peer) -> bool:
        sock = connect(self._endpoint.home, peer.address) if peer.address else Silence.NOBODY
        if isinstance(sock, Silence):
            first = sock is Silence.NOBODY and peer.address not in self._absent and peer.address != ""
            if first:
                while len(self._absent) >= 4 * PEERS_MAX:
                    del self._absent[next(iter(self._absent))]
                self._absent[peer.address] = None
                self._deaf_pause = DYING_S
            else:
                self._deaf_until = max(self._deaf_until, peer.due)
                if self._reader is not None:
                    self.poke()
            return not first
        while len(self._peers) >= PEERS_MAX:
            _, oldest = next(iter(self._peers.items()))
            self._forget(oldest)
        if self._selector is not None:
            _register(self._selector, sock, peer.address)
            if self._reader is not None and not hasattr(self._selector, "fileno"):
                # epoll and kqueue notice a newcomer while somebody waits in them; others must begin anew.
                self.poke()
        self._peers[peer.address] = sock
        return True

    def _forget(self, sock: _socket.socket) -> None:
        # By socket, not by address: after an interrupted `_listen` there may be one that only the selector knows.
        try:
            if self._selector is not None:
                with suppress(KeyError, ValueError, OSError):
                    self._selector.unregister(sock)
        finally:
            for address in [address for address, known in self._peers.items() if known is sock]:
                del self._peers[address]
            sock.close()

    def _enter(self, reader: object) -> selectors.BaseSelector:
        """Begin a receive: one reader at a time. A reader that comes again has left, however it was interrupted."""
        with self._mutex:
            if self._reader is not None and self._reader != reader:
                raise UsageError("receive: this mailbox has a reader already; nothing was taken")
            if self._closed:
                raise UsageError("receive: this mailbox is closed")
            if self._selector is None:
                # Made late and looked up by name, so that a patched module's selector lets other greenlets run.
                # Kept only when complete: an interrupt in the middle must not leave one that hears half.
                selector = selectors.DefaultSelector()
                selector.register(self._wake, selectors.EVENT_READ, _WAKE)
                if self._endpoint.mail is not None:
                    selector.register(self._endpoint.mail, selectors.EVENT_READ, _MAIL)
                for address, sock in self._peers.items():
                    selector.register(sock, selectors.EVENT_READ, address)
                self._selector = selector
            self._reader = reader
            return self._selector

    def _leave(self, reader: object) -> None:
        with self._mutex:
            if self._reader == reader:
                self._reader = None
                if self._closed:
                    self._dispose()

    def _hear(self, events: Sequence[tuple[selectors.SelectorKey, int]]) -> bool:
        """Take what the events announce; True if the caller of `receive` should have a look."""
        hint = False
        for key, _ in events:
            if key.data == _MAIL:
                hint = self._drain() or hint
            elif key.data == _WAKE:
                with suppress(OSError):
                    self._wake.recv(4096)
                hint = True
            else:
                # Nobody writes there: readable means that the neighbour has ended, or cannot keep the connection.
                with self._mutex:
                    self._forget(cast("_socket.socket", key.fileobj))
                hint = True
        return hint

    def _drain(self) -> bool:
        mail = self._endpoint.mail
        before = len(self._raw)
        if mail is not None:
            # One call into C takes datagrams off the socket *and* keeps them: Python code between the two is where a
            # KeyboardInterrupt would lose one.
            try:  # noqa: SIM105 - suppress() costs as much again, between a wake-up and its return
                self._raw.extend(map(mail.recv, repeat(PAYLOAD_MAX + 1, 64)))
            except OSError:
                pass
        came = len(self._raw) - before
        if came >= OVERFLOW:
            self.overflowed = True
        return came > 0

    def _taken(self) -> list[Message]:
        """Hand over what was drained; what is not understood is a hint only."""
        count = len(self._raw)
        messages = [message for message in map(decode, self._raw) if message is not None]
        del self._raw[:count]
        return messages

    def _patience(self, until: Instant | None) -> tuple[Instant | None, float | None]:
        """When to return in any case, and how long to wait in one go, in seconds (None: for ever)."""
        now = self._now()
        if self._endpoint.mail is None:
            until = Instant(now + MUTE_S) if until is None else min(until, Instant(now + MUTE_S))
        elif now < self._deaf_until:
            pause = self._deaf_pause = min(self._deaf_pause, DEAF_S)
            self._deaf_pause = pause * 2
            until = Instant(now + pause) if until is None else min(until, Instant(now + pause))
        # A timer sleeps through suspend, so a wait to an instant is cut into slices.
        return until, None if until is None else min(max(0.0, until - now), _SLICE_S)

    def _dispose(self) -> None:
        # Never unregister here: after a fork the kernel's list is shared, and the parent would hear no more.
        for sock in (*self._peers.values(), self._wake, self._poke):
            with suppress(OSError):
                sock.close()
        self._peers.clear()
        if self._selector is not None:
            with suppress(OSError):
                self._selector.close()


def _register(selector: selectors.BaseSelector, sock: _socket.socket, address: str) -> None:
    """Register a connection wholly or not at all, whatever line an interrupt hits.

    The danger is a descriptor that the kernel reports and the selector does not know: the wait would turn in circles.
    """
    try:
        with suppress(KeyError):
            # What an interrupted `_forget` may have left under this descriptor's number.
            selector.unregister(sock)
        selector.register(sock, selectors.EVENT_READ, address)
    except BaseException:
        with suppress(KeyError, ValueError, OSError):
            selector.unregister(sock)
        # Closing is what takes it out of the kernel's list in any case.
        sock.close()
        raise


class BlockingMailbox(Ears):
    """The mailbox for waiting threads."""

    async def receive(self, until: Instant | None) -> list[Message]:
        """As `ports.Mailbox.receive`.

        Raises:
            UsageError: another thread is receiving, or the mailbox is closed; no message was taken.

        An exception of a signal handler passes through; what had come is kept for the next call.
        """
        # Under gevent this is the greenlet's. A KeyboardInterrupt may hit any line, so entering is inside the try.
        reader = threading.get_ident()
        try:
            selector = self._enter(reader)
            until, left = self._patience(until)
            while not self._raw:
                if self._hear(selector.select(left)):
                    break
                if until is not None:
                    left = min(until - self._now(), _SLICE_S)
                    if left <= 0:
                        break
        finally:
            self._leave(reader)
        return self._taken()


_ears: weakref.WeakSet[Ears] = weakref.WeakSet()


def _after_fork() -> None:
    for ears in list(_ears):
        ears.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
