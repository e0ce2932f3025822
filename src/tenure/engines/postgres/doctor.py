"""What a PostgreSQL server's set-up means for a lock: one function per finding, from facts to a sentence and a grade.

Promises: only `facts` asks the server; a finding is computed from that, and none is raised. What the server does not
tell is said to be unknown, never taken for good.
Does not promise that the set-up stays as it was found: ALTER SYSTEM, a fail-over or a restart may change it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenure.engines import diagnosis
from tenure.engines.postgres.facts import Facts, ask_all
from tenure.engines.postgres.migrate import steps_hash
from tenure.engines.postgres.store import SPOKEN
from tenure.engines.postgres.transport_blocking import CONNECTIONS_MOST
from tenure.errors import UnsafeSetup
from tenure.findings import Examination, Finding, Grade
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenure.engines.postgres.link import Link, Waiter
    from tenure.engines.postgres.url import PostgresUrl
    from tenure.model import Seconds

FULL: Final = 0.9
"""The share of the connections from which on they are nearly used up."""

CONNECTIONS: Final = CONNECTIONS_MOST + 2
"""Of one client at its busiest: its callers', the keeper's and the mailbox's."""

LONG_S: Final = 600.0
"""Seconds of an open transaction from which on what the steps leave behind matters."""


def examine(dial: Callable[[Seconds, Waiter], Link], parsed: PostgresUrl, ttl: Seconds) -> Examination:
    """Ask the server and judge; otherwise as `Engine.examine`."""
    facts = ask_all(dial, parsed)
    found = (
        version(facts),
        role(facts),
        schema(facts, parsed),
        isolation(facts),
        durability(facts, parsed),
        replication(facts, parsed),
        life(facts),
        clock_offset(facts, ttl),
        numbers(facts),
        round_trip(facts, ttl),
        statement_timeout(facts, ttl),
        transport(facts),
        mailbox(facts, parsed),
        connections(facts),
        vacuum(facts),
    )
    durable = frozenset({"durable_tokens"}) if not in_the_way_of_durable_tokens(facts) else frozenset[str]()
    return Examination(durable, found)


def require_durable_tokens(dial: Callable[[Seconds, Waiter], Link], parsed: PostgresUrl) -> None:
    """Ask the server whether its tokens rise whatever fails.

    Raises:
        UnsafeSetup: they do not; says what to change.
        StoreUnavailable: the server cannot be asked.
    """
    missing = in_the_way_of_durable_tokens(ask_all(dial, parsed))
    if missing:
        raise UnsafeSetup(f"require: {parsed.shown} does not offer durable_tokens: {'; '.join(missing)}")


def in_the_way_of_durable_tokens(facts: Facts) -> list[str]:
    """What keeps tokens from rising whatever fails, each with what to change; empty if nothing does.

    Not synchronous_commit: numbers that are not synced stay below a ceiling that is (B7).
    """
    missing = [
        f"{name} is {facts.settings.get(name, 'not known')}; set it to on, in the server's configuration file"
        for name in ("fsync", "full_page_writes")
        if facts.settings.get(name) != "on"
    ]
    if facts.server["is_standby"]:
        missing.append("it is a standby; give the URL of a primary")
    if len(facts.hosts) > 1 and not facts.settings.get("synchronous_standby_names"):
        missing.append("a fail-over may lose the last numbers; set synchronous_standby_names")
    return missing


# -- what it is -----------------------------------------------------------------------------------------------------


def version(facts: Facts) -> Finding:
    """Which server."""
    return Finding("version", Grade.OK, f"PostgreSQL {facts.settings['server_version']}")


def role(facts: Facts) -> Finding:
    """Primary or standby."""
    if not facts.server["is_standby"]:
        return Finding("role", Grade.OK, "primary")
    return Finding(
        "role",
        Grade.DANGER,
        "standby",
        "It refuses every request of a lock.",
        "Name all hosts in the URL, with target_session_attrs=read-write.",
    )


