"""What a `postgresql:` URL means: which server and database, as whom, and what of it is for tenure.

Promises: a URL is understood as a whole or refused with `UsageError`; nothing is looked up or connected here, and
psycopg is not imported. No message repeats what stood in the URL, but for the name of an unknown option: a password
with an unescaped character can end up in any other part.
Does not promise: libpq's defaults. A host and a database must be named, for what PGHOST or the user's name say differs
from host to host, and two hosts would each hold the lock.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from tenure.engines import address
from tenure.errors import UsageError

FORMS: Final = (
    "allowed are postgresql://[user[:password]@]host[:port][,host...]/database and "
    "postgresql://[user[:password]@]/database?host=/folder/of/the/socket"
)

COMMITS: Final = ("on", "remote_apply", "remote_write", "local", "off")

POLL_S: Final = 0.1
"""Seconds between two looks into a mailbox that cannot listen, unless the URL says otherwise."""

_OURS: Final = ("schema", "create", "listen_url", "synchronous_commit", "poll")
_LIBPQ: Final = (
    "host", "hostaddr", "passfile", "require_auth", "channel_binding", "sslmode", "sslrootcert", "sslcert", "sslkey",
    "sslpassword", "sslcrl", "sslcrldir", "sslnegotiation", "ssl_min_protocol_version", "gssencmode", "krbsrvname",
    "target_session_attrs", "application_name", "keepalives", "keepalives_idle", "keepalives_interval",
    "keepalives_count", "tcp_user_timeout",
)  # fmt: skip

_URL: Final = address.parts("postgresql")
_SCHEMA: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


class PostgresUrl(NamedTuple):
    """A parsed URL. Its repr never shows a password.

    Attributes:
        conninfo: what libpq takes; with the password.
        listen_conninfo: where to listen, if that is elsewhere: past a pooler.
        schema: where the tables are.
        create: make them where they are missing.
        commits: synchronous_commit of our transactions; empty for what the server, database or user has.
        poll_s: seconds between looks where nobody can listen.
        shown: the URL for people: no login, no options.
    """

    conninfo: str
    listen_conninfo: str | None
    schema: str
    create: bool
    commits: str
    poll_s: float
    shown: str

    def __repr__(self) -> str:
        return f"PostgresUrl({self.shown!r}, schema={self.schema!r})"


def parse(url: str) -> PostgresUrl:
    """Say which database a URL means.

    Args:
        url: one of `FORMS`, with options: `schema`, `create=yes`, `listen_url`, `synchronous_commit`, `poll` (seconds),
            and libpq's for TLS, hosts and keepalives.

    Raises:
        UsageError: the URL is none of these; nothing was touched.
    """
    conninfo, ours, shown = _split(url, _OURS + _LIBPQ)
    schema = schema_name(ours.get("schema", "tenure"), "url: option schema")
    create = ours.get("create", "no")
    if create not in ("yes", "no"):
        raise UsageError("url: option create takes yes or no")
    commits = ours.get("synchronous_commit", "")
    if commits and commits not in COMMITS:
        raise UsageError(f"url: option synchronous_commit takes one of {', '.join(COMMITS)}")
    listen = ours.get("listen_url")
    return PostgresUrl(
        conninfo,
        None if listen is None else _split(listen, _LIBPQ)[0],
        schema,
        create == "yes",
        commits,
        _poll(ours.get("poll")),
        shown,
    )


def schema_name(value: object, what: str = "schema") -> str:
    """Where the tables are; a name that needs no quotes.

    Raises:
        UsageError: it is none; `what` is wrong.
    """
    if not isinstance(value, str) or _SCHEMA.fullmatch(value) is None or value.lower().startswith("pg_"):
        raise UsageError(f"{what} takes up to 63 letters, digits and underscores, and no pg_ in front")
    return value


def _split(url: str, allowed: tuple[str, ...]) -> tuple[str, dict[str, str], str]:
    """What libpq takes of a URL, what is ours, and what may be shown."""
    match = _URL.fullmatch(url)
    if match is None:
        raise UsageError(f"url: it does not begin with postgresql://; {FORMS}")
    userinfo, hosts = address.split(match)
    database = address.plain(match["path"]).removeprefix("/")
    if not database or "/" in database:
        raise UsageError(f"url: a database must be named, and nothing after it; {FORMS}")
    for part, what in ((userinfo or "", "the login"), (hosts, "a host"), (database, "the database")):
        _decoded(part, what)
    options = _options(match["query"], allowed)
    if not hosts and "host" not in options:
        raise UsageError(f"url: no host is named; {FORMS}")
    query = "&".join(part for part in (match["query"] or "").split("&") if part and part.partition("=")[0] not in _OURS)
    base = f"postgresql://{match['authority']}/{database}"
    ours = {key: value for key, value in options.items() if key in _OURS}
    shown = f"postgresql://{hosts or options['host']}/{database}"
    return base + (f"?{query}" if query else ""), ours, shown


def _options(query: str | None, allowed: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in query.split("&") if query else ():
        key, equals, value = part.partition("=")
        if key not in allowed:
            # Then a password with an unescaped ? may have begun the query, and its pieces look like options.
            if "@" in _decoded(query or "", "the query") and "listen_url" not in (query or ""):
                raise UsageError("url: unknown options, and an @ among them; write ? in a password as %3F")
            raise UsageError(f"url: unknown option {_decoded(key, 'an option')!r}; allowed are {', '.join(allowed)}")
        if key in found:
            raise UsageError(f"url: option {key} is given twice")
        if not equals or not value:
            raise UsageError(f"url: option {key} has no value")
        found[key] = _decoded(value, f"option {key}")
    return found


def _poll(text: str | None) -> float:
    if text is None:
        return POLL_S
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?", text) is None or not 0.005 <= float(text) <= 60:
        raise UsageError("url: option poll takes seconds, from 0.005 to 60")
    return float(text)


def _decoded(quoted: str, what: str) -> str:
    text = address.decoded(quoted, what)
    if "\0" in text:
        raise UsageError(f"url: {what} has a NUL character")
    return text
