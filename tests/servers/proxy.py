"""A network that fails on demand: a TCP proxy between a client and a server, in a thread of the test's process.

Two things hold whatever is asked. A connection that lost bytes in one direction never delivers another one there: TCP
loses the rest of a stream, never its middle. And what is held includes the end of the stream: while a network is cut,
nobody learns that the other side has gone.

Not modelled: a connection attempt that is never answered (the kernel accepts for us; what follows is held), full
buffers (all that is sent is read at once and kept), reordering.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from enum import Enum
from typing import Any, Literal, Self, TypeVar

from tests.servers.processes import HOST, PATIENCE, port_of, reserve_port

T = TypeVar("T")

Direction = Literal["requests", "replies"]
BOTH: tuple[Direction, ...] = ("requests", "replies")

Frame = Callable[[bytes, int], int]
"""Where the first message after a start ends, 0 while it is not whole; such as `resp.frame`."""

RST = struct.pack("ii", 1, 0)
"""For SO_LINGER: close with a reset, not with an end."""


class _Mode(Enum):
    FLOW = "flow"
    HOLD = "hold"
    DROP = "drop"


class _Stream:
    """One direction of one connection.

    Attributes:
        waiting: what was read and not yet written, each part with the instant before which it may not be; an empty
            part is the end of the stream.
        is_broken: bytes were lost; no more are delivered.
        count: of whole messages so far, if the proxy knows the protocol.
    """

    def __init__(self, source: socket.socket, sink: socket.socket, direction: Direction) -> None:
        self.source = source
        self.sink = sink
        self.direction = direction
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.part = b""
        self.has_ended = False
        self.was_reset = False
        self.is_done = False
        self.is_broken = False
        self.count = 0


class _Link:
    """A client's connection and the one made for it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.streams: dict[Direction, _Stream] = {
            "requests": _Stream(client, server, "requests"),
            "replies": _Stream(server, client, "replies"),
        }
        self.sockets = (client, server)
        self.swallowed: set[int] = set()
        """Numbers of the replies that the client must not see."""


