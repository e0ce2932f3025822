"""What a Redis URL means: which servers, as whom, and how guarded.

Promises: a URL is understood as a whole or refused with `UsageError`; nothing is looked up or connected here, and
redis-py is not imported. No message repeats what stood in the URL, but for the name of an unknown option: a password
with an unescaped character can end up in any other part.
Does not promise: redis-py's reading. A host must be named, each option is given once, and none is ignored.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from tenure.errors import UsageError

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

_TLS_OPTIONS: Final = ("ca", "cert", "key", "verify")
_OPTIONS: Final = {
    TCP: ("db", "protocol", "plain_key", "acknowledge"),
    UNIX: ("db", "protocol", "plain_key", "acknowledge"),
    SENTINEL: ("db", "protocol", "plain_key", "acknowledge", "sentinel_username", "sentinel_password"),
    CLUSTER: ("db", "protocol", "partitions"),
}
_URL: Final = re.compile(
    r"redis(?P<tls>s?)(?:\+(?P<kind>unix|sentinel|cluster))?://"
    r"(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?P<rest>#.*)?",
    re.IGNORECASE | re.DOTALL,
)
_HOST: Final = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Credentials(NamedTuple):
    """Who logs in; None for whatever was not given. Its repr never shows the password."""

    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        shown = None if self.password is None else "***"
        return f"Credentials(username={self.username!r}, password={shown!r})"


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Tls(NamedTuple):
    """How the connection is guarded.

    Attributes:
        ca: a file of certificates that are trusted besides the system's.
        cert, key: this client's own certificate and its key; the key may be in the certificate's file.
        verify: False trusts any certificate, which guards against eavesdroppers only, not against impostors.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True


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
        partitions: over how many slots of a cluster the names are spread; None for the engine's choice.
        plain_key: what the plain keys look like that are taken beside the queues, with `{name}` in it; empty for what
            is in force.
        acknowledge: how many replicas must have a grant before it is handed out.
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
    partitions: int | None = None
    plain_key: str = ""
    acknowledge: int = 0

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
    if match["rest"] is not None:
        raise UsageError("url: it has a fragment; write # in a password as %23")
    kind = (match["kind"] or TCP).lower()
    if kind == UNIX and match["tls"]:
        raise UsageError("url: a Unix socket has no TLS; write redis+unix://")
    userinfo, at, hosts = match["authority"].rpartition("@")
    login = _login(userinfo) if at else Credentials()
    addresses = _addresses(hosts, kind)
    if "@" in match["path"] and kind != UNIX:
        raise UsageError("url: it has an @ after the host; write / and ? in a password as %2F and %3F")
    path, service, place = _path(match["path"], kind)
    options = _options(match["query"], _OPTIONS[kind] + (_TLS_OPTIONS if match["tls"] else ()))
    if place and "db" in options:
        raise UsageError("url: the database is given twice, in the path and as option db")
    db = _number("the database", place or options.get("db", "0"), 0, DB_MOST)
    if kind == CLUSTER and db:
        raise UsageError("url: a cluster has database 0 only")
    partitions = options.get("partitions")
    return RedisUrl(
        kind,
        addresses,
        path,
        service,
        db,
        login,
        Credentials(options.get("sentinel_username"), options.get("sentinel_password")),
        _tls(options) if match["tls"] else None,
        _number("option protocol", options.get("protocol", "2"), 2, 3),
        None if partitions is None else _number("option partitions", partitions, 1, PARTITIONS_MOST),
        _template(options.get("plain_key", "")),
        _number("option acknowledge", options.get("acknowledge", "0"), 0, REPLICAS_MOST),
    )


def _login(userinfo: str) -> Credentials:
    username, _, password = userinfo.partition(":")
    if "@" in userinfo:
        raise UsageError("url: it has two @ before the host; write @ in a user's name or password as %40")
    if not username and not password:
        raise UsageError("url: the part before @ is empty; leave out the @, or write user:password@")
    return Credentials(
        _decoded(username, "the user's name") if username else None,
        _decoded(password, "the password") if password else None,
    )


