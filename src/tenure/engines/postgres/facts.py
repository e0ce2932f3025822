"""What a PostgreSQL server says of itself, asked on one short-lived connection.

Promises: changes nothing. What this user may not ask is a gap in the facts, not an error.
Does not promise to see other users' transactions: that needs pg_monitor.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from psycopg.conninfo import conninfo_to_dict

from tenure.engines.postgres.link import unknown, wait_here
from tenure.errors import StoreUnavailable
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenure.engines.postgres.link import Answer, Link, Waiter
    from tenure.engines.postgres.url import PostgresUrl
    from tenure.model import Seconds

ASK_MOST: Final = 5.0
"""Seconds that connecting, and then each question, may take."""

SAMPLES: Final = 20
SAMPLING_MOST: Final = 2.0
"""Seconds after which no more round trips are measured; a slow network is known by then."""

_SETTINGS: Final = (
    "server_version", "fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names",
    "transaction_isolation", "max_connections", "superuser_reserved_connections", "statement_timeout",
    "server_encoding", "autovacuum",
)  # fmt: skip

_SERVER: Final = """
    SELECT json_build_object(
        'pid', pg_backend_pid(),
        'is_standby', pg_is_in_recovery(),
        'user', current_user,
        'connected', (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
        'replicas', (SELECT count(*) FROM pg_stat_replication),
        'oldest', (SELECT extract(epoch FROM clock_timestamp() - min(xact_start)) FROM pg_stat_activity
                    WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()),
        'system', has_function_privilege('pg_catalog.pg_control_system()', 'execute'),
        'settings', (SELECT json_object_agg(name, setting) FROM pg_settings WHERE name = ANY ($1::text[])))
"""


class Record(NamedTuple):
    """The genesis record, as `genesis_of` tells it."""

    format: int
    id: str
    steps: str
    largest: int


class Facts(NamedTuple):
    """All that was found out.

    Attributes:
        server: what it says of itself.
        settings: those that were asked for, by name.
        record: None where there is no schema that this user can see; `unread` says why.
        offset, error: the server's clock minus this host's in seconds, and by how much that may be wrong.
        trips: round trips in seconds.
        hosts: as the URL names them.
        is_pooled: somebody stands between.
    """

    server: dict[str, Any]
    settings: dict[str, str]
    record: Record | None
    unread: str
    offset: Seconds
    error: Seconds
    trips: tuple[Seconds, ...]
    hosts: tuple[str, ...]
    is_encrypted: bool
    is_verified: bool
    has_password: bool
    is_pooled: bool

    @property
    def trip(self) -> Seconds:
        """The median round trip."""
        return statistics.median(self.trips)


def ask_all(dial: Callable[[Seconds, Waiter], Link], parsed: PostgresUrl) -> Facts:
    """Ask on a connection of its own.

    Raises:
        StoreUnavailable, UnsafeSetup: the server cannot be asked.
    """
    link = dial(ASK_MOST, wait_here)
    try:
        server = json.loads(_ask(link, _SERVER, "{" + ",".join(_SETTINGS) + "}").value)
        told = _ask(link, f'SELECT "{parsed.schema}".genesis_of()')
        record = Record(*json.loads(told.value)[:4]) if told.value else None
        trips, offset, error = _timing(link)
        given = conninfo_to_dict(parsed.conninfo)
        return Facts(
            server,
            server["settings"],
            record,
            told.message,
            offset,
            error,
            trips,
            tuple(str(given.get("host", "")).split(",")),
            link.is_encrypted,
            given.get("sslmode") in ("verify-ca", "verify-full"),
            "password" in given,
            server["pid"] != link.backend_pid,
        )
    finally:
        link.close()


def _timing(link: Link) -> tuple[tuple[Seconds, ...], Seconds, Seconds]:
    trips: list[Seconds] = []
    best = (0.0, float("inf"))
    end = time.monotonic() + SAMPLING_MOST
    while len(trips) < SAMPLES and (not trips or time.monotonic() < end):
        begun, before = time.monotonic(), native.utc()
        theirs = float(_ask(link, "SELECT extract(epoch FROM clock_timestamp())").value)
        trips.append(time.monotonic() - begun)
        # The quickest trip says most: the server read its clock somewhere within it.
        best = min(best, (theirs - before - trips[-1] / 2, trips[-1] / 2), key=lambda pair: pair[1])
    return tuple(trips), *best


def _ask(link: Link, statement: str, *values: str) -> Answer:
    try:
        answer = link.ask(statement.encode(), [value.encode() for value in values], ASK_MOST, wait_here)
    except OSError as error:
        raise StoreUnavailable(f"the server cannot be examined: {unknown(error, ASK_MOST)}") from error
    if answer.is_fatal:
        raise StoreUnavailable(f"the server ended the examination: {answer.message}")
    return answer
