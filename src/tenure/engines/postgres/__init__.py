"""The PostgreSQL engine: locks between the hosts that share one PostgreSQL database.

Status: beta.
Promises: first come, first served; a step is one function call in one transaction; a grant is durable before it is
told, as far as the server syncs its commits; a lease ends at its ttl, a crash included; tokens rise over crashes, and
over a fail-over as long as the promoted server's clock then reads more than the largest token given.
Does not promise exclusion over a fail-over to a replica that lacks the last commits. The token protects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenure.engines.postgres.url import parse

if TYPE_CHECKING:
    from tenure.engines import Engine


def connect(url: str, namespace: str) -> Engine:  # noqa: ARG001 - its names carry the namespace
    """Make the engine of a `postgresql://` URL; no I/O. Only a URL that is right imports psycopg."""
    parsed = parse(url)
    from tenure.engines.postgres.engine import PostgresEngine

    return PostgresEngine(parsed)
