"""Client objects that the user has already: their settings are copied, their connections are never used.

Promises: what cannot be copied is refused, not left out. Timeouts, retries, decoding and caches stay the object's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tenure.engines.address import Address
from tenure.engines.redis.dial import Access, Dialer, Standalone, Watched
from tenure.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_TCP: Final = "Connection"
_TLS: Final = "SSLConnection"
_UNIX: Final = "UnixDomainSocketConnection"

_CLIENT_OPTIONS: Final = frozenset(
    {"username", "password", "credential_provider", "protocol", "socket_keepalive_options", "socket_type"}
)
_TLS_OPTIONS: Final = frozenset(
    {
        "ssl_keyfile", "ssl_certfile", "ssl_password", "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_data", "ssl_ca_path",
        "ssl_check_hostname", "ssl_min_version", "ssl_ciphers", "ssl_include_verify_flags", "ssl_exclude_verify_flags",
    }
)  # fmt: skip

_LIBRARIES: Final = ("redis", "valkey")


def from_client(client: Any) -> Dialer:
    """The dialer of the server that a client of redis-py or valkey-py talks to, blocking or asyncio; no I/O.

    Its settings are copied; its connections are never used. Timeouts, retries, decoding and the cache stay its own.

    Raises:
        UsageError: it is no such client, or it connects in a way that cannot be copied.
    """
    pool = getattr(client, "connection_pool", None)
    if pool is None:
        raise UsageError(f"client: a Redis client of redis-py or valkey-py is needed, not {type(client).__name__}")
    sentinels = getattr(pool, "sentinel_manager", None)
    if sentinels is None:
        found, where = _copied(pool)
        return Standalone(found, where)
    if not pool.is_master:
        raise UsageError("client: it talks to replicas; give one that sentinel.master_for() made")
    found, _ = _copied(pool)
    copies = [_copied(sentinel.connection_pool) for sentinel in sentinels.sentinels]
    addresses = [where for _, where in copies if isinstance(where, Address)]
    if not addresses:
        raise UsageError("client: its sentinels have no addresses")
    return Watched(found, addresses, pool.service_name, copies[0][0])


def cluster_of(client: Any) -> tuple[Access, list[Address]] | None:
    """The login and some nodes of the cluster that a client of a cluster talks to; None if it is no such client.

    Raises:
        UsageError: it connects in a way that cannot be copied.
    """
    manager = getattr(client, "nodes_manager", None)
    if manager is None:
        return None
    settings = dict(client.get_connection_kwargs())
    if getattr(manager, "address_remap", None) is not None:
        raise UsageError("client: its address_remap cannot be copied; give a URL")
    # The client sets itself there, to ask for replicas' leave to read; a function of the user's it calls from there.
    if getattr(settings.get("redis_connect_func"), "__self__", None) is client:
        settings["redis_connect_func"] = getattr(client, "user_on_connect_func", None)
    cls = settings.get("connection_class")
    kind = _kind(cls) if cls is not None else _TLS if settings.get("ssl") else _TCP
    nodes = [*manager.startup_nodes.values(), *client.get_nodes()]
    seeds = dict.fromkeys(Address(str(node.host), int(node.port)) for node in nodes)
    return _access(settings, kind), list(seeds)


def _copied(pool: Any) -> tuple[Access, Address | str]:
    """A pool's login and address."""
    settings, kind = pool.connection_kwargs, _kind(pool.connection_class)
    found = _access(settings, kind)
    if kind == _UNIX:
        return found, str(settings["path"])
    return found, Address(str(settings.get("host") or "localhost"), int(settings.get("port") or 6379))


def _kind(cls: Any) -> str:
    """How connections of a class connect."""
    kinds: list[str] = [base.__name__ for base in cls.__mro__ if base.__name__ in (_UNIX, _TLS, _TCP)]
    # A class of another library may connect in ways that its arguments do not show.
    if cls.__module__.partition(".")[0] not in _LIBRARIES or not kinds:
        raise UsageError(f"client: connections of the class {cls.__qualname__} cannot be copied; give a URL")
    return kinds[0]


def _access(settings: Mapping[str, Any], kind: str) -> Access:
    """How such connections log in."""
    tls = kind == _TLS
    lost = [
        name
        for name, value in settings.items()
        if value and (name == "redis_connect_func" or (tls and name.startswith("ssl_") and name not in _TLS_OPTIONS))
    ]
    if lost:
        raise UsageError(f"client: its settings {', '.join(lost)} cannot be copied; give a URL")
    wanted = _CLIENT_OPTIONS | _TLS_OPTIONS if tls else _CLIENT_OPTIONS
    if kind == _UNIX:
        wanted -= {"socket_keepalive_options", "socket_type"}
    options = {name: value for name, value in settings.items() if name in wanted}
    if options.get("protocol") is None:
        options["protocol"] = 2
    return Access(options, db=int(settings.get("db") or 0), tls=tls)