def schema(facts: Facts, parsed: PostgresUrl) -> Finding:
    """Whether the tables are there, and of this release (B12)."""
    record = facts.record
    if record is None:
        return Finding(
            "schema",
            Grade.DANGER,
            f"schema {parsed.schema!r}: {facts.unread or 'empty'}",
            "Clients refuse to open.",
            f"tenure migrate URL, as the user who is to own it; then GRANT USAGE ON SCHEMA {parsed.schema} TO "
            f"{facts.server['user']}",
        )
    found = f"schema {parsed.schema!r}, format {record.format}, functions {record.steps}"
    if record.format not in SPOKEN:
        return Finding(
            "schema",
            Grade.DANGER,
            found,
            f"Clients of this release refuse it: they speak the formats {', '.join(map(str, SPOKEN))}.",
            "Use a newer release of tenure, or another schema.",
        )
    if record.steps != steps_hash():
        return Finding(
            "schema",
            Grade.INFO,
            f"{found}; this release brings {steps_hash()}",
            "Another release made them. They work; what this release corrects in them is not in force.",
            "tenure migrate URL, if this release is the newer one",
        )
    return Finding("schema", Grade.OK, found)


def isolation(facts: Facts) -> Finding:
    """Under another default a step would see what was there before it waited (C2)."""
    level = facts.settings["transaction_isolation"]
    if level == "read committed":
        return Finding("isolation", Grade.OK, "transactions are READ COMMITTED")
    return Finding(
        "isolation",
        Grade.DANGER,
        f"this user's transactions are {level.upper()} by default, and a pooler keeps clients from saying otherwise",
        "Every request is refused.",
        f"ALTER ROLE {facts.server['user']} SET default_transaction_isolation = 'read committed'",
    )


# -- what is kept ---------------------------------------------------------------------------------------------------


def durability(facts: Facts, parsed: PostgresUrl) -> Finding:
    """What a crash of the server loses."""
    for name in ("fsync", "full_page_writes"):
        if facts.settings.get(name) != "on":
            return Finding(
                "durability",
                Grade.DANGER,
                f"{name} is off",
                "A power failure may damage the database, and with it every lock and number.",
                f"{name} = on in the server's configuration file",
            )
    commits = parsed.commits or facts.settings["synchronous_commit"]
    if commits == "off":
        return Finding(
            "durability",
            Grade.INFO,
            "commits are not synced (synchronous_commit off)",
            "A crash of the server loses the grants of the last moments: two may hold one name until the next "
            "heartbeat of the first. Tokens rise all the same, by a ceiling that is synced.",
            "For none to be lost: synchronous_commit=on in the URL; each grant then waits for the disk.",
        )
    return Finding("durability", Grade.OK, f"a grant is synced before it is told (synchronous_commit {commits})")


def replication(facts: Facts, parsed: PostgresUrl) -> Finding:
    """What a fail-over loses."""
    commits = parsed.commits or facts.settings["synchronous_commit"]
    names = facts.settings.get("synchronous_standby_names")
    replicas = facts.server["replicas"]
    found = f"{replicas} replicas, synchronous_standby_names {names or 'empty'}"
    if not replicas and len(facts.hosts) == 1:
        return Finding("replication", Grade.OK, f"{found}: no fail-over can lose a grant")
    if names and commits not in ("off", "local"):
        return Finding("replication", Grade.OK, f"{found}: a synchronous standby has every grant")
    return Finding(
        "replication",
        Grade.WARNING,
        found,
        "Replication is asynchronous: a fail-over loses the last grants, and an old primary that was not stopped goes "
        "on granting while the promoted one grants too.",
        "Set synchronous_standby_names, and have tokens checked where it matters.",
    )


def life(facts: Facts) -> Finding:
    """Whether a store that was replaced by another is noticed early (A2)."""
    if facts.server["system"]:
        return Finding("life", Grade.OK, "a restart, a fail-over and a restored copy are noticed")
    return Finding(
        "life",
        Grade.INFO,
        "the server's system identifier may not be asked for",
        "A restart and a fail-over are noticed all the same.",
    )


def vacuum(facts: Facts) -> Finding:
    """Whether what the steps leave behind is cleaned away."""
    if facts.settings.get("autovacuum") != "on":
        return Finding(
            "vacuum",
            Grade.WARNING,
            "autovacuum is off",
            "Every acquire and release leaves a dead row; hand-overs become slower until somebody runs VACUUM.",
            "autovacuum = on in the server's configuration file",
        )
    oldest = facts.server["oldest"] or 0.0
    if oldest > LONG_S:
        return Finding(
            "vacuum",
            Grade.WARNING,
            f"a transaction has been open for {oldest:.0f} s",
            "Nothing that came after it is cleaned away in the whole database; hand-overs become slower meanwhile.",
            "End it: pg_stat_activity says whose it is.",
        )
    return Finding("vacuum", Grade.OK, "autovacuum is on; no transaction that this user can see has been open for long")


