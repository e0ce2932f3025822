"""What a Redis server's set-up means for a lock: one function per finding, from facts to a sentence and a grade.

Promises: only `facts` asks the server; a finding is computed from that, and none is raised. What the server does not
tell is said to be unknown, never taken for good.
Does not promise that the set-up stays as it was found: CONFIG SET, a fail-over or a restart may change it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tenure.engines import diagnosis
from tenure.engines.redis.facts import Facts, Questions, Server, ask_all, needed
from tenure.engines.redis.life import SPOKEN
from tenure.engines.redis.losses import (
    eviction,
    in_the_way_of_durable_tokens,
    number,
    persistence,
    replication,
)
from tenure.engines.redis.partitions import SPOKEN_ON_CLUSTERS
from tenure.engines.redis.transport_blocking import CONNECTIONS_MOST
from tenure.engines.redis.url import NAME
from tenure.errors import UnsafeSetup
from tenure.findings import Examination, Finding, Grade
from tenure.runtimes import native

if TYPE_CHECKING:
    from tenure.engines.redis.dial import Dialer
    from tenure.model import Seconds

CONDITIONAL: Final = frozenset({"durable_tokens"})
"""What depends on how the server is set up."""

OLDEST: Final = (6, 2)
"""The oldest Redis on which tenure's scripts are known to work."""

FULL: Final = 0.9
"""The share of the connections from which on they are nearly used up."""

CONNECTIONS: Final = CONNECTIONS_MOST + 2
"""Of one client with threads at its busiest: theirs, the keeper's and the mailbox's."""


def examine(dialer: Dialer, namespace: str, ttl: Seconds) -> Examination:
    """Ask the server and judge; otherwise as `Engine.examine`."""
    facts = ask_all(dialer, namespace)
    durable = not in_the_way_of_durable_tokens(facts.server)
    found = (*of_server(facts, ttl), cluster(facts.server), store(facts), *plain_keys(facts))
    return Examination(CONDITIONAL if durable else frozenset[str](), found)


def of_server(facts: Facts, ttl: Seconds) -> tuple[Finding, ...]:
    """What is looked at on each server, alone or one of a cluster's masters."""
    server = facts.server
    return (
        version(server),
        role(server),
        rights(facts),
        info(server),
        persistence(server),
        eviction(server),
        replication(server),
        clock_offset(facts, ttl),
        numbers(facts),
        round_trip(facts, ttl),
        transport(facts),
        connections(server),
    )


def require_durable_tokens(dialer: Dialer) -> None:
    """Ask the server whether its tokens rise whatever fails.

    Raises:
        UnsafeSetup: they do not, or the server does not tell; says what to change.
        StoreUnavailable, IncompatibleStore: the server cannot be asked.
    """
    questions = Questions(dialer)
    try:
        server = questions.server()
    finally:
        questions.close()
    missing = in_the_way_of_durable_tokens(server)
    if missing:
        raise UnsafeSetup(f"require: {server.shown} does not offer durable_tokens: {'; '.join(missing)}")


# -- what it is -----------------------------------------------------------------------------------------------------


def version(server: Server) -> Finding:
    """Which server in which version."""
    name = "Valkey" if "valkey_version" in server.info or server.hello.get("server") == "valkey" else "Redis"
    said = server.info.get("valkey_version") or server.info.get("redis_version") or server.hello.get("version") or ""
    parts = tuple(map(int, re.findall(r"\d+", said)[:2]))
    found = f"{name} {said or 'of an unknown version'} at {server.shown}"
    if not parts:
        return Finding("version", Grade.INFO, found, "Redis 6.2 or newer, or Valkey, is needed.")
    if parts < OLDEST:
        return Finding(
            "version",
            Grade.DANGER,
            found,
            "Not supported: tenure is tested on 6.2 and newer.",
            "Upgrade to Redis 6.2 or newer, or to Valkey.",
        )
    return Finding("version", Grade.OK, found)


