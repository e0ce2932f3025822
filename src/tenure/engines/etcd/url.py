"""What an etcd URL means: which nodes, as whom, and how guarded.

Promises: a URL is understood as a whole or refused with `UsageError`; nothing is looked up or connected here. No
message repeats what stood in the URL, but for the name of an unknown option: a password with an unescaped character
can end up in any other part.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from tenure.engines.address import TLS_OPTIONS, Address, Tls, addresses, decoded, options, parts, plain, split, tls
from tenure.errors import UsageError

FORMS: Final = (
    "allowed is etcd://[user:password@]host[:port][,host[:port]...][/root]; with TLS etcds://, and then the options "
    "ca, cert, key and verify"
)

PORT: Final = 2379
ROOT: Final = "tenure"
"""What all keys begin with, where the URL names nothing else."""

_URL: Final = parts("etcd(?P<tls>s?)")
_ROOT: Final = re.compile(r"(?=.{1,64}\Z)[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*")


class Credentials(NamedTuple):
    """Who logs in; both are empty for nobody in particular. Its repr never shows the password."""

    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        shown = "***" if self.password else ""
        return f"Credentials(username={self.username!r}, password={shown!r})"


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
    login, hosts = split(match)
    root = plain(match["path"]).removeprefix("/")
    if root and not _ROOT.fullmatch(root):
        raise UsageError("url: a root is up to 64 letters, digits, dots, dashes, underscores and single slashes within")
    nodes = addresses(hosts, PORT, FORMS)
    given = options(match["query"], TLS_OPTIONS)
    if given and not match["tls"]:
        raise UsageError(f"url: option {next(iter(given))} is for etcds://")
    return EtcdUrl(
        nodes, root or ROOT, Credentials() if login is None else _login(login), tls(given) if match["tls"] else None
    )


def _login(userinfo: str) -> Credentials:
    username, _, password = userinfo.partition(":")
    if not username or not password:
        raise UsageError("url: etcd wants a user and a password before the @; with a client certificate alone, neither")
    return Credentials(decoded(username, "the user's name"), decoded(password, "the password"))