# -- clocks and times -----------------------------------------------------------------------------------------------


def clock_offset(facts: Facts, ttl: Seconds) -> Finding:
    """How far the server's clock is from this host's."""
    return diagnosis.clock_offset(facts.offset, facts.error, ttl)


def numbers(facts: Facts) -> Finding:
    """How far the numbers are ahead of the clock (B7)."""
    if facts.record is None:
        return Finding("numbers", Grade.INFO, "not known: there is no schema to read")
    return diagnosis.numbers(
        facts.record.largest,
        int(native.utc() * 1e6),
        facts.offset,
        apart="schema",
        advice="Set the server's clock right. After a crash without synced commits it catches up within a minute.",
    )


def round_trip(facts: Facts, ttl: Seconds) -> Finding:
    """Whether a renewal has time for what networks do."""
    return diagnosis.round_trip(facts.trip, max(facts.trips), len(facts.trips), ttl)


def statement_timeout(facts: Facts, ttl: Seconds) -> Finding:
    """Whether the server gives up earlier than we would."""
    most_ms = int(facts.settings.get("statement_timeout", "0"))
    if not most_ms or most_ms >= ttl / 6 * 1000:
        return Finding("statement_timeout", Grade.OK, f"{most_ms} ms" if most_ms else "none")
    return Finding(
        "statement_timeout",
        Grade.WARNING,
        f"{most_ms} ms, less than the {ttl / 6:.3g} s that a renewal waits",
        "A slow disk or a row that is locked fails requests that would have had time; nothing is lost by that alone.",
        f"ALTER ROLE {facts.server['user']} SET statement_timeout = 0",
    )


# -- who is connected -----------------------------------------------------------------------------------------------


def transport(facts: Facts) -> Finding:
    """Who may listen, and who may pretend to be the server."""
    password = "with a password" if facts.has_password else "without a password"
    if facts.is_encrypted:
        if facts.is_verified:
            return Finding("transport", Grade.OK, f"TLS, the server's certificate is checked, {password}")
        return Finding(
            "transport",
            Grade.WARNING,
            f"TLS, the server's certificate is not checked, {password}",
            "Whoever is on the way may pretend to be the server.",
            "sslmode=verify-full in the URL, and sslrootcert=",
        )
    if all(host.startswith(("/", "127.")) or host in ("localhost", "[::1]", "::1") for host in facts.hosts):
        return Finding("transport", Grade.OK, f"not encrypted, but it stays on this host; {password}")
    return Finding(
        "transport",
        Grade.WARNING,
        f"not encrypted, {password}",
        "Whoever is on the way may take or remove any lock.",
        "sslmode=verify-full in the URL",
    )


def mailbox(facts: Facts, parsed: PostgresUrl) -> Finding:
    """How a waiter hears of its grant."""
    if not facts.is_pooled:
        return Finding("mailbox", Grade.OK, "a waiter listens (NOTIFY)")
    if parsed.listen_conninfo is not None:
        return Finding("mailbox", Grade.OK, "behind a pooler; a waiter listens (NOTIFY) by listen_url")
    return Finding(
        "mailbox",
        Grade.INFO,
        f"behind a pooler, through which nobody can listen; a waiter asks every {parsed.poll_s:g} s",
        "A hand-over takes up to that long.",
        "listen_url= with the server's own URL",
    )


def connections(facts: Facts) -> Finding:
    """Whether the server has room for this client."""
    used, most = facts.server["connected"], int(facts.settings["max_connections"])
    need = (
        f"this client uses at most {CONNECTIONS} (keeper 1, mailbox 1 once it waits, callers up to {CONNECTIONS_MOST})"
    )
    found = f"{used} of max_connections {most} are connected; {need}"
    if facts.is_pooled or (used <= most * FULL and used + CONNECTIONS <= most):
        return Finding("connections", Grade.OK, found)
    return Finding(
        "connections",
        Grade.WARNING,
        found,
        "A connection that is refused is a renewal that fails; a lease is lost if that lasts for its ttl.",
        "Use a pooler with listen_url, raise max_connections, or find out who keeps so many connections.",
    )