def role(server: Server) -> Finding:
    """Master or replica."""
    if server.role is None:
        means = "Only a master takes requests."
        return Finding("role", Grade.INFO, "not known: this user may use neither INFO nor HELLO", means)
    if server.role == "master":
        return Finding("role", Grade.OK, "master")
    return Finding(
        "role",
        Grade.DANGER,
        "replica",
        "It refuses every request of a lock (READONLY).",
        "Give the URL of the master, or redis+sentinel:// to have it looked for.",
    )


def cluster(server: Server) -> Finding:
    """Whether it is a node of a cluster."""
    mode = server.info.get("redis_mode") or server.hello.get("mode")
    if mode is None:
        return Finding("cluster", Grade.INFO, "not known whether this is a node of a cluster")
    if mode != "cluster":
        return Finding("cluster", Grade.OK, f"mode {mode}")
    return Finding(
        "cluster",
        Grade.DANGER,
        "a node of a cluster",
        "Keys that belong to other nodes are refused (MOVED), and slots may move away at any time.",
        "Use redis+cluster:// with the addresses of some nodes.",
    )


# -- what this user may do ------------------------------------------------------------------------------------------


def rights(facts: Facts) -> Finding:
    """Whether this user may run the scripts, every command in them, and may touch the keys."""
    refused, keys = facts.rights
    if refused is None:
        means = "Locks need EVALSHA, EVAL and what the scripts run."
        found = "not known: this user may not use MULTI, which would tell"
        return Finding("scripts", Grade.INFO, found, means, _grant(facts.server, "+multi +discard"))
    if not refused and not keys:
        return Finding("scripts", Grade.OK, "this user may run all that the scripts need")
    parts = []
    if refused:
        parts.append(f"this user may not run {', '.join(refused)}")
    if keys:
        parts.append(f"this user may not touch the keys {', '.join(keys)}")
    commands = " ".join(f"+{name.lower()}" for name in sorted({"EVAL", "EVALSHA", "INFO", *needed()}))
    plain = facts.record.template.replace(NAME, "*") if facts.record else ""
    return Finding(
        "scripts",
        Grade.DANGER,
        "; ".join(parts),
        "Requests fail, and a script that is refused half-way leaves behind what it wrote before.",
        _grant(facts.server, f"~{{{facts.namespace}:*}}:* {f'~{plain} ' if plain else ''}{commands}"),
    )


def info(server: Server) -> Finding:
    """Whether a store that lost data is noticed early (A2)."""
    if server.info:
        return Finding("info", Grade.OK, "this user may use INFO")
    return Finding(
        "info",
        Grade.WARNING,
        "this user may not use INFO",
        "A restart, a fail-over or an eviction is not seen: a store that lost data is noticed only if its genesis "
        "record is gone too.",
        _grant(server, "+info"),
    )


def _grant(server: Server, rules: str) -> str:
    """The command by which an administrator gives this user more rights."""
    return f"ACL SETUSER {server.user or 'USER'} {rules}"


# -- clocks and times -----------------------------------------------------------------------------------------------


def clock_offset(facts: Facts, ttl: Seconds) -> Finding:
    """How far the server's clock is from this host's."""
    if facts.timing.offset is None:
        return Finding("clock_offset", Grade.INFO, "not known: this user may not use TIME")
    return diagnosis.clock_offset(facts.timing.offset, facts.timing.error, ttl)


def numbers(facts: Facts) -> Finding:
    """How far the numbers are ahead of the clock (B7)."""
    if not facts.is_read:
        return Finding("numbers", Grade.INFO, f"not known: the keys of namespace {facts.namespace!r} cannot be read")
    if facts.record is None:
        return Finding("numbers", Grade.OK, f"namespace {facts.namespace!r} has not been used yet")
    return diagnosis.numbers(
        facts.record.last,
        int(native.utc() * 1e6),
        facts.timing.offset or 0.0,
        apart="namespace",
        advice="Set the server's clock right, and do not restart the server until then.",
    )


