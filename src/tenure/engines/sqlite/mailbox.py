"""The mailbox: datagrams to this client's socket, and the ends of the neighbours in front.

Promises: a message that was taken from the socket is returned by this `receive` or the next one, also when a signal
handler or a cancellation interrupts; the end of a watched neighbour ends the wait.
Does not promise: that anything comes. Where a neighbour cannot be heard, or this client has no sockets, `receive`
returns empty-handed every so often (`DEAF_S`, `MUTE_S`), so that the caller looks: bounded polling.
"""

from __future__ import annotations

import os
import selectors
import weakref
from contextlib import suppress
from itertools import repeat
from typing import TYPE_CHECKING, Final, cast

from tenure.engines.listening import SLICE_S, ByThread, Listening
from tenure.engines.mail import PAYLOAD_MAX, decode
from tenure.engines.sqlite.endpoint import Silence, connect
from tenure.model import Instant

if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Sequence

    from tenure.engines.listening import Events
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

_MAIL: Final = "\0mail"


class SqliteMailbox(Listening):
    """Hears its own mail, and the pulses of its neighbours; what came is kept as it came."""

    def __init__(self, endpoint: Endpoint, now: Callable[[], Instant]) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._now = now
        self._peers: dict[str, _socket.socket] = {}
        self._absent: dict[str, None] = {}
        self._deaf_until = Instant(0.0)
        self._deaf_pause = DYING_S
        _mailboxes.add(self)

    def watch(self, peers: Sequence[Peer]) -> bool:
        """As `ports.Mailbox.watch`; no system call for a neighbour that is listened to already.

        False only once for each address: an address that nobody listens at may be that of a living client without
        sockets, so the second time `receive` polls instead. Whoever asks again after a False cannot spin.
        """
        heard = True
        with self._mutex:
            if self._is_closed:
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

    def _begin(self, selector: selectors.BaseSelector) -> None:
        if self._endpoint.mail is not None:
            selector.register(self._endpoint.mail, selectors.EVENT_READ, _MAIL)
        for address, sock in self._peers.items():
            selector.register(sock, selectors.EVENT_READ, address)

    async def _turn(self, selector: selectors.BaseSelector, until: Instant | None) -> bool:
        left = None if until is None else min(max(0.0, until - self._now()), SLICE_S)
        if self._heard(await self._ready(selector, left)):
            return True
        return until is not None and self._now() >= until

    def _heard(self, events: Events) -> bool:
        """Take what the events announce; True if the caller of `receive` should have a look."""
        hint = False
        for key, _ in events:
            if key.data == _MAIL:
                hint = self._drain() or hint
            elif key.fileobj is self._wake:
                hint = self._was_poked() or hint
            else:
                # Nobody writes there: readable means that the neighbour has ended, or cannot keep the connection.
                with self._mutex:
                    self._forget(cast("_socket.socket", key.fileobj))
                hint = True
        return hint

    def _drain(self) -> bool:
        mail = self._endpoint.mail
        before = len(self._came)
        if mail is not None:
            # One call into C takes datagrams off the socket *and* keeps them: Python code between the two is where a
            # KeyboardInterrupt would lose one.
            try:  # noqa: SIM105 - suppress() costs as much again, between a wake-up and its return
                self._came.extend(map(mail.recv, repeat(PAYLOAD_MAX + 1, 64)))
            except OSError:
                pass
        came = len(self._came) - before
        if came >= OVERFLOW:
            self.overflowed = True
        return came > 0

    def _taken(self) -> list[Message]:
        # What is not understood is a hint only.
        count = len(self._came)
        messages = [message for message in map(decode, self._came) if message is not None]
        del self._came[:count]
        return messages

    def _bound(self, until: Instant | None) -> Instant | None:
        now = self._now()
        if self._endpoint.mail is None:
            return Instant(now + MUTE_S) if until is None else min(until, Instant(now + MUTE_S))
        if now < self._deaf_until:
            pause = self._deaf_pause = min(self._deaf_pause, DEAF_S)
            self._deaf_pause = pause * 2
            return Instant(now + pause) if until is None else min(until, Instant(now + pause))
        return until

    def _dispose(self) -> None:
        for sock in self._peers.values():
            with suppress(OSError):
                sock.close()
        self._peers.clear()
        super()._dispose()


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


class BlockingMailbox(ByThread, SqliteMailbox):
    """The mailbox for waiting threads."""


_mailboxes: weakref.WeakSet[SqliteMailbox] = weakref.WeakSet()


def _after_fork() -> None:
    for mailbox in list(_mailboxes):
        mailbox.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
