"""What a Redis URL means: which servers, as whom, and how guarded.

Promises: a URL is understood as a whole or refused with `UsageError`; nothing is looked up or connected here, and
redis-py is not imported. No message repeats what stood in the URL, but for the name of an unknown option: a password
with an unescaped character can end up in any other part.
Does not promise: redis-py's reading. A host must be named, each option is given once, and none is ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tenure.arguments import quoted
from tenure.engines.address import (
    TLS_OPTIONS,
    Address,
    Tls,
    addresses,
    decoded,
    number,
    options,
    parts,
    plain,
    split,
    tls,
    whole,
)
from tenure.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMS: Final = (
    "allowed are redis://[user:password@]host[:port][/db], redis+unix:///path[?db=0], "
    "redis+sentinel://host,host/SERVICE[/db] and redis+cluster://host,host; with TLS rediss, but for redis+unix"
)

SERVER_PORT: Final = 6379
SENTINEL_PORT: Final = 26379
DB_MOST: Final = 2**31 - 1
PARTITIONS_MOST: Final = 1024

TCP: Final = "tcp"
UNIX: Final = "unix"
SENTINEL: Final = "sentinel"
CLUSTER: Final = "cluster"

NAME: Final = "{name}"
"""Where the name stands in the template of a plain key."""

PLAIN_KEY_MOST: Final = 200
"""Bytes of such a template."""

REPLICAS_MOST: Final = 100
"""Of which an acknowledgement may be wanted."""

_CHOICES: Final = ("plain_key", "acknowledge")
_CLUSTER_CHOICES: Final = ("acknowledge", "partitions", "plain_key")  # the last one to be told why not
"""Options that a client object is given beside it; all others it says itself."""

_OPTIONS: Final = {
    TCP: ("db", "protocol", *_CHOICES),
    UNIX: ("db", "protocol", *_CHOICES),
    SENTINEL: ("db", "protocol", *_CHOICES, "sentinel_username", "sentinel_password"),
    CLUSTER: ("db", "protocol", *_CLUSTER_CHOICES),
}
_URL: Final = parts(r"redis(?P<tls>s?)(?:\+(?P<kind>unix|sentinel|cluster))?")


class Credentials(NamedTuple):
    """Who logs in; None for whatever was not given. Its repr never shows the password."""

    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        shown = None if self.password is None else "***"
        return f"Credentials(username={self.username!r}, password={shown!r})"


class Choices(NamedTuple):
    """What locks are like, whichever way the server is reached.

    Attributes:
        partitions: over how many slots of a cluster the names are spread; None for the engine's choice.
        plain_key: what the plain keys look like that are taken beside the queues, with `{name}` in it; empty for what
            is in force.
        acknowledge: how many replicas must have a grant before it is handed out.
    """

    partitions: int | None = None
    plain_key: str = ""
    acknowledge: int = 0


class RedisUrl(NamedTuple):
    """A parsed URL. Its repr never shows a password.

    Attributes:
        kind: TCP, UNIX, SENTINEL or CLUSTER.
        hosts: the server, or the sentinels, or some nodes of the cluster; empty for UNIX.
        path: the socket, for UNIX; else None.
        service: what the sentinels call the master; else None.
        login: for the servers that hold the locks.
        sentinel_login: for the sentinels.
        tls: None for plain connections.
        protocol: the version of RESP; 2 needs no request to be agreed on.
        choices: what the locks are like.
    """

    kind: str
    hosts: tuple[Address, ...] = ()
    path: str | None = None
    service: str | None = None
    db: int = 0
    login: Credentials = Credentials()
    sentinel_login: Credentials = Credentials()
    tls: Tls | None = None
    protocol: int = 2
    choices: Choices = Choices()

    @property
    def shown(self) -> str:
        """The URL for people: no login, no options."""
        scheme = "rediss" if self.tls else "redis"
        hosts = ",".join(map(str, self.hosts))
        if self.kind == UNIX:
            return f"redis+unix://{self.path}?db={self.db}"
        if self.kind == SENTINEL:
            return f"{scheme}+sentinel://{hosts}/{self.service}/{self.db}"
        if self.kind == CLUSTER:
            return f"{scheme}+cluster://{hosts}"
        return f"{scheme}://{hosts}/{self.db}"


def parse(url: str) -> RedisUrl:
    """Say which servers a URL means.

    Args:
        url: one of `FORMS`; the login, the service and the values of options are percent-decoded once.

    Raises:
        UsageError: the URL is none of these; nothing was touched.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise UsageError(f"url: it names none of Redis's schemes; {FORMS}")
    kind = (match["kind"] or TCP).lower()
    if kind == UNIX and match["tls"]:
        raise UsageError("url: a Unix socket has no TLS; write redis+unix://")
    login, hosts = split(match)
    path, service, place = _path(match["path"] if kind == UNIX else plain(match["path"]), kind)
    given = options(match["query"], _OPTIONS[kind] + (TLS_OPTIONS if match["tls"] else ()))
    if place and "db" in given:
        raise UsageError("url: the database is given twice, in the path and as option db")
    db = number("the database", place or given.get("db", "0"), 0, DB_MOST)
    if kind == CLUSTER and db:
        raise UsageError("url: a cluster has database 0 only")
    return RedisUrl(
        kind,
        _addresses(hosts, kind),
        path,
        service,
        db,
        Credentials() if login is None else _login(login),
        Credentials(given.get("sentinel_username"), given.get("sentinel_password")),
        tls(given) if match["tls"] else None,
        number("option protocol", given.get("protocol", "2"), 2, 3),
        _choices(given, kind, "url: option"),
    )


