"""Guards: the resource refuses the stale holder.

A lock over a network is a lease, and a holder may go on after it has lost it. Its fencing token tells it apart: the
resource remembers the largest one that it has seen, and refuses smaller ones.

Promises: each guard raises the fence before it lets anything be read, compares and keeps the fence in the transaction
that does the work, and never reads a wrong token as "no fencing". Importing this imports no driver and no engine.
Does not promise anything of a resource that is not opened before it is read (rule D3), nor that a database which loses
committed transactions keeps its fences.
"""

from __future__ import annotations

from tenure.fencing.doors import asyncpg, django, open, psycopg, pymysql, schema, sqlalchemy, sqlite3
from tenure.fencing.guard import AsyncGuard, Guard
from tenure.fencing.objects.doors import read_s3, s3
from tenure.fencing.places import Row

__all__ = [
    "AsyncGuard",
    "Guard",
    "Row",
    "asyncpg",
    "django",
    "open",
    "psycopg",
    "pymysql",
    "read_s3",
    "s3",
    "schema",
    "sqlalchemy",
    "sqlite3",
]
