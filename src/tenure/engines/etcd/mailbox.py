"""The mailbox: one stream of watches over a connection of its own, which is made by the first wait.

Promises: a waiter is woken by the end of a key that blocks it, or by what happens to its own session, and by nothing
else, so that a hand-over costs the same however many wait; whoever saw a key before its watch began looks again, also
after a break, so that no end is missed.
Does not promise that a wake-up means a grant: whoever wakes asks the store (C4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenure.engines.etcd.messages import WATCH, read_watched, unwatch, watch
from tenure.engines.etcd.pipe import UNAUTHENTICATED
from tenure.engines.etcd.watches import Wanted, from_address
from tenure.engines.listening import NEVER, SILENCE_S, SLICE_S, Dialling
from tenure.model import Instant
from tenure.ports import Message

if TYPE_CHECKING:
    import selectors
    from collections.abc import Sequence

    from tenure.engines.etcd.dial import Dialer
    from tenure.engines.etcd.keys import Keys
    from tenure.engines.etcd.pipe import Pipe
    from tenure.engines.etcd.watches import Waiter, Watches
    from tenure.model import Seconds
    from tenure.ports import Peer, Runtime

PING_S: Final = 10.0
"""Seconds of silence after which the server is asked whether it is there. It throws out who asks every five."""

TOLD_MOST: Final = 100
"""Watches whose key is gone that are left on a stream: ended one by one, they would cost two messages a turn."""

_BRIEFLY_S: Final = 0.02


class EtcdMailbox(Dialling["Pipe"]):
    """As `ports.Mailbox`, but for how one waits."""

    def __init__(self, dialer: Dialer, keys: Keys, watches: Watches, runtime: Runtime) -> None:
        super().__init__(runtime, dialer.dial)
        self._dialer = dialer
        self._keys = keys
        self._watches = watches
        self._stream = 0
        """That of the watches; 0 until the first is asked for."""
        self._unsent = b""
        self._last_id = 0
        self._asked: dict[bytes, int] = {}
        self._ids: dict[int, bytes] = {}
        self._told = 0
        """How many of these have told the end of their key."""
        self._heard_at = Instant(0.0)

    def watch(self, peers: Sequence[Peer]) -> bool:
        found = [from_address(peer.address) for peer in peers]
        if found:
            waiter = found[0][0]
            # Also its own session: a steal is written there, and it ends there.
            own = Wanted(self._keys.session(waiter.session), found[0][1].revision, puts=True)
            asks, late = self._watches.set(waiter, [own, *(wanted for _, wanted in found)])
            if asks and self._reader is not None and self._reader != self._me():
                # Whoever reads asks for it, and reads on.
                self._nudge()
            if late:
                return False
        return not self._is_closed

    async def _turn(self, selector: selectors.BaseSelector, until: Instant | None) -> bool:
        if self._line is None and not self._watches.is_empty:
            pipe = await self._connect(selector, until)
            if pipe is None:
                return True
            pipe.unblock()
            self._unsent, self._heard_at = b"", self._runtime.now()
            self._begin_watches(pipe)
        self._ask()
        left = self._left(until)
        return left <= 0 or self._heard(await self._ready(selector, left))

    # -- the connection ---------------------------------------------------------------------------------------------

    def _begin_watches(self, pipe: Pipe) -> None:
        """Ask for everything on a stream of its own."""
        self._stream, self._told = 0, 0
        self._asked, self._ids = {}, {}
        for wanted in self._watches.everything():
            self._ask_for(pipe, wanted)

    def _ask(self) -> None:
        """Tell the server what is watched from now on, and what no longer."""
        pipe = self._line
        if pipe is None:
            return
        if self._told >= TOLD_MOST and not pipe.http2.is_spent:
            pipe.http2.cancel(self._stream)
            self._begin_watches(pipe)
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
        if self._line is not None and now >= self._silent_at:
            self._dialer.avoid(self._line.address)
            self._drop()
            return 0.0
        if self._line is not None and self._silent_at is NEVER and now >= self._heard_at + PING_S:
            self._line.http2.ping()
            self._send(self._line)
            self._silent_at = Instant(now + SILENCE_S)
        # In slices: a timer sleeps through suspend.
        most = _BRIEFLY_S if self._unsent else SLICE_S
        late_at = self._watches.late_at()
        if late_at is not None:
            if now >= late_at:
                self._hint(self._watches.late(now))
                return 0.0
            most = min(most, late_at - now)
        return min(most, most if until is None else until - now)

    def _took(self, line: Pipe) -> bool:
        try:
            answers = line.take()
            self._send(line)
            self._heard_at, self._silent_at = self._runtime.now(), NEVER
            for answer in answers:
                for message in answer.messages:
                    self._pauses.over()
                    self._watched(message)
                if answer.status is not None:
                    # No leader, no right, an old token: whatever it is, it is asked again elsewhere, with pauses.
                    if answer.status == UNAUTHENTICATED:
                        self._dialer.forget_token(self._dialer.token)
                    raise OSError(answer.text)
        except (OSError, ValueError):
            self._dialer.avoid(line.address)
            self._drop()
            self._is_refused = True
            return True
        return False

    def _watched(self, raw: bytes) -> None:
        said = read_watched(raw)
        if said.created and not said.canceled:
            key = self._ids.get(said.watch_id)
            if key is not None:
                self._hint(self._watches.began(key, said.revision, self._heard_at))
        fired = set(said.events)
        self._told += len(fired)
        if said.canceled:
            key = self._ids.pop(said.watch_id, None)
            if key is not None:
                self._asked.pop(key, None)
                fired.add(key)
        for key in fired:
            self._hint(self._watches.fire(key))

    def _hint(self, waiters: Sequence[Waiter]) -> None:
        self._came += [Message(waiter.session, waiter.claim, 0, 0) for waiter in waiters]