def store(facts: Facts, *, on_cluster: bool = False) -> Finding:
    """Whether this release understands what lies there (B12)."""
    if facts.record is None:
        return Finding("format", Grade.OK if facts.is_read else Grade.INFO, "nothing to read yet")
    found = f"format {facts.record.format or '?'}, {facts.record.partitions or '?'} partition(s)"
    spoken = SPOKEN_ON_CLUSTERS if on_cluster else SPOKEN
    if facts.record.format in map(str, spoken) and (on_cluster or facts.record.partitions == "1"):
        return Finding("format", Grade.OK, found)
    return Finding(
        "format",
        Grade.DANGER,
        found,
        f"Clients of this release refuse it: they speak the formats {', '.join(map(str, spoken))}"
        + ("." if on_cluster else " with one partition."),
        "Use a newer release of tenure, or another namespace.",
    )


def plain_keys(facts: Facts) -> tuple[Finding, ...]:
    """What the server does to the keys that locks of other libraries go by, if the store has such."""
    template = facts.record.template if facts.record else ""
    if not template:
        return ()
    found = f"beside each queue a key {template!r}, which other locks go by"
    policy = facts.server.setting("maxmemory-policy", "maxmemory_policy") or ""
    if not policy.startswith("volatile-"):
        return (Finding("plain_keys", Grade.OK, found),)
    return (
        Finding(
            "plain_keys",
            Grade.WARNING,
            f"{found}; policy {policy}",
            "They have a ttl, and so are what is evicted when memory is full: whoever goes by one then finds the name "
            "free, and its holder is told with the next heartbeat.",
            "CONFIG SET maxmemory-policy noeviction",
        ),
    )


def round_trip(facts: Facts, ttl: Seconds) -> Finding:
    """Whether a renewal has time for what networks do."""
    return diagnosis.round_trip(facts.timing.median, facts.timing.worst, facts.timing.samples, ttl)


def transport(facts: Facts) -> Finding:
    """Who may listen, and who may pretend to be the server."""
    is_local, is_encrypted, is_verified, has_password = facts.transport
    password = "with a password" if has_password else "without a password"
    if is_encrypted:
        if is_verified:
            return Finding("transport", Grade.OK, f"TLS, the server's certificate is checked, {password}")
        return Finding(
            "transport",
            Grade.WARNING,
            f"TLS, the server's certificate is not checked, {password}",
            "Whoever is on the way may pretend to be the server.",
            "Give option ca= instead of verify=none.",
        )
    if is_local:
        return Finding("transport", Grade.OK, f"not encrypted, but it stays on this host; {password}")
    if has_password:
        return Finding(
            "transport",
            Grade.WARNING,
            "not encrypted, with a password",
            "Whoever is on the way reads the password, and may then take or remove any lock.",
            "Use rediss:// (TLS).",
        )
    return Finding(
        "transport",
        Grade.WARNING,
        "not encrypted, without a password",
        "Whoever reaches the server may take or remove any lock.",
        "Give it a password or ACL users, and use rediss:// (TLS).",
    )


def connections(server: Server) -> Finding:
    """Whether the server has room for this client."""
    need = (
        f"this client uses at most {CONNECTIONS} (keeper 1, mailbox 1 while it waits, threads up to "
        f"{CONNECTIONS_MOST}; asyncio: 3 in all)"
    )
    used = number(server.info.get("connected_clients"))
    most = number(server.setting("maxclients", "maxclients"))
    if used is None or most is None:
        return Finding("connections", Grade.INFO, f"connected clients not known; {need}")
    found = f"{used} of maxclients {most} are connected; {need}"
    if used <= most * FULL and used + CONNECTIONS <= most:
        return Finding("connections", Grade.OK, found)
    return Finding(
        "connections",
        Grade.WARNING,
        found,
        "A connection that is refused is a renewal that fails; a lease is lost if that lasts for its ttl.",
        "Raise maxclients, or find out who keeps so many connections.",
    )
