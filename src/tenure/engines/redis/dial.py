"""Connections to the one server that matters: one socket each, no pool, no retries, no health checks.

Promises: `dial` ends within its timeout in a connection that has logged in, or in an error that says what is known and
shows no password; behind sentinels, with a server that called itself the master a moment ago.
Does not promise: that looking up a host's name ends in time (the C library has its own limits); that the master stays
one. After READONLY or a lost connection, dial anew: the master is looked for each time.
"""

from __future__ import annotations

import abc
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from redis import connection as redis_connection
from redis import exceptions

from tenure.engines.address import Address, Tls
from tenure.engines.redis.explain import explain, without_arguments
from tenure.engines.redis.url import CLUSTER, SENTINEL, UNIX
from tenure.engines.tls import context
from tenure.errors import SetupError, StoreUnavailable, UnsafeSetup

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Mapping, Sequence

    from tenure.engines.redis.url import Credentials, RedisUrl
    from tenure.errors import TenureError
    from tenure.model import Seconds

CLIENT_NAME: Final = "tenure"
"""How CLIENT LIST shows our connections."""

_SECRETS: Final = ("password", "ssl_password")


# -- connections ----------------------------------------------------------------------------------------------------


class Link(Protocol):
    """What is used of redis-py's connection once it is made: it owns the socket."""

    @property
    def socket(self) -> socket.socket:
        """Connected, logged in, with nothing left unread; its timeout is any."""
        ...

    def disconnect(self) -> None:
        """Close the socket, in a forked child without a word to the server; harmless if it is closed."""
        ...


class _Timed:
    """Mixed into redis-py's connections: all the steps of connecting end at one instant.

    redis-py gives every address, the TLS handshake and each reply of the login a full timeout of its own.
    """

    until: float = 0.0

    @property
    def socket_timeout(self) -> Seconds | None:
        return max(0.001, self.until - time.monotonic())

    @socket_timeout.setter
    def socket_timeout(self, value: Seconds | None) -> None:
        """redis-py's constructors want to set it."""

    socket_connect_timeout = socket_timeout

    def ask(self, *words: str) -> Any:
        """Send one command and read its reply."""
        self.send_command(*words)
        return cast("Any", self).read_response()

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        """Send a command; redis-py's login goes through here too."""
        cast("Any", self).update_current_socket_timeout(self.socket_timeout)
        cast("Any", super()).send_command(*args, **kwargs)

    def introduce(self) -> None:
        """Log in and give a name."""
        cast("Any", self).on_connect()
        # The name is a courtesy to whoever reads CLIENT LIST; this user may lack the right to give it.
        with suppress(exceptions.ResponseError):
            self.ask("CLIENT", "SETNAME", CLIENT_NAME)

    @property
    def socket(self) -> socket.socket:
        # redis-py has no public way to its socket; its subclasses have this one.
        found: socket.socket | None = cast("Any", self)._get_socket()  # noqa: SLF001
        if found is None:
            raise exceptions.ConnectionError("the connection is closed")
        return found


class _Tcp(_Timed, redis_connection.Connection):
    """A TCP connection."""


class _Tls(_Timed, redis_connection.SSLConnection):
    """A TLS connection as redis-py guards it, which makes a context of its own for each."""


class _Guarded(_Tls):
    """A TLS connection with a context that others share."""

    context: ssl.SSLContext

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> ssl.SSLSocket:
        return self.context.wrap_socket(sock, server_hostname=self.host)


class _Unix(_Timed, redis_connection.UnixDomainSocketConnection):
    """A connection through a Unix socket."""


class Access:
    """Who connects, and how guarded: the same for every server of a kind. Immutable; shared by threads."""

    __slots__ = ("_db", "_options", "_tls")

    def __init__(self, options: Mapping[str, Any], *, db: int = 0, tls: Tls | bool = False) -> None:
        """Note it.

        Args:
            options: what redis-py's connections take.
            db: the database's number.
            tls: how connections are guarded, or that they are, by redis-py's own options.
        """
        self._options = {name: value for name, value in options.items() if value is not None}
        self._db = db
        self._tls = tls

    @property
    def has_password(self) -> bool:
        """Whether a password is sent at login."""
        return bool(self._options.get("password") or self._options.get("credential_provider"))

    def node(self, host: str, port: int) -> Dialer:
        """A dialer of this server, with the same login and guard."""
        return Standalone(self, Address(host, port))

    def shown(self, where: Address | str) -> str:
        """A server for people to read."""
        if isinstance(where, str):
            return f"redis+unix://{where}?db={self._db}"
        return f"{'rediss' if self._tls else 'redis'}://{where}/{self._db}"

    def open(self, where: Address | str, until: float) -> Any:
        """Connect and log in.

        Args:
            where: an address, or the path of a Unix socket.
            until: give up at this reading of the monotonic clock.

        Raises:
            StoreUnavailable, UnsafeSetup, IncompatibleStore: nothing was asked.
        """
        shown = self.shown(where)
        guard = context(self._tls) if isinstance(self._tls, Tls) else None
        try:
            connection = self._made(where, guard)
            connection.until = until
            try:
                connection.connect()
            except BaseException:
                connection.disconnect()  # redis-py lets go after its own errors only
                raise
        except Exception as error:
            self._redact(error)
            raise explain(error, sent=False, at=shown) from error
        return connection

    def _made(self, where: Address | str, guard: ssl.SSLContext | None) -> Any:
        # No driver_info: it costs two requests, to tell the server which library this is.
        more: dict[str, Any] = {"db": self._db, "driver_info": None, "redis_connect_func": _Timed.introduce}
        if isinstance(where, str):
            return cast("Any", _Unix)(path=where, **self._options, **more)
        if guard is None:
            return cast("Any", _Tls if self._tls else _Tcp)(host=where.host, port=where.port, **self._options, **more)
        guarded = cast("Any", _Guarded)(host=where.host, port=where.port, **self._options, **more)
        guarded.context = guard
        return guarded

    def _redact(self, error: BaseException | None) -> None:
        """Strike secrets out of an error and its causes: a server may repeat what it did not understand."""
        given = [self._options[name] for name in _SECRETS if self._options.get(name)]
        secrets = [word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word) for word in given]
        while error is not None:
            said = str(error)
            # Cut off, not struck out: a long secret comes back in part, and a credential provider's is not known here.
            text = without_arguments(said)
            for secret in secrets:
                text = text.replace(secret, "***")
            if text != said:
                error.args = (text,)
            error = error.__cause__ or error.__context__