def _addresses(hosts: str, kind: str) -> tuple[Address, ...]:
    if kind == UNIX:
        if hosts:
            raise UsageError("url: a Unix socket has no host (its path needs three slashes: redis+unix:///path)")
        return ()
    if not hosts:
        raise UsageError(f"url: no host is named; {FORMS}")
    found = tuple(_address(host, SENTINEL_PORT if kind == SENTINEL else SERVER_PORT) for host in hosts.split(","))
    if kind == TCP and len(found) > 1:
        raise UsageError("url: several hosts need redis+sentinel:// or redis+cluster://")
    if len(set(found)) < len(found):
        raise UsageError("url: a host is named twice")
    return found


def _address(text: str, standard: int) -> Address:
    match = _HOST.fullmatch(text)
    if match is None:
        raise UsageError("url: a host is a name, an IPv4 address or an [IPv6 address], with :port or without")
    port = _number("a port", match["port"] or str(standard), 1, 65_535)
    if match["ipv6"] is None:
        return Address(match["name"].lower(), port)
    try:
        return Address(str(IPv6Address(match["ipv6"])), port)
    except ValueError:
        raise UsageError("url: what stands in brackets is no IPv6 address") from None


def _path(quoted: str, kind: str) -> tuple[str | None, str | None, str]:
    """The socket, the service and the database's number, as far as a path says them."""
    if kind == UNIX:
        path = _decoded(quoted, "the path")
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
    return None, _decoded(first, "the service"), rest


def _options(query: str | None, allowed: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    parts = [part.partition("=") for part in query.split("&")] if query else []
    for quoted, equals, value in parts:
        key = _decoded(quoted, "an option's name")
        if key == "plain_key" and key not in allowed:
            raise UsageError(
                "url: there is no option plain_key on a cluster: a plain key and the queue of its name lie in "
                "different slots, and no step can change both"
            )
        if key not in allowed:
            # Then a password with an unescaped ? may have begun the query, and its pieces look like options.
            if "@" in _decoded(query or "", "the query"):
                raise UsageError("url: unknown options, and an @ among them; write ? in a password as %3F")
            raise UsageError(f"url: unknown option {key!r}; allowed here are {', '.join(allowed)}")
        if key in found:
            raise UsageError(f"url: option {key} is given twice")
        if not equals or not value:
            raise UsageError(f"url: option {key} has no value")
        found[key] = _decoded(value, f"option {key}")
    return found


def _tls(options: dict[str, str]) -> Tls:
    verify = options.get("verify", "full")
    if verify not in ("full", "none"):
        raise UsageError("url: option verify is full or none")
    if verify == "none" and "ca" in options:
        raise UsageError("url: option ca says whom to trust, and verify=none trusts anyone; give one of them")
    if "key" in options and "cert" not in options:
        raise UsageError("url: option key needs option cert")
    for name in ("ca", "cert", "key"):
        if "\0" in options.get(name, ""):
            raise UsageError(f"url: option {name} has a NUL character, which no path can have")
    return Tls(options.get("ca"), options.get("cert"), options.get("key"), verify == "full")


def _template(text: str) -> str:
    if text and text.count(NAME) != 1:
        raise UsageError(f"url: option plain_key has {NAME} in it once, such as {NAME} itself or lock:{NAME}")
    if len(text.encode()) > PLAIN_KEY_MOST or "\0" in text:
        raise UsageError(f"url: option plain_key has at most {PLAIN_KEY_MOST} bytes, and no NUL character")
    return text


def _number(what: str, text: str, least: int, most: int) -> int:
    # Not int() alone: it takes signs, blanks, underscores and other scripts' digits.
    if not re.fullmatch("[0-9]{1,10}", text) or not least <= int(text) <= most:
        raise UsageError(f"url: {what} is a whole number from {least} to {most}")
    return int(text)


def _decoded(quoted: str, what: str) -> str:
    if _BAD_ESCAPE.search(quoted):
        raise UsageError(f"url: {what} has a % that begins no escape; write it as %25")
    try:
        return unquote_to_bytes(quoted).decode()
    except UnicodeError:
        raise UsageError(f"url: {what} is no UTF-8 text once decoded") from None
