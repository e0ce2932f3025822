"""What the URLs of engines have in common: hosts, TLS, options, escapes.

Promises: what is wrong is a `UsageError` that repeats nothing of the URL but the name of an unknown option: a password
with an unescaped character can end up in any other part. Nothing is looked up or connected here.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from tenure.errors import UsageError

TLS_OPTIONS: Final = ("ca", "cert", "key", "verify")

_HOST: Final = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Tls(NamedTuple):
    """How a connection is guarded.

    Attributes:
        ca: a file of certificates that are trusted instead of the system's.
        cert, key: this client's own certificate and its key; the key may be in the certificate's file.
        verify: False trusts any certificate, which guards against eavesdroppers only, not against impostors.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True


def parts(scheme: str) -> re.Pattern[str]:
    """The pattern of a URL whose scheme has this one: groups authority, path, query, and rest for a fragment."""
    return re.compile(
        scheme + r"://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?P<rest>#.*)?",
        re.IGNORECASE | re.DOTALL,
    )


def split(match: re.Match[str]) -> tuple[str | None, str]:
    """The login, if there is one, and the hosts; neither decoded.

    Raises:
        UsageError: an unescaped character of a password may have torn the URL apart.
    """
    if match["rest"] is not None:
        raise UsageError("url: it has a fragment; write # in a password as %23")
    login, at, hosts = match["authority"].rpartition("@")
    if "@" in login:
        raise UsageError("url: it has two @ before the host; write @ in a user's name or password as %40")
    return login if at else None, hosts


def plain(path: str) -> str:
    """A path in which no @ is expected, as it stands."""
    if "@" in path:
        raise UsageError("url: it has an @ after the host; write / and ? in a password as %2F and %3F")
    return path


def addresses(hosts: str, port: int, forms: str) -> tuple[Address, ...]:
    """The hosts of a URL, each named once.

    Args:
        hosts: as they stand, with commas between them.
        port: of those that name none.
        forms: what is allowed, for the error where none is named.
    """
    if not hosts:
        raise UsageError(f"url: no host is named; {forms}")
    found = tuple(_address(host, port) for host in hosts.split(","))
    if len(set(found)) < len(found):
        raise UsageError("url: a host is named twice")
    return found


def _address(text: str, standard: int) -> Address:
    match = _HOST.fullmatch(text)
    if match is None:
        raise UsageError("url: a host is a name, an IPv4 address or an [IPv6 address], with :port or without")
    port = number("a port", match["port"] or str(standard), 1, 65_535)
    if match["ipv6"] is None:
        return Address(match["name"].lower(), port)
    try:
        return Address(str(IPv6Address(match["ipv6"])), port)
    except ValueError:
        raise UsageError("url: what stands in brackets is no IPv6 address") from None


def options(query: str | None, allowed: tuple[str, ...]) -> dict[str, str]:
    """The options of a query, decoded; each is known, given once, and has a value."""
    found: dict[str, str] = {}
    for part in query.split("&") if query else ():
        quoted, equals, value = part.partition("=")
        key = decoded(quoted, "an option's name")
        if key not in allowed:
            # Then a password with an unescaped ? may have begun the query, and its pieces look like options.
            if "@" in decoded(query or "", "the query"):
                raise UsageError("url: unknown options, and an @ among them; write ? in a password as %3F")
            raise UsageError(f"url: unknown option {key!r}; allowed here are {', '.join(allowed)}")
        if key in found:
            raise UsageError(f"url: option {key} is given twice")
        if not equals or not value:
            raise UsageError(f"url: option {key} has no value")
        found[key] = decoded(value, f"option {key}")
    return found


def tls(given: dict[str, str]) -> Tls:
    """What the options say of TLS."""
    verify = given.get("verify", "full")
    if verify not in ("full", "none"):
        raise UsageError("url: option verify is full or none")
    if verify == "none" and "ca" in given:
        raise UsageError("url: option ca says whom to trust, and verify=none trusts anyone; give one of them")
    if "key" in given and "cert" not in given:
        raise UsageError("url: option key needs option cert")
    for name in ("ca", "cert", "key"):
        if "\0" in given.get(name, ""):
            raise UsageError(f"url: option {name} has a NUL character, which no path can have")
    return Tls(given.get("ca"), given.get("cert"), given.get("key"), verify == "full")


def number(what: str, text: str, least: int, most: int) -> int:
    """A whole number within bounds, of a URL."""
    return whole(f"url: {what}", text, least, most)


def whole(what: str, text: str, least: int, most: int) -> int:
    """A whole number within bounds."""
    # Not int() alone: it takes signs, blanks, underscores and other scripts' digits.
    if not re.fullmatch("[0-9]{1,10}", text) or not least <= int(text) <= most:
        raise UsageError(f"{what} is a whole number from {least} to {most}")
    return int(text)


def decoded(quoted: str, what: str) -> str:
    """Undo the percent-escapes of one part."""
    if _BAD_ESCAPE.search(quoted):
        raise UsageError(f"url: {what} has a % that begins no escape; write it as %25")
    try:
        return unquote_to_bytes(quoted).decode()
    except UnicodeError:
        raise UsageError(f"url: {what} is no UTF-8 text once decoded") from None
