"""Redis's protocol, as far as tests speak it: without a client library, whose own faults would be in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import socket

Word = str | bytes | int | float


class ReplyError(Exception):
    """The server answered with an error; its words."""


def command(*words: Word) -> bytes:
    """A command as it is sent."""
    encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    parts = [b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded]
    return b"*%d\r\n%b" % (len(parts), b"".join(parts))


class Connection:
    """One connection, one call after the other."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._file = sock.makefile("rb")

    def call(self, *words: Word) -> Any:
        """Send a command and read its reply."""
        self.send(*words)
        return self.read()

    def send(self, *words: Word) -> None:
        """Send a command without reading."""
        self.sock.sendall(command(*words))

    def read(self) -> Any:
        """Read one reply; an error is raised, inside of an array too."""
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server closed the connection")
        kind, rest = line[:1], line[1:-2].decode()
        if kind == b"-":
            raise ReplyError(rest)
        if kind == b":":
            return int(rest)
        if kind in b"*$" and int(rest) < 0:
            return None
        if kind == b"*":
            return [self.read() for _ in range(int(rest))]
        if kind == b"$":
            return self._file.read(int(rest) + 2)[:-2].decode(errors="surrogateescape")
        assert kind == b"+", f"not RESP2: {line!r}"
        return rest

    def close(self) -> None:
        self._file.close()
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def frame(data: bytes, start: int = 0) -> int:
    """Where the first message of `data[start:]` ends, a command's or a reply's, RESP2 or 3; 0 while it is not whole."""
    eol = data.find(b"\r\n", start) + 2
    if eol < 2:
        return 0
    kind, rest = data[start : start + 1], data[start + 1 : eol - 2]
    if kind in b"$=!":
        end = eol + int(rest) + 2 if int(rest) >= 0 else eol
        return end if end <= len(data) else 0
    if kind in b"*~>%|":
        # An attribute is followed by what it is about.
        parts = {b"%": 2 * int(rest), b"|": 2 * int(rest) + 1}.get(kind, int(rest))
        for _ in range(parts):
            if not (eol := frame(data, eol)):
                return 0
    return eol
