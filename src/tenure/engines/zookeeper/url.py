"""What a ZooKeeper URL means: which servers, under which chroot, as whom, and how guarded.

Promises: a URL is understood as a whole or refused with `UsageError`; nothing is looked up or connected here. No
message repeats what stood in the URL, but for the name of an unknown option: a password with an unescaped character
can end up in any other part.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from tenure.engines.address import TLS_OPTIONS, Address, Tls, addresses, decoded, options, parts, plain, split, tls
from tenure.errors import UsageError

FORMS: Final = "zookeeper://[user:password@]host[:port][,host...][/chroot][?tick=2]; with TLS zookeepers"

PORT: Final = 2181
SECURE_PORT: Final = 2281
TICK_S: Final = 2.0
"""What servers are set up with unless somebody says otherwise."""

_OPTIONS: Final = ("tick", "sasl")
MECHANISMS: Final = ("DIGEST-MD5", "GSSAPI")
_URL: Final = parts("zookeeper(?P<tls>s?)")
_BAD_PATH: Final = re.compile("[\0-\x1f\x7f-\x9f\ud800-\uf8ff\ufff0-\uffff]|//|/\\.\\.?(/|$)")


class Login(NamedTuple):
    """Who logs in. Its repr never shows the password."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Login(username={self.username!r}, password='***')"


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
    userinfo, hosts = split(match)
    is_secure = bool(match["tls"])
    path = plain(match["path"])
    given = options(match["query"], _OPTIONS + (TLS_OPTIONS if is_secure else ()))
    login = None if userinfo is None else _login(userinfo)
    sasl = given.get("sasl")
    if sasl is not None and sasl not in MECHANISMS:
        raise UsageError(f"url: option sasl is {' or '.join(MECHANISMS)}")
    if sasl == "DIGEST-MD5" and login is None:
        raise UsageError("url: option sasl=DIGEST-MD5 needs a user and a password before the host")
    return ZooKeeperUrl(
        addresses(hosts, SECURE_PORT if is_secure else PORT, FORMS),
        _chroot(path),
        login,
        sasl,
        tls(given) if is_secure else None,
        _tick(given.get("tick")),
    )


def _login(userinfo: str) -> Login:
    username, colon, password = userinfo.partition(":")
    if not username or not colon or not password:
        raise UsageError("url: before @ stand a user and a password: user:password@")
    return Login(decoded(username, "the user's name"), decoded(password, "the password"))


def _chroot(quoted: str) -> str:
    path = decoded(quoted, "the chroot").rstrip("/")
    if _BAD_PATH.search(path):
        raise UsageError("url: the chroot is no path that ZooKeeper takes, such as /apps/locks")
    return path


def _tick(text: str | None) -> float:
    if text is None:
        return TICK_S
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", text) or not 0.01 <= float(text) <= 60:
        raise UsageError("url: option tick is the servers' tickTime in seconds, from 0.01 to 60")
    return float(text)