def choices(given: Mapping[str, str], kind: str) -> Choices:
    """What is chosen beside a client object, of a server or of a cluster.

    Raises:
        UsageError: an option is unknown or wrong.
    """
    allowed = _CLUSTER_CHOICES if kind == CLUSTER else _CHOICES
    for name in given:
        if name not in allowed:
            raise UsageError(f"options: unknown option {quoted(name)}; allowed here are {', '.join(allowed)}")
    return _choices(given, kind, "options:")


def _choices(given: Mapping[str, str], kind: str, said: str) -> Choices:
    partitions = given.get("partitions")
    return Choices(
        None if partitions is None else whole(f"{said} partitions", partitions, 1, PARTITIONS_MOST),
        _template(given.get("plain_key", ""), kind, said),
        whole(f"{said} acknowledge", given.get("acknowledge", "0"), 0, REPLICAS_MOST),
    )


def _login(userinfo: str) -> Credentials:
    username, _, password = userinfo.partition(":")
    if not username and not password:
        raise UsageError("url: the part before @ is empty; leave out the @, or write user:password@")
    return Credentials(
        decoded(username, "the user's name") if username else None,
        decoded(password, "the password") if password else None,
    )


def _addresses(hosts: str, kind: str) -> tuple[Address, ...]:
    if kind == UNIX:
        if hosts:
            raise UsageError("url: a Unix socket has no host (its path needs three slashes: redis+unix:///path)")
        return ()
    found = addresses(hosts, SENTINEL_PORT if kind == SENTINEL else SERVER_PORT, FORMS)
    if kind == TCP and len(found) > 1:
        raise UsageError("url: several hosts need redis+sentinel:// or redis+cluster://")
    return found


def _path(quoted: str, kind: str) -> tuple[str | None, str | None, str]:
    """The socket, the service and the database's number, as far as a path says them."""
    if kind == UNIX:
        path = decoded(quoted, "the path")
        if path in ("", "/") or path.endswith("/") or "\0" in path:
            raise UsageError("url: the path of a socket is needed, such as redis+unix:///run/redis/redis.sock")
        return path, None, ""
    first, slash, rest = quoted.removeprefix("/").partition("/")
    if kind != SENTINEL:
        if slash:
            raise UsageError(f"url: a path is the number of a database and no more; {FORMS}")
        return None, None, first
    if not first or "/" in rest:
        raise UsageError("url: the service that the sentinels watch is needed: redis+sentinel://host,host/SERVICE[/db]")
    return None, decoded(first, "the service"), rest


def _template(text: str, kind: str, said: str) -> str:
    if text and kind == CLUSTER:
        raise UsageError(
            f"{said} plain_key is not for a cluster: a plain key and the queue of its name lie in different slots, and "
            "no step can change both"
        )
    if text and text.count(NAME) != 1:
        raise UsageError(f"{said} plain_key has {NAME} in it once, such as {NAME} itself or lock:{NAME}")
    if len(text.encode()) > PLAIN_KEY_MOST or "\0" in text:
        raise UsageError(f"{said} plain_key has at most {PLAIN_KEY_MOST} bytes, and no NUL character")
    return text
