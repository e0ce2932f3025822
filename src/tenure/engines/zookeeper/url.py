"""What a ZooKeeper URL means: which servers, under which chroot, as whom, and how guarded.

Promises: a URL is understood as a whole or refused with `UsageError`; nothing is looked up or connected here. No
message repeats what stood in the URL, but for the name of an unknown option: a password with an unescaped character
can end up in any other part.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from tenure.errors import UsageError

FORMS: Final = "zookeeper://[user:password@]host[:port][,host...][/chroot][?tick=2]; with TLS zookeepers"

PORT: Final = 2181
SECURE_PORT: Final = 2281
TICK_S: Final = 2.0
"""What servers are set up with unless somebody says otherwise."""

_OPTIONS: Final = ("tick", "sasl")
_TLS_OPTIONS: Final = ("ca", "cert", "key", "verify")
MECHANISMS: Final = ("DIGEST-MD5", "GSSAPI")
_URL: Final = re.compile(
    r"zookeeper(?P<tls>s?)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?P<rest>#.*)?",
    re.IGNORECASE | re.DOTALL,
)
_HOST: Final = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_BAD_PATH: Final = re.compile("[\0-\x1f\x7f-\x9f\ud800-\uf8ff\ufff0-\uffff]|//|/\\.\\.?(/|$)")


class Login(NamedTuple):
    """Who logs in. Its repr never shows the password."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Login(username={self.username!r}, password='***')"


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


class ZooKeeperUrl(NamedTuple):
    """A parsed URL. Its repr never shows a password.

    Attributes:
        hosts: the servers of one ensemble, or some of them.
        chroot: the path under which everything is; empty for the root.
        login: for the scheme "digest", or for SASL; nodes are then their maker's alone.
        sasl: the mechanism, or None.
        tls: None for plain connections.
        tick: seconds of the servers' tickTime.
    """

    hosts: tuple[Address, ...]
    chroot: str = ""
    login: Login | None = None
    sasl: str | None = None
    tls: Tls | None = None
    tick: float = TICK_S

    @property
    def shown(self) -> str:
        """The URL for people: no login, no options."""
        return f"zookeeper{'s' if self.tls else ''}://{','.join(map(str, self.hosts))}{self.chroot}"


def parse(url: str) -> ZooKeeperUrl:
    """Say which servers a URL means.

    Raises:
        UsageError: the URL is not of `FORMS`; nothing was touched.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise UsageError(f"url: it is none of ZooKeeper's; {FORMS}")
    if match["rest"] is not None:
        raise UsageError("url: it has a fragment; write # in a password as %23")
    userinfo, at, hosts = match["authority"].rpartition("@")
    is_secure = bool(match["tls"])
    if "@" in match["path"]:
        raise UsageError("url: it has an @ after the host; write / and ? in a password as %2F and %3F")
    options = _options(match["query"], _OPTIONS + (_TLS_OPTIONS if is_secure else ()))
    login = _login(userinfo) if at else None
    sasl = options.get("sasl")
    if sasl is not None and sasl not in MECHANISMS:
        raise UsageError(f"url: option sasl is {' or '.join(MECHANISMS)}")
    if sasl == "DIGEST-MD5" and login is None:
        raise UsageError("url: option sasl=DIGEST-MD5 needs a user and a password before the host")
    return ZooKeeperUrl(
        _addresses(hosts, SECURE_PORT if is_secure else PORT),
        _chroot(match["path"]),
        login,
        sasl,
        _tls(options) if is_secure else None,
        _tick(options.get("tick")),
    )


def _login(userinfo: str) -> Login:
    username, colon, password = userinfo.partition(":")
    if "@" in userinfo:
        raise UsageError("url: it has two @ before the host; write @ in a user's name or password as %40")
    if not username or not colon or not password:
        raise UsageError("url: before @ stand a user and a password: user:password@")
    return Login(_decoded(username, "the user's name"), _decoded(password, "the password"))


def _addresses(hosts: str, standard: int) -> tuple[Address, ...]:
    if not hosts:
        raise UsageError(f"url: no host is named; {FORMS}")
    found = tuple(_address(host, standard) for host in hosts.split(","))
    if len(set(found)) < len(found):
        raise UsageError("url: a host is named twice")
    return found


def _address(text: str, standard: int) -> Address:
    match = _HOST.fullmatch(text)
    if match is None:
        raise UsageError("url: a host is a name, an IPv4 address or an [IPv6 address], with :port or without")
    port = int(match["port"] or standard)
    if not 1 <= port <= 65_535:
        raise UsageError("url: a port is a whole number from 1 to 65535")
    if match["ipv6"] is None:
        return Address(match["name"].lower(), port)
    try:
        return Address(str(IPv6Address(match["ipv6"])), port)
    except ValueError:
        raise UsageError("url: what stands in brackets is no IPv6 address") from None


def _chroot(quoted: str) -> str:
    path = _decoded(quoted, "the chroot").rstrip("/")
    if _BAD_PATH.search(path):
        raise UsageError("url: the chroot is no path that ZooKeeper takes, such as /apps/locks")
    return path


def _options(query: str | None, allowed: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for quoted, equals, value in (part.partition("=") for part in (query or "").split("&") if query):
        key = _decoded(quoted, "an option's name")
        if key not in allowed:
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
    if any("\0" in options.get(name, "") for name in ("ca", "cert", "key")):
        raise UsageError("url: the option of a file has a NUL character, which no path can have")
    return Tls(options.get("ca"), options.get("cert"), options.get("key"), verify == "full")


def _tick(text: str | None) -> float:
    if text is None:
        return TICK_S
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", text) or not 0.01 <= float(text) <= 60:
        raise UsageError("url: option tick is the servers' tickTime in seconds, from 0.01 to 60")
    return float(text)


def _decoded(quoted: str, what: str) -> str:
    if _BAD_ESCAPE.search(quoted):
        raise UsageError(f"url: {what} has a % that begins no escape; write it as %25")
    try:
        return unquote_to_bytes(quoted).decode()
    except UnicodeError:
        raise UsageError(f"url: {what} is no UTF-8 text once decoded") from None