# -- dialers --------------------------------------------------------------------------------------------------------


class Dialer(abc.ABC):
    """Makes connections to the server that holds the locks. Shared by threads."""

    shown: str
    """Where it connects to, for people; no secrets."""
    access: Access
    """How it logs in to that server."""

    @abc.abstractmethod
    def dial(self, timeout: Seconds) -> Link:
        """Connect and log in, in the calling thread.

        Raises:
            StoreUnavailable, UnsafeSetup, IncompatibleStore: nothing was asked.
        """


class Standalone(Dialer):
    """One server at one address."""

    def __init__(self, access: Access, where: Address | str) -> None:
        self.access = access
        self._where = where
        self.shown = access.shown(where)

    def dial(self, timeout: Seconds) -> Link:
        found: Link = self.access.open(self._where, time.monotonic() + timeout)
        return found


class Watched(Dialer):
    """The master of a service that sentinels watch.

    Source: "Guidelines for Redis clients with support for Redis Sentinel", redis.io: ask the sentinels in turn,
    connect, check with ROLE, and ask again at every reconnection.
    """

    def __init__(self, access: Access, sentinels: Sequence[Address], service: str, sentinel_access: Access) -> None:
        self.access = access
        self._service = service
        self._sentinel_access = sentinel_access
        # Threads may replace it at the same time; each value is whole, and any of them will do.
        self._sentinels = tuple(sentinels)
        self.shown = f"master {service!r} of {', '.join(map(str, sentinels))}"

    def dial(self, timeout: Seconds) -> Link:
        until = time.monotonic() + timeout
        sentinels = self._sentinels
        problems: list[TenureError] = []
        refused: set[Address] = set()
        for place, sentinel in enumerate(sentinels):
            left = len(sentinels) - place
            try:
                # A sentinel that is silent leaves the others their part of the time.
                master = self._ask(sentinel, share(until, left))
                if master in refused:
                    continue
                # So does one that names a dead master; but several that name the same one may well be right, and it
                # slow: then it is tried again with the time that is left.
                connection = self._connect(master, share(until, min(left, 2)), refused)
            except (StoreUnavailable, SetupError) as error:
                problems.append(error)
                continue
            self._sentinels = (sentinel, *(other for other in sentinels if other != sentinel))
            return connection
        text = f"no {self.shown} was found: {'; '.join(map(str, problems))}"
        never = all(isinstance(error, SetupError) for error in problems)
        raise (UnsafeSetup if never else StoreUnavailable)(text) from problems[0]

    def _ask(self, sentinel: Address, until: float) -> Address:
        """The master, as one sentinel knows it."""
        connection = self._sentinel_access.open(sentinel, until)
        try:
            answer = connection.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        except (exceptions.RedisError, OSError) as error:
            raise explain(error, sent=False, at=f"sentinel {sentinel}") from error
        finally:
            connection.disconnect()
        if answer is None:
            raise UnsafeSetup(f"sentinel {sentinel} knows no service {self._service!r}")
        host, port = answer
        return Address(host.decode(), int(port))

    def _connect(self, master: Address, until: float, refused: set[Address]) -> Link:
        """Connect to a server that says of itself that it is a master; one that will never let us in is noted."""
        try:
            connection = self.access.open(master, until)
        except SetupError:
            refused.add(master)
            raise
        shown = self.access.shown(master)
        try:
            role = connection.ask("ROLE")[0]
            if role != b"master":
                raise StoreUnavailable(f"{shown} is no master (any more); a fail-over may be under way")
        except exceptions.NoPermissionError:
            pass  # this user may not ask; READONLY will tell
        except BaseException as error:
            connection.disconnect()
            if isinstance(error, exceptions.RedisError | OSError):
                raise explain(error, sent=False, at=shown) from error
            raise
        found: Link = connection
        return found


def share(until: float, among: int) -> float:
    """When the first of several must be done, so that the others have their part of the time until `until`."""
    now = time.monotonic()
    return now + (until - now) / among


def access(url: RedisUrl) -> Access:
    """The login and the guard that a URL gives for the servers that hold the locks; no I/O."""
    return Access(_options(url, url.login), db=url.db, tls=url.tls or False)


def dialer(url: RedisUrl) -> Dialer:
    """The dialer of a URL's server; no I/O.

    Raises:
        ValueError: a cluster has no one server; use `access(url).node(host, port)`.
    """
    if url.kind == CLUSTER:
        raise ValueError("a cluster has no one server")
    if url.kind == UNIX:
        return Standalone(access(url), cast("str", url.path))
    if url.kind == SENTINEL:
        sentinel_access = Access(_options(url, url.sentinel_login), tls=url.tls or False)
        return Watched(access(url), url.hosts, cast("str", url.service), sentinel_access)
    return Standalone(access(url), url.hosts[0])


def _options(url: RedisUrl, login: Credentials) -> dict[str, Any]:
    return {"username": login.username, "password": login.password, "protocol": url.protocol}
