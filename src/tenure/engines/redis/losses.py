"""What a Redis server's set-up loses of a lock: in a crash, with its memory full, in a fail-over.

Promises: as `doctor`, whose findings these are: from facts to sentences; what is not known is never taken for good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenure.findings import Finding, Grade

if TYPE_CHECKING:
    from tenure.engines.redis.facts import Server

FULL: Final = 0.9
"""The share of the memory from which on it is nearly used up."""


def in_the_way_of_durable_tokens(server: Server) -> list[str]:
    """What keeps tokens from rising whatever fails, each with what to change; empty if nothing does."""
    missing = []
    if server.is_watched:
        # Whatever each server keeps: the next master is another one, and may lack the last numbers.
        missing.append("a fail-over may lose the last numbers; use the redis:// URL of a server that is not replaced")
    if server.role != "master":
        missing.append(f"its role is {server.role or 'not known'}; give the URL of a master")
    for name, field, wanted in (
        ("appendonly", "aof_enabled", "yes"),
        ("appendfsync", "", "always"),
        ("no-appendfsync-on-rewrite", "", "no"),
        ("maxmemory-policy", "maxmemory_policy", "noeviction"),
    ):
        value = server.setting(name, field)
        if name == "appendonly" and server.is_appending is not None:
            value = "yes" if server.is_appending else "no"
        if value is None:
            missing.append(f"{name} is not known; let this user ask (+config|get)")
        elif value != wanted:
            missing.append(f"{name} is {value}; set it to {wanted}, in the server's configuration file too")
    if server.info.get("aof_last_write_status", "ok") != "ok":
        missing.append("its last write to the append-only file failed; look after its disk")
    return missing


def persistence(server: Server) -> Finding:
    """What a crash of the server loses."""
    rising = "Tokens still rise as long as its clock then reads more than the largest one given."
    always = "For none to be lost: CONFIG SET appendonly yes, then appendfsync always."
    refused = _refused_writes(server)
    if refused is not None:
        return refused
    if server.is_appending is None:
        return Finding("persistence", Grade.INFO, "not known: this user may use neither CONFIG GET nor INFO")
    if server.is_appending:
        return _appending(server, rising)
    save = server.config.get("save")
    if save is None:
        return Finding(
            "persistence",
            Grade.WARNING,
            "no append-only file; whether there are snapshots is not known",
            f"A crash loses the last grants, or all. {rising}",
            always,
        )
    if not save:
        return Finding(
            "persistence",
            Grade.WARNING,
            "none: neither append-only file nor snapshots",
            f"A crash loses every grant and every number; holders are told at their next heartbeat. {rising}",
            always,
        )
    return Finding(
        "persistence",
        Grade.WARNING,
        f"snapshots only (save {save})",
        f"A crash goes back to the last snapshot, minutes or an hour ago: later grants are lost, ended ones come back "
        f"until their ttl is over. {rising}",
        always,
    )


def _appending(server: Server, rising: str) -> Finding:
    fsync = server.config.get("appendfsync")
    if fsync == "always":
        if server.config.get("no-appendfsync-on-rewrite") != "yes":
            return Finding("persistence", Grade.OK, "append-only file, synced at each write: a crash loses nothing")
        return Finding(
            "persistence",
            Grade.INFO,
            "append-only file, synced at each write but while it is rewritten",
            f"A power failure during a rewrite loses the grants of that time. {rising}",
            "CONFIG SET no-appendfsync-on-rewrite no",
        )
    if fsync == "everysec":
        return Finding(
            "persistence",
            Grade.INFO,
            "append-only file, synced each second",
            f"A crash of the server loses nothing; a power failure loses the grants and numbers of the last second or "
            f"two. {rising}",
            "For none to be lost: CONFIG SET appendfsync always; each grant then waits for the disk.",
        )
    if fsync == "no":
        return Finding(
            "persistence",
            Grade.WARNING,
            "append-only file, synced when the system likes (about 30 s)",
            f"A power failure loses the grants and numbers since. {rising}",
            "CONFIG SET appendfsync everysec, or always",
        )
    return Finding(
        "persistence",
        Grade.INFO,
        "append-only file; how often it is synced is not known, for this user may not use CONFIG GET",
        f"A power failure may lose the last grants and numbers. {rising}",
    )


def _refused_writes(server: Server) -> Finding | None:
    """A disk that fails: the server then refuses every write (MISCONF)."""
    log = server.info.get("aof_last_write_status", "ok") != "ok"
    snapshot = server.info.get("rdb_last_bgsave_status", "ok") != "ok" and bool(server.config.get("save", "?"))
    if not log and (not snapshot or server.config.get("stop-writes-on-bgsave-error") == "no"):
        return None
    return Finding(
        "persistence",
        Grade.DANGER,
        f"the last {'write to the append-only file' if log else 'snapshot'} failed",
        "The server refuses writes (MISCONF): nothing is granted or renewed until one succeeds.",
        "Look after the server's disk and its log.",
    )


def eviction(server: Server) -> Finding:
    """Whether the server throws locks away when its memory is full."""
    policy = server.setting("maxmemory-policy", "maxmemory_policy")
    limit = number(server.setting("maxmemory", "maxmemory"))
    if policy is None or limit is None:
        means = "A server that evicts under allkeys-* throws locks away."
        return Finding("eviction", Grade.INFO, "not known: this user may use neither CONFIG GET nor INFO", means)
    evicted = number(server.info.get("evicted_keys")) or 0
    found = f"maxmemory {limit} bytes, policy {policy}" if limit else f"no maxmemory, policy {policy}"
    found += f"; {evicted} keys evicted since its start" if evicted else ""
    if policy.startswith("allkeys-"):
        change = "CONFIG SET maxmemory-policy noeviction, or give locks a server of their own"
        if not limit:
            return Finding("eviction", Grade.WARNING, found, "Once maxmemory is set, locks will be evicted.", change)
        return Finding(
            "eviction",
            Grade.DANGER,
            found,
            "When memory is full, the server evicts locks, sessions and the counter: two clients hold one name until "
            "the next heartbeat of the first.",
            change,
        )
    used = number(server.info.get("used_memory"))
    if limit and used is not None and used > limit * FULL:
        return Finding(
            "eviction",
            Grade.WARNING,
            f"{found}; {used} bytes ({used / limit:.0%}) are used",
            "When memory is full the server refuses new claims (OOM); what is held is still renewed and given back.",
            "Raise maxmemory, or give locks a server of their own.",
        )
    if policy.startswith("volatile-") and limit:
        return Finding(
            "eviction",
            Grade.INFO,
            found,
            "Only keys with a ttl are evicted. Of tenure's these are the mailboxes: a waiter whose message was evicted "
            "is served with its next heartbeat, not at once.",
        )
    return Finding("eviction", Grade.OK, found)


def replication(server: Server) -> Finding:
    """What a fail-over loses, and what happens without one."""
    if server.role not in (None, "master"):
        return Finding("replication", Grade.INFO, "a replica is not asked about replicas of its own")
    replicas = number(server.info.get("connected_slaves"))
    if replicas is None:
        return Finding("replication", Grade.INFO, "not known: this user may not use INFO")
    least = number(server.config.get("min-replicas-to-write"))
    good = number(server.info.get("min_slaves_good_slaves"))
    if least is None and good is not None:
        found = f"{replicas} replicas; min-replicas-to-write is set, to what is not known"
        return Finding("replication", Grade.INFO, found, "A fail-over loses what was not replicated yet.")
    found = f"{replicas} replicas, min-replicas-to-write {'not known' if least is None else least}"
    if least and good is not None and good < least:
        return Finding(
            "replication",
            Grade.DANGER,
            f"{found}, and {good} follow closely enough",
            "The server refuses writes (NOREPLICAS): nothing is granted or renewed.",
            "Bring the replicas back, or lower min-replicas-to-write.",
        )
    if not replicas:
        if server.is_watched:
            means = "The sentinels have nobody to fail over to."
            return Finding("replication", Grade.WARNING, found, means, "Add a replica.")
        return Finding("replication", Grade.OK, f"{found}: no fail-over can lose a grant")
    if least:
        return Finding(
            "replication",
            Grade.INFO,
            found,
            "Replication is asynchronous: a fail-over loses the last grants. A master cut off from its replicas stops "
            f"granting after {server.config.get('min-replicas-max-lag', '?')} s.",
        )
    return Finding(
        "replication",
        Grade.WARNING,
        found,
        "Replication is asynchronous: a fail-over loses the last grants, and a master that is cut off goes on granting "
        "while the promoted one grants too.",
        "CONFIG SET min-replicas-to-write 1; have tokens checked where it matters",
    )


def number(text: str | None) -> int | None:
    """A whole number; None if it is none, or unknown."""
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
