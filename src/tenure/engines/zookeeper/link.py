"""One ZooKeeper session, over one connection after another, kept by one thread.

Promises: requests go out in order and are answered in order; a request that was not sent has certainly had no effect; a
session that is over stays over, and never is another opened in its place. Requests are written by whoever asks; answers
and watches are taken by the thread, an original one also under gevent, so that neither a busy loop nor a busy greenlet
holds them up.
Does not promise to keep the session alive: nothing is sent that nobody asked for. A ping would prove nothing (C3), and
whoever holds something writes. A session of which nobody asks anything is closed after its timeout.
"""

from __future__ import annotations

import random
import socket
import ssl
import struct
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tenure.engines.zookeeper import jute
from tenure.engines.zookeeper.dial import Expired
from tenure.engines.zookeeper.wire import WANT, Batch, Watch
from tenure.errors import OutcomeUnknown, SetupError, StoreUnavailable
from tenure.model import Instant
from tenure.observe.log import logger
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenure.engines.address import Address
    from tenure.engines.zookeeper.dial import Dialer
    from tenure.model import Seconds

PAUSE_FIRST_S: Final = 0.02
PAUSE_MOST_S: Final = 1.0
"""Seconds between rounds over the servers, with jitter."""

DIAL_LEAST_S: Final = 0.5
DIAL_MOST_S: Final = 5.0
"""Seconds that one server has for connecting: the least at first, twice as much after each that was mute, up to a sixth
of the session's timeout and to the most. A server that starts may take a connection and never say a word on it: the
next one is answered."""

GOODBYE_S: Final = 1.0
"""Seconds that a server has to answer the last request."""

_RESET: Final = struct.pack("ii", 1, 0)


