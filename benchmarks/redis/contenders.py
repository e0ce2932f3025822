"""Ours, the peers and the bound on a Redis server, behind the interface of `benchmarks.contenders`.

Every peer has its own defaults and a ttl of 10 s. Only what would end a wait early is changed: the socket's timeout.

The packages are imported here, before the fleet is forked: importing redis-py takes a tenth of a second of CPU.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

import hiredis
import redis
import redis_lock

# Imported by the first use of a client, which in a fleet is that of each process.
import tenure.engines.redis.dial
import tenure.engines.redis.life
import tenure.engines.redis.store
import tenure.engines.redis.transport_blocking  # noqa: F401 - for the reason above
from benchmarks.contenders import NAME, Nobody, Tenure, Worker
from tenure.engines.redis.scripts import command, script
from tenure.engines.redis.store import FORMAT, HASH
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.contenders import Contender
    from tests.servers.redis import RedisServer

BOUND: Final = "bare BLPOP"
PEER: Final = "python-redis-lock"
SLEEPER: Final = "redis-py Lock"

TTL: Final = 10


class PythonRedisLock:
    """python-redis-lock: SET NX, and BLPOP when that fails; one client per process."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url, socket_timeout=None)
        # It must be StrictRedis by name; redis-py keeps that name. The first cycle connects and loads the scripts.
        _warm(PythonRedisLockWorker(self._client, "warm"))

    def worker(self) -> Worker:
        """A lock object of its own: one can be held once."""
        return PythonRedisLockWorker(self._client, NAME)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class PythonRedisLockWorker:
    """One lock object."""

    def __init__(self, client: redis.Redis, name: str) -> None:
        lock = redis_lock.Lock(client, name, expire=TTL)
        self.enter, self.leave = lock.acquire, lock.release


class RedisPy:
    """redis-py's own Lock, which asks every 100 ms; one client per process."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        _warm(RedisPyWorker(self._client, "warm"))

    def worker(self) -> Worker:
        """A lock object of its own."""
        return RedisPyWorker(self._client, NAME)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class RedisPyWorker:
    """One lock object."""

    def __init__(self, client: redis.Redis, name: str) -> None:
        lock = client.lock(name, timeout=TTL)
        self.enter, self.leave = lock.acquire, lock.release


class Bare:
    """The bound: tenure's own enter and close scripts, and BLPOP, over plain sockets, and nothing else.

    No lock: no keeper renews, no ledger knows what is held, and an error or a break ends it.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        _warm(BareWorker(address, "warm"))

    def worker(self) -> Worker:
        """A session of its own, with two connections."""
        return BareWorker(self._address, NAME)

    def close(self) -> None:
        """The end of the process closes the connections."""


class BareWorker:
    """One session."""

    _TAG = "{tenure:0}:"
    _TTL_US = 600_000_000

    def __init__(self, address: tuple[str, int], name: str) -> None:
        self._requests, self._mail = _Line(address), _Line(address)
        self._name = name
        self._session, box = native.new_id(), native.new_id()
        self._key = f"{self._TAG}genesis"
        self._listen = command(("BLPOP", f"{self._TAG}m:{box}", 0))
        self._claim = 0
        self._number = b""
        genesis = self._requests.ask(
            command((*script("genesis").by_text, 1, self._key, FORMAT, native.new_id(), 1, HASH))
        )
        self._id = genesis[1].decode()
        # The first of each, by text: it makes the script known, and opens the session.
        card = (box, "", "", 0)
        entered = self._requests.ask(command((*script("enter").by_text, 1, self._key, *self._entry("warm", 1), *card)))
        assert entered[0] in (b"holds", b"waits"), entered
        closing = (self._session, self._claim, "warm", entered[1].decode(), "01", self._TTL_US)
        self._requests.ask(command((*script("close").by_text, 1, self._key, 1, self._id, *closing)))
        self._enter, self._close = (script(step).by_hash for step in ("enter", "close"))

    def _entry(self, name: str, opening: int) -> tuple[str | int, ...]:
        self._claim += 1
        flags = f"{opening}000"
        return (1, self._id, self._session, self._TTL_US, flags, self._claim, name, "e 1 1 0", "")

    def enter(self) -> None:
        """Enter the queue, and wait for the grant if the reply is not it."""
        reply = self._requests.ask(command((*self._enter, 1, self._key, *self._entry(self._name, 0))))
        self._number = reply[1]
        while reply[0] != b"holds":
            assert reply[0] == b"waits", reply
            _, session, claim, number, _ = self._mail.ask(self._listen)[1].split(b" ")
            if int(number) and int(claim) == self._claim and session.decode() == self._session:
                return

    def leave(self) -> None:
        """Leave the queue."""
        closing = (self._session, self._claim, self._name, self._number, "01", self._TTL_US)
        self._requests.ask(command((*self._close, 1, self._key, 1, self._id, *closing)))


class _Line:
    """One connection."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(None)
        self._reader = hiredis.Reader()

    def ask(self, payload: bytes) -> Any:
        """Send a command and wait for its reply."""
        self._socket.sendall(payload)
        while True:
            chunk = self._socket.recv(65_536)
            assert chunk, "the server has closed the connection"
            self._reader.feed(chunk)
            reply = self._reader.gets()
            if reply is not False:
                if isinstance(reply, hiredis.HiredisError):
                    raise reply
                return reply


def _warm(worker: Worker) -> None:
    worker.enter()
    worker.leave()


def makers(server: RedisServer) -> dict[str, Callable[[Path], Contender]]:
    """All of them, for one server; the folder is of no use to them."""
    url, address = server.url, server.address
    return {
        "tenure": lambda folder: Tenure(folder, url),
        PEER: lambda _: PythonRedisLock(url),
        SLEEPER: lambda _: RedisPy(url),
        BOUND: lambda _: Bare(address),
        "sections alone": Nobody,
    }
