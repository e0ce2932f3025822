"""Arguments, URL options and environment: checked here, before anything is touched.

Promises: a wrong value is a `UsageError` that names the argument and its bounds; a URL's password never appears in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from urllib.parse import parse_qsl, unquote

from tenure import arguments
from tenure.errors import UsageError
from tenure.model import EXCLUSIVE, SHARED, Kind, Mode, Seconds
from tenure.protocols.claim import Ask

if TYPE_CHECKING:
    from collections.abc import Iterable

NAME_BYTES: Final = 512
NAMES_MOST: Final = 1000
INFO_BYTES: Final = 1024
URL_BYTES: Final = 65_536
OPTION_BYTES: Final = 1024
TTL_LEAST: Final = 0.1
TTL_MOST: Final = 86_400.0
SECONDS_MOST: Final = 10 * 365 * 86_400.0
LIMIT_MOST: Final = 1_000_000
CAPABILITIES: Final = frozenset({"fifo", "shared", "semaphore", "durable_tokens", "multi_host"})

_OPTIONS: Final = {"ttl", "namespace", "require"}

text = arguments.text
count = arguments.count
quoted = arguments.quoted


class RedisServerClient(Protocol):
    """A client of one server, or of the master that sentinels name."""

    @property
    def connection_pool(self) -> Any:
        """Whose settings are copied."""


class RedisClusterClient(Protocol):
    """A client of a cluster."""

    @property
    def nodes_manager(self) -> Any:
        """Whose settings are copied."""


RedisClient = RedisServerClient | RedisClusterClient
"""A client of redis-py or valkey-py, blocking or asyncio."""


class Settings(NamedTuple):
    """What a client was told."""

    url: str | RedisClient
    ttl: Seconds
    namespace: str
    max_hold: Seconds | None
    require: frozenset[str]
    skew: Seconds
    client: str
    options: Mapping[str, str]


def settings(
    url: str | RedisClient | None,
    *,
    ttl: Seconds | None,
    namespace: str | None,
    max_hold: Seconds | None,
    require: Iterable[str],
    skew: Seconds,
    client: str | None,
    options: Mapping[str, str | int] | None = None,
) -> Settings:
    """Settle the settings: the argument, then the URL's option, then the environment.

    Raises:
        UsageError: something is wrong; nothing was touched.
    """
    if url is None:
        url = os.environ.get("TENURE_URL") or None
    if url is None:
        raise UsageError(
            "url: give Client(url) or set TENURE_URL; for locks of this user on this host alone, say so: 'sqlite://'"
        )
    said: dict[str, str] = {}
    if isinstance(url, str):
        # A line's end that came along from a file would name another path, and so another store than everybody's.
        url, said = split_options(text("url", url, URL_BYTES))
    elif not hasattr(url, "connection_pool") and not hasattr(url, "nodes_manager"):
        raise UsageError(f"url: a string or a Redis client is needed, not {type(url).__name__}")
    if ttl is None and (given := said.get("ttl") or os.environ.get("TENURE_TTL")):
        ttl = number("ttl", given)
    namespace = checked_namespace(said.get("namespace") if namespace is None else namespace)
    wanted = _names("require", require)
    for source in (said.get("require"), os.environ.get("TENURE_REQUIRE")):
        wanted |= {word.strip() for word in (source or "").split(",") if word.strip()}
    if wanted - CAPABILITIES:
        unknown = quoted(sorted(map(str, wanted - CAPABILITIES)))
        raise UsageError(f"require: unknown {unknown}; known are {sorted(CAPABILITIES)}")
    return Settings(
        url,
        seconds("ttl", 30.0 if ttl is None else ttl, TTL_LEAST, TTL_MOST),
        namespace,
        None if max_hold is None else seconds("max_hold", max_hold, 0.001, SECONDS_MOST),
        frozenset(wanted),
        seconds("skew", skew, 0.0, TTL_MOST),
        "" if client is None else text("client", client, 128),
        {} if options is None else _options_beside(url, options),
    )


def _options_beside(url: str | RedisClient, options: Any) -> dict[str, str]:
    """The options of a client object, as they would stand in a URL; the engine refuses what it does not know."""
    if not isinstance(options, Mapping):
        raise UsageError(f"options: a mapping of names to values is needed, not {type(options).__name__}")
    if options and isinstance(url, str):
        raise UsageError("options: they are for a client object; a URL has its own, behind its ?")
    return {text("options", name, OPTION_BYTES): _as_text(name, value) for name, value in options.items()}


def _as_text(option: str, value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = quoted(value)  # one that cannot be shown is no number within bounds either
    return text(f"options: {option}", value, OPTION_BYTES)


def _names(argument: str, value: Any) -> set[str]:
    try:
        return {value} if isinstance(value, str) else set(value)
    except TypeError:
        raise UsageError(f"{argument}: names of capabilities are needed, not {quoted(value)}") from None


def split_options(url: str) -> tuple[str, dict[str, str]]:
    """Take the options that every engine has out of a URL; the engine refuses what it does not know."""
    scheme, mark, rest = url.partition("://")
    if not mark or "?" not in rest:
        return url, {}
    base, _, query = rest.partition("?")
    ours: dict[str, str] = {}
    theirs: list[str] = []
    for part in filter(None, query.split("&")):
        # No plus for a blank, which is a rule of web forms: it would change a password or a path that has one.
        key, value = map(unquote, part.partition("=")[::2])
        if key not in _OPTIONS:
            theirs.append(part)
        elif key in ours:
            raise UsageError(f"url: the option {key!r} is given twice")
        elif not value:
            raise UsageError(f"url: the option {key!r} has no value")
        elif "@" in value:
            # No value of ours has one: a password with an unescaped ? or & may have begun what looks like an option.
            raise UsageError(f"url: the option {key!r} has an @; write ? and & in a password as %3F and %26")
        else:
            ours[key] = value
    return scheme + mark + base + (f"?{'&'.join(theirs)}" if theirs else ""), ours


def shown(url: str | RedisClient) -> str:
    """A URL without its passwords, for people to read."""
    if not isinstance(url, str):
        return f"{type(url).__module__.partition('.')[0]}.{type(url).__name__}"
    base, mark, query = url.partition("?")
    if mark:
        # An engine's options may hold one too, by name or as a URL.
        options = (
            f"{key}=***" if "password" in key else f"{key}={shown(value) if '://' in value else value}"
            for key, value in parse_qsl(query)
        )
        return f"{shown(base)}?{'&'.join(options)}"
    # Not urllib's urlsplit: it refuses what a password may have, and one of its errors repeats the password.
    scheme, mark, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    login, at, host = authority.rpartition("@")
    return f"{scheme}{mark}{login.partition(':')[0]}:***@{host}{slash}{path}" if at else url


def number(argument: str, value: str) -> float:
    """A number that stands in a URL or in the environment."""
    try:
        return float(value)
    except ValueError:
        # It is not repeated: a piece of a URL may be one of a password.
        raise UsageError(f"{argument}: what the URL or the environment says is no number of seconds") from None


def seconds(argument: str, value: Any, least: float, most: float) -> Seconds:
    """A duration within bounds."""
    # NaN compares as False, and a whole number may be too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise UsageError(f"{argument}: a number of seconds from {least:g} to {most:g} is needed, not {quoted(value)}")
    return float(value)


def wait(value: Any, argument: str = "wait") -> Seconds | None:
    """How long to wait: seconds from 0, or None for ever."""
    return None if value is None else seconds(argument, value, 0.0, SECONDS_MOST)


def checked_namespace(value: Any) -> str:
    """Whose names they are: what was said, else the environment, else "tenure"."""
    if value is None:
        value = os.environ.get("TENURE_NAMESPACE") or "tenure"
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value):
        raise UsageError("namespace: 1 to 64 letters, digits, dots, dashes and underscores")
    return value


def name(value: Any) -> str:
    """What is locked: 1 to 512 bytes of UTF-8 without control characters."""
    return text("name", value, NAME_BYTES, 1)


def names(values: Any) -> list[str]:
    """Several names, each once: at least one, at most a thousand."""
    if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
        raise UsageError(f"names: several names are needed, not {type(values).__name__}")
    found = list(dict.fromkeys(name(value) for value in values))
    if not 1 <= len(found) <= NAMES_MOST:
        raise UsageError(f"names: from 1 to {NAMES_MOST} names are needed, not {len(found)}")
    return found


def permits(limit: Any, wanted: Any) -> Mode:
    """The mode of a semaphore's claim."""
    limit = count("limit", limit, LIMIT_MOST)
    wanted = count("permits", wanted, LIMIT_MOST)
    if wanted > limit:
        raise UsageError(f"permits: {wanted} can never fit a limit of {limit}")
    return Mode(Kind.PERMITS, wanted, limit)


def ask(lock_name: Any, mode: Mode, *, max_hold: Seconds | None, lock_delay: Seconds, info: str | None) -> Ask:
    """A checked request for a name."""
    if max_hold is not None:
        max_hold = seconds("max_hold", max_hold, 0.001, SECONDS_MOST)
    return Ask(
        name(lock_name),
        mode,
        seconds("lock_delay", lock_delay, 0.0, TTL_MOST),
        "" if info is None else text("info", info, INFO_BYTES),
        max_hold,
    )


def lock_mode(shared: Any) -> Mode:
    """Exclusive, or shared."""
    if not isinstance(shared, bool):
        raise UsageError(f"shared: True or False is needed, not {quoted(shared)}")
    return SHARED if shared else EXCLUSIVE
