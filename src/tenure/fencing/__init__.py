"""Guards: the resource refuses the stale holder.

A lock over a network is a lease, and a holder may go on after it has lost it. Its fencing token tells it apart: the
resource remembers the largest one that it has seen, and refuses smaller ones.

Promises: each guard raises the fence before it lets anything be read, compares and keeps the fence in the transaction
that does the work, and never reads a wrong token as "no fencing". Importing this imports no driver and no engine.
Does not promise anything of a resource that is not opened before it is read (rule D3), nor that a database which loses
committed transactions keeps its fences.
"""

from __future__ import annotations

from tenure.fencing.database.guard import AsyncGuard, Guard
from tenure.fencing.database.places import Row
from tenure.fencing.doors import asyncpg, django, file, open, psycopg, pymysql, redis, schema, sqlalchemy, sqlite3
from tenure.fencing.objects.doors import read_s3, s3
from tenure.fencing.rule import Proof
from tenure.fencing.web.doors import header, httpx, raise_for_refusal, requests, shown

__all__ = [
    "AsyncGuard",
    "Guard",
    "Proof",
    "Row",
    "asyncpg",
    "django",
    "file",
    "header",
    "httpx",
    "open",
    "psycopg",
    "pymysql",
    "raise_for_refusal",
    "read_s3",
    "redis",
    "requests",
    "s3",
    "schema",
    "shown",
    "sqlalchemy",
    "sqlite3",
]