class Link:
    """One session. `on_event` and `on_return` (connected anew: watches are gone) are called in its thread."""

    def __init__(self, dialer: Dialer, timeout: Seconds) -> None:
        """Begin to connect; `timeout` is asked for, and `timeout` is what was granted once `first` is set."""
        self.timeout = timeout
        self.linger: Seconds | None = None
        """How long it may idle before it is closed; None for its timeout."""
        self.first: Instant | None = None
        """Before the request that opened it."""
        self.session = 0
        self.on_event: Callable[[jute.Event], None] = lambda _: None
        self.on_return: Callable[[], None] = lambda: None
        self.over = ""
        """Why it is over; empty while it is not."""
        self._dialer = dialer
        self._asked_ms = max(1, round(timeout * 1000))
        self._known: jute.Connected | None = None
        self._seen = 0
        self._mutex = native.mutex()
        self._socket: socket.socket | None = None
        self._since = Instant(0.0)
        self._queue: deque[Batch] = deque()
        self._pending: deque[tuple[int, jute.Request, Batch]] = deque()
        self._out = bytearray()
        self._in = bytearray()
        self._xid = 0
        self._broken = ""
        self._trouble = "no server was reached yet"
        self._is_closing = False
        self._give_up_at = Instant(float("inf"))
        self._chores: dict[str, Instant] = {}
        self._proof = self._used = native.now()
        hosts = list(dialer.url.hosts)
        # Of its own: a program that seeds the module's must not find its numbers disturbed by another thread.
        self._random = random.Random()  # noqa: S311 - jitter
        self._random.shuffle(hosts)
        self._hosts = hosts
        self._wake, self._poke = socket.socketpair()
        self._wake.setblocking(False)
        self._poke.setblocking(False)
        native.start_thread(self._run)

    # -- for callers, in any thread ---------------------------------------------------------------------------------

    def submit(self, batch: Batch) -> None:
        """Send requests now, or as soon as there is a connection. Never waits."""
        with self._mutex:
            is_over = bool(self.over)
            if not is_over:
                self._used = native.now()
                if self._socket is not None and not self._broken:
                    self._send(batch)
                else:
                    self._queue.append(batch)
        if is_over:
            batch.finish(Expired(self.over))

    def give_up(self, batch: Batch, seconds: Seconds) -> None:
        """Nobody waits for it any more. What was not sent is not sent; a server that is mute is left."""
        with self._mutex:
            if batch.is_done:
                return
            error: Exception
            if batch.sent is None:
                with suppress(ValueError):
                    self._queue.remove(batch)
                error = StoreUnavailable(f"no connection within {seconds:.3g} s: {self._trouble}")
            else:
                self._broken = f"no answer within {seconds:.3g} s"
                error = OutcomeUnknown(f"ZooKeeper gave {self._broken}")
        batch.finish(error)
        self._nudge()

    def keep(self) -> bool:
        """Let it idle for its whole timeout. False if it is too late for that."""
        with self._mutex:
            self.linger = None
            self._used = native.now()
            return not self.over and not self._is_closing

    def remove_later(self, path: str, at: Instant) -> None:
        """Delete a node at an instant; until then the session is kept."""
        with self._mutex:
            self._chores[path] = at
        self._nudge()

    @property
    def is_leaving(self) -> bool:
        """Whether it is over, or about to be."""
        return bool(self.over) or self._is_closing

    @property
    def has_chores(self) -> bool:
        """Whether nodes wait for their deletion."""
        return bool(self._chores)

    def close(self) -> None:
        """End the session after what was asked before; its nodes go. Never waits.

        Without a connection it is tried for a second; then the servers end it by its timeout.
        """
        self._give_up_at = min(self._give_up_at, Instant(native.now() + GOODBYE_S))
        self._is_closing = True
        self._nudge()

    def disown(self) -> None:
        """In a forked child: let go of the parent's connection without a word."""
        for end in (self._socket, self._wake, self._poke):
            if end is not None:
                with suppress(OSError):
                    end.close()

    def _nudge(self) -> None:
        with suppress(OSError):
            self._poke.send(b"!")

    # -- sending, under the mutex -----------------------------------------------------------------------------------

    def _send(self, batch: Batch) -> None:
        entries, payload, xid = [], b"", self._xid
        for request in batch.requests:
            xid = xid % 0x7FFFFFFF + 1
            entries.append((xid, request, batch))
            payload += jute.frame(xid, request)
        was_empty = not self._out
        batch.sent, batch.since = native.now(), self._since
        # No call from here to the end: Ctrl-C comes after calls, and must not come between these.
        self._xid = xid
        self._out += payload
        self._pending += entries
        if was_empty:
            self._flush()
            if self._out or self._broken:
                self._nudge()

    def _flush(self) -> None:
        if self._socket is None:
            return
        try:
            while self._out:
                sent = self._socket.send(self._out)
                del self._out[:sent]
        except WANT:
            return
        except OSError as error:
            self._broken = f"the connection broke: {error}"
        except BaseException:
            # Ctrl-C: nobody knows what was sent, and nothing may be sent twice.
            self._out.clear()
            self._broken = "a request was interrupted"
            self._nudge()
            raise

    # -- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self.over:
                if self._connect():
                    self._serve()
            self._see_off()
        except BaseException as error:  # noqa: BLE001 - it is the end of this thread, and is logged
            logger().critical("a session with ZooKeeper failed", exc_info=True)
            self._end(f"it failed: {error!r}")
        finally:
            self.disown()

    def _end(self, why: str, error: Exception | None = None) -> None:
        """It is over: tell whoever waits."""
        with self._mutex:
            self.over = self.over or why
            queue, self._queue = list(self._queue), deque()
        for batch in queue:
            batch.finish(Expired(why) if error is None else type(error)(*error.args))

    def _connect(self) -> bool:
        """One round over the servers; False if it was in vain."""
        patience = self._dial_s
        for _ in range(len(self._hosts)):
            if native.now() >= self._proof + self.timeout and self._known is not None:
                self._end("no server was reached within its timeout")
                return False
            if self._is_closing and (self._known is None or native.now() >= self._give_up_at):
                self._end("it was closed")
                return False
            address = self._hosts.pop(0)
            self._hosts.append(address)
            try:
                self._open(address)
            except StoreUnavailable as error:
                self._trouble = str(error)
            except SetupError as error:
                if self._known is None:
                    self._end(str(error), error)
                    return False
                self._trouble = str(error)
            except Expired:
                self._end("the servers have ended it")
                return False
            else:
                return True
        if self._known is None and self._dial_s == patience:
            # Nothing was ever asked, and nobody was mute that could have longer: whoever waits may be told at once.
            self._end(self._trouble, StoreUnavailable(f"no server opened a session; {self._trouble}"))
            return False
        self._pause = min(PAUSE_MOST_S, self._pause * 2)
        Watch(self._wake).wait(self._pause * (0.5 + self._random.random()))
        return False

    _pause = PAUSE_FIRST_S
    _dial_s = DIAL_LEAST_S

    def _open(self, address: Address) -> None:
        try:
            dialled = self._dialer.dial(address, self._dial_s, self._asked_ms, self._known, self._seen)
        except StoreUnavailable as error:
            if isinstance(error.__cause__, TimeoutError):
                self._dial_s = min(DIAL_MOST_S, max(DIAL_LEAST_S, self.timeout / 6), self._dial_s * 2)
            raise
        is_return = self._known is not None
        self._known, self._seen = dialled.connected, dialled.seen
        self._pause, self._dial_s = PAUSE_FIRST_S, DIAL_LEAST_S
        self._in.clear()
        with self._mutex:
            self.session = dialled.connected.session
            self.timeout = dialled.connected.timeout_ms / 1000
            self._proof = self._since = dialled.sent
            if self.first is None:
                self.first = dialled.sent
            self._broken = ""
            self._out.clear()
            self._socket = dialled.socket
            while self._queue:
                self._send(self._queue.popleft())
        if is_return:
            self._call(self.on_return)

    def _serve(self) -> None:
        """Take answers until the connection is lost, or the session is over."""
        sock = self._socket
        if sock is None:
            return
        watch = Watch(self._wake, sock)
        said_goodbye: Instant | None = None
        while True:
            now = native.now()
            if said_goodbye is not None and now >= said_goodbye + GOODBYE_S:
                self._broken = "it was closed"
            elif said_goodbye is None and self._is_due(now):
                said_goodbye = now
                self._say(jute.CLOSING)
            if self._chores:
                self._do_chores(now)
            watch.wait(self._patience(now), wants_write=bool(self._out))
            messages = self._received(sock)
            for message in messages:
                self._take(message)
            if self._pending and not messages and self._is_mute():
                self._broken = self._broken or "a request was not answered"
            if self._broken:
                self._drop(self._broken)
                if said_goodbye is not None:
                    self._end("it was closed")
                return

    def _say(self, request: jute.Request) -> None:
        batch = Batch([request], lambda: None)
        with self._mutex:
            self._send(batch)

    def _is_due(self, now: Instant) -> bool:
        """Whether it is time to end the session."""
        if now < self._used + self._idle and not self._is_closing:
            return False
        with self._mutex:
            if self._chores:
                return False
            self._is_closing = self._is_closing or (not self._pending and now >= self._used + self._idle)
            return self._is_closing

    def _do_chores(self, now: Instant) -> None:
        for path, at in list(self._chores.items()):
            if now >= at:
                # Until it is answered, lest a lost request leaves the name closed: in a second again.
                self._chores[path] = Instant(now + 1.0)
                batch = Batch([jute.delete(path)], lambda: None)
                batch._done = lambda path=path, batch=batch: self._did(path, batch)  # type: ignore[misc]  # noqa: SLF001
                with self._mutex:
                    self._send(batch)

    def _did(self, path: str, batch: Batch) -> None:
        if batch.error is None:
            with self._mutex:
                self._chores.pop(path, None)
                self._used = native.now()

    def _patience(self, now: Instant) -> Seconds:
        """How long to wait for something to happen."""
        due = self._used + self._idle
        if self._pending:
            due = min(due, (self._pending[0][2].sent or now) + self.timeout / 3)
        if self._chores:
            due = min(due, *list(self._chores.values()))
        # In slices: a timer sleeps through suspend.
        return min(1.0, max(0.001, due - now))

    @property
    def _idle(self) -> Seconds:
        return self.timeout if self.linger is None else self.linger

    def _is_mute(self) -> bool:
        oldest = self._pending[0][2].sent
        return oldest is not None and native.now() > oldest + self.timeout / 3

    def _received(self, sock: socket.socket) -> list[bytes]:
        with self._mutex:
            if self._out:
                self._flush()
            try:
                while True:
                    part = sock.recv(1 << 16)
                    if not part:
                        self._broken = self._broken or "the server hung up"
                        break
                    self._in += part
                    if len(part) < 1 << 16 and not isinstance(sock, ssl.SSLSocket):
                        break
            except WANT:
                pass
            except OSError as error:
                self._broken = self._broken or f"the connection broke: {error}"
        return jute.frames(self._in) if self._in else []

    def _take(self, data: bytes) -> None:
        xid, seen, code = jute.header(data)
        if xid == jute.WATCH_XID:
            event = jute.event(data)
            self._call(lambda: self.on_event(event))
            return
        if xid < 0 or not self._pending or self._pending[0][0] != xid:
            self._broken = f"an answer came out of turn ({xid})"
            return
        _, request, batch = self._pending.popleft()
        self._seen = max(self._seen, seen)
        if code in (jute.SESSION_EXPIRED, jute.SESSION_MOVED, jute.CONNECTION_LOSS):
            # Whether it is over for good is found out by connecting anew.
            self._broken = f"the server refused a request of this session ({code})"
            batch.finish(OutcomeUnknown(f"ZooKeeper: {self._broken}"))
            return
        self._proof = max(self._proof, batch.sent or self._proof)
        batch.answers.append(jute.answer(request, data, code))
        if len(batch.answers) == len(batch.requests):
            # It idles from here: whoever waited long for this, as for the first connection, is about to ask on.
            self._used = native.now()
            self._call(batch.finish)

    def _call(self, what: Callable[[], object]) -> None:
        try:
            what()
        except Exception:  # noqa: BLE001 - it must not end the session, and is logged
            logger().exception("a session with ZooKeeper: %r failed", what)

    def _drop(self, why: str) -> None:
        """Give the connection up: whatever was under way may or may not have had its effect."""
        with self._mutex:
            sock, self._socket = self._socket, None
            pending, self._pending = self._pending, deque()
            self._trouble = why
        if sock is not None:
            with suppress(OSError):
                # With a reset: what the server has not read yet is thrown away there (B1).
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            with suppress(OSError):
                sock.close()
        for _, _, batch in pending:
            self._call(lambda batch=batch: batch.finish(OutcomeUnknown(f"ZooKeeper: {why}")))  # type: ignore[misc]

    def _see_off(self) -> None:
        """Over for us, perhaps not for servers that were without a quorum: what it holds there would block others."""
        if self._known is None or self.over != "no server was reached within its timeout" or self._chores:
            return
        end = native.now() + 2 * self.timeout
        while native.now() < min(end, self._give_up_at):
            for address in self._hosts:
                with suppress(StoreUnavailable, SetupError):
                    try:
                        self._open(address)
                    except Expired:
                        return
                    self._is_closing = True
                    self._serve()
                    return
            Watch(self._wake).wait(PAUSE_MOST_S / 2)