class Proxy:
    """Forwards to a server, until told otherwise.

    Args:
        target: whom new connections are made to; may be set anew at any time.
        frame: the protocol's message boundaries; needed by `duplicate` only. With it, whole messages are forwarded.

    Attributes:
        address, host, port: where clients connect; the port stays the same while it refuses.
        passed, dropped: bytes by direction, ever.
    """

    def __init__(self, target: tuple[str, int], *, frame: Frame | None = None) -> None:
        self.target = target
        self.passed: dict[Direction, int] = dict.fromkeys(BOTH, 0)
        self.dropped: dict[Direction, int] = dict.fromkeys(BOTH, 0)
        self._frame = frame
        self._modes = dict.fromkeys(BOTH, _Mode.FLOW)
        self._delays_s: dict[Direction, float] = dict.fromkeys(BOTH, 0.0)
        self._twice = False
        self._links: set[_Link] = set()
        self._holder = reserve_port()
        self.host, self.port = HOST, port_of(self._holder)
        self._listener: socket.socket | None = None
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._orders: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._ending = False
        # Every change is made in this thread, by an order: nothing here needs a lock.
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return self._order(lambda: len(self._links))

    def held(self, direction: Direction) -> int:
        """How many bytes were read and not yet written."""
        return self._order(
            lambda: sum(len(data) for link in self._links for _, data in link.streams[direction].waiting)
        )

    def cut(self, how: Literal["rst", "fin"] = "rst") -> int:
        """Close all connections, by a reset or by an end of the stream, to both sides; how many.

        New ones are accepted. What was held is lost.
        """
        return self._order(lambda: self._cut(how))

    def refuse(self) -> None:
        """Refuse new connections; those there are stay."""
        self._order(self._unlisten)

    def accept(self) -> None:
        """Accept connections again."""
        self._order(self._listen)

    def hold(self, *directions: Direction) -> None:
        """From now on, keep back what is sent in these directions, or in both: a network that is cut."""
        self._order(lambda: self._modes.update(dict.fromkeys(directions or BOTH, _Mode.HOLD)))

    def drop(self, *directions: Direction) -> None:
        """From now on, lose what is sent in these directions, or in both, with what is held there."""

        def change() -> None:
            self._modes.update(dict.fromkeys(directions or BOTH, _Mode.DROP))
            self._forget(directions or BOTH)

        self._order(change)

    def forget(self) -> None:
        """Lose what is held; what comes after is still held. Those connections are dead in that direction."""
        self._order(lambda: self._forget(BOTH))

    def let_go(self) -> None:
        """Let everything pass again, what was held first; a direction that lost bytes stays dead."""
        self._order(lambda: self._modes.update(dict.fromkeys(BOTH, _Mode.FLOW)))

    def delay(self, seconds: float, *directions: Direction) -> None:
        """Deliver what is sent from now on so much later, in these directions or in both."""
        self._order(lambda: self._delays_s.update(dict.fromkeys(directions or BOTH, seconds)))

    def duplicate(self) -> None:
        """Deliver the next request twice, and keep the second reply from the client.

        As when a client sends again what it believes was lost. The server must answer one reply to a request, in
        order: no pushes, no subscriptions on that connection.
        """
        assert self._frame is not None, "a proxy that knows no messages cannot tell one from the next"

        def change() -> None:
            self._twice = True

        self._order(change)

    def heal(self) -> None:
        """Accept, pass, do not delay: a network without faults."""

        def change() -> None:
            self._listen()
            self._modes.update(dict.fromkeys(BOTH, _Mode.FLOW))
            self._delays_s.update(dict.fromkeys(BOTH, 0.0))
            self._twice = False

        self._order(change)

    def close(self) -> None:
        """Reset all connections and give back the port."""
        if self._thread.is_alive():
            self._order(self._end)
            self._thread.join(PATIENCE)
        for each in (self._wake, self._woken, self._holder, self._selector):
            each.close()

    def __enter__(self) -> Self:
        self._selector.register(self._woken, selectors.EVENT_READ, self._obey)
        self._thread.start()
        self._order(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Everything below runs in the proxy's thread, but for `_order`.

    def _order(self, what: Callable[[], T]) -> T:
        """Have something done in the proxy's thread, and return what it says."""
        done: Future[T] = Future()
        self._orders.append((what, done))
        self._wake.send(b"!")
        return done.result(PATIENCE)

    def _obey(self) -> None:
        self._woken.recv(4096)
        while self._orders:
            what, done = self._orders.popleft()
            try:
                done.set_result(what())
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever gave the order
                done.set_exception(error)

    def _run(self) -> None:
        while not self._ending:
            for key, _ in self._selector.select(self._deliver()):
                # Another event of the same round may have closed it.
                if key.fd in self._selector.get_map():
                    key.data()

    def _end(self) -> None:
        self._ending = True
        self._unlisten()
        self._cut("rst")

    def _listen(self) -> None:
        if self._listener is None:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(self.address)
            listener.listen()
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, self._welcome)
            self._listener = listener

    def _unlisten(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _welcome(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        try:
            # Blocking is fine: on one host the kernel answers at once, for a stopped server as well.
            server = socket.create_connection(self.target, 5)
        except OSError:
            _reset(client)
            return
        link = _Link(client, server)
        self._links.add(link)
        for stream in link.streams.values():
            stream.source.setblocking(False)
            # Else the kernel waits for more to send along, and a test measures that.
            stream.source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(stream.source, selectors.EVENT_READ, self._reader(link, stream))

    def _reader(self, link: _Link, stream: _Stream) -> Callable[[], None]:
        def read() -> None:
            try:
                data = stream.source.recv(1 << 18)
            except BlockingIOError:
                return
            except OSError:
                data, stream.was_reset = b"", True
            if not data:
                stream.has_ended = True
                self._selector.unregister(stream.source)
            self._take(link, stream, data)

        return read

    def _take(self, link: _Link, stream: _Stream, data: bytes) -> None:
        """Queue what was read, or lose it."""
        if stream.is_broken or self._modes[stream.direction] is _Mode.DROP:
            stream.is_broken = True
            self.dropped[stream.direction] += len(data)
            return
        due = time.monotonic() + self._delays_s[stream.direction]
        if data and self._frame is not None:
            data = self._whole(link, stream, data, self._frame)
            if not data:
                return
        stream.waiting.append((due, data))

    def _whole(self, link: _Link, stream: _Stream, data: bytes, frame: Frame) -> bytes:
        """The whole messages that are there now, one of them twice, or without one."""
        data, start = stream.part + data, 0
        out: list[bytes] = []
        while end := frame(data, start) if start < len(data) else 0:
            message, start = data[start:end], end
            if stream.direction == "replies" and stream.count in link.swallowed:
                link.swallowed.discard(stream.count)
            else:
                out.append(message)
            stream.count += 1
            if stream.direction == "requests" and self._twice:
                self._twice = False
                link.swallowed.add(stream.count)
                stream.count += 1
                out.append(message)
        stream.part = data[start:]
        return b"".join(out)

    def _deliver(self) -> float | None:
        """Write all that may be written; how many seconds until there is more, None for nothing in sight."""
        now = time.monotonic()
        soonest: float | None = None
        for link in list(self._links):
            for stream in link.streams.values():
                self._write(link, stream, now)
                if stream.waiting and self._modes[stream.direction] is not _Mode.HOLD and link in self._links:
                    # A full buffer is looked at again a little later.
                    wait = max(stream.waiting[0][0] - now, 0.001)
                    soonest = wait if soonest is None else min(soonest, wait)
            if all(stream.is_done or (stream.is_broken and stream.has_ended) for stream in link.streams.values()):
                self._drop_link(link, reset=False)
        return soonest

    def _write(self, link: _Link, stream: _Stream, now: float) -> None:
        while stream.waiting and stream.waiting[0][0] <= now and self._modes[stream.direction] is not _Mode.HOLD:
            due, data = stream.waiting.popleft()
            try:
                if data:
                    sent = stream.sink.send(data)
                    self.passed[stream.direction] += sent
                    if sent < len(data):
                        stream.waiting.appendleft((due, data[sent:]))
                elif stream.was_reset:
                    self._drop_link(link, reset=True)
                else:
                    stream.is_done = True
                    stream.sink.shutdown(socket.SHUT_WR)
            except BlockingIOError:
                stream.waiting.appendleft((due, data))
                return
            except OSError:
                self._drop_link(link, reset=True)
                return

    def _forget(self, directions: tuple[Direction, ...]) -> None:
        for link in self._links:
            for direction in directions:
                stream = link.streams[direction]
                lost = sum(len(data) for _, data in stream.waiting) + len(stream.part)
                if stream.waiting or stream.part:
                    stream.is_broken = True
                    self.dropped[direction] += lost
                    stream.waiting.clear()
                    stream.part = b""

    def _cut(self, how: Literal["rst", "fin"]) -> int:
        cut = list(self._links)
        for link in cut:
            if how == "rst":
                self._drop_link(link, reset=True)
                continue
            for stream in link.streams.values():
                # Read on until they end too: closing a socket with something unread in it sends a reset.
                stream.is_broken = True
                stream.waiting.clear()
                with suppress(OSError):
                    stream.sink.shutdown(socket.SHUT_WR)
        return len(cut)

    def _drop_link(self, link: _Link, *, reset: bool) -> None:
        if link not in self._links:
            return
        self._links.remove(link)
        for each in link.sockets:
            with suppress(KeyError):
                self._selector.unregister(each)
            if reset:
                _reset(each)
            else:
                each.close()


def _reset(each: socket.socket) -> None:
    with suppress(OSError):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
    each.close()
