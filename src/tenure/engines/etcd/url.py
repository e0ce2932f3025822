"""What an etcd URL means: which nodes, as whom, and how guarded.

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

FORMS: Final = (
    "allowed is etcd://[user:password@]host[:port][,host[:port]...][/root]; with TLS etcds://, and then the options "
    "ca, cert, key and verify"
)

PORT: Final = 2379
ROOT: Final = "tenure"
"""What all keys begin with, where the URL names nothing else."""

_OPTIONS: Final = ("ca", "cert", "key", "verify")
_URL: Final = re.compile(
    r"etcd(?P<tls>s?)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?P<rest>#.*)?",
    re.IGNORECASE | re.DOTALL,
)
_HOST: Final = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")
_ROOT: Final = re.compile(r"(?=.{1,64}\Z)[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Credentials(NamedTuple):
    """Who logs in; both are empty for nobody in particular. Its repr never shows the password."""

    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        shown = "***" if self.password else ""
        return f"Credentials(username={self.username!r}, password={shown!r})"


class Address(NamedTuple):
    """Where a node listens for clients."""

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


class EtcdUrl(NamedTuple):
    """A parsed URL. Its repr never shows a password.

    Attributes:
        nodes: those that are asked; they need not be all.
        root: what all keys begin with.
    """

    nodes: tuple[Address, ...]
    root: str = ROOT
    login: Credentials = Credentials()
    tls: Tls | None = None

    @property
    def shown(self) -> str:
        """The URL for people: no login, no options."""
        return f"etcd{'s' if self.tls else ''}://{','.join(map(str, self.nodes))}"


def parse(url: str) -> EtcdUrl:
    """Say which nodes a URL means.

    Args:
        url: as `FORMS` has it; the login and the values of options are percent-decoded once.

    Raises:
        UsageError: the URL is none of these; nothing was touched.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise UsageError(f"url: it names none of etcd's schemes; {FORMS}")
    if match["rest"] is not None:
        raise UsageError("url: it has a fragment; write # in a password as %23")
    userinfo, at, hosts = match["authority"].rpartition("@")
    if "@" in match["path"]:
        raise UsageError("url: it has an @ after the host; write / and ? in a password as %2F and %3F")
    root = match["path"].removeprefix("/")
    if root and not _ROOT.fullmatch(root):
        raise UsageError("url: a root is up to 64 letters, digits, dots, dashes, underscores and single slashes within")
    if not hosts:
        raise UsageError(f"url: no host is named; {FORMS}")
    nodes = tuple(_address(host) for host in hosts.split(","))
    if len(set(nodes)) < len(nodes):
        raise UsageError("url: a host is named twice")
    options = _options(match["query"], bool(match["tls"]))
    return EtcdUrl(
        nodes, root or ROOT, _login(userinfo) if at else Credentials(), _tls(options) if match["tls"] else None
    )


def _login(userinfo: str) -> Credentials:
    username, _, password = userinfo.partition(":")
    if "@" in userinfo:
        raise UsageError("url: it has two @ before the host; write @ in a user's name or password as %40")
    if not username or not password:
        raise UsageError("url: etcd wants a user and a password before the @; with a client certificate alone, neither")
    return Credentials(_decoded(username, "the user's name"), _decoded(password, "the password"))


def _address(text: str) -> Address:
    match = _HOST.fullmatch(text)
    if match is None:
        raise UsageError("url: a host is a name, an IPv4 address or an [IPv6 address], with :port or without")
    port = match["port"] or str(PORT)
    if not 1 <= int(port) <= 65_535:
        raise UsageError("url: a port is a whole number from 1 to 65535")
    if match["ipv6"] is None:
        return Address(match["name"].lower(), int(port))
    try:
        return Address(str(IPv6Address(match["ipv6"])), int(port))
    except ValueError:
        raise UsageError("url: what stands in brackets is no IPv6 address") from None


def _options(query: str | None, tls: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    for quoted, equals, value in (part.partition("=") for part in (query.split("&") if query else ())):
        key = _decoded(quoted, "an option's name")
        if key not in _OPTIONS:
            # Then a password with an unescaped ? may have begun the query, and its pieces look like options.
            if "@" in _decoded(query or "", "the query"):
                raise UsageError("url: unknown options, and an @ among them; write ? in a password as %3F")
            raise UsageError(f"url: unknown option {key!r}; allowed here are {', '.join(_OPTIONS)}")
        if not tls:
            raise UsageError(f"url: option {key} is for etcds://")
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


def _decoded(quoted: str, what: str) -> str:
    if _BAD_ESCAPE.search(quoted):
        raise UsageError(f"url: {what} has a % that begins no escape; write it as %25")
    try:
        return unquote_to_bytes(quoted).decode()
    except UnicodeError:
        raise UsageError(f"url: {what} is no UTF-8 text once decoded") from None
