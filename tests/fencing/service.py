"""A program: a fenced service over HTTP. Its numbers are in databases of SQLite in its working directory.

    GET /STORE/fenced, PUT /STORE/fenced/NUMBER    the counter, under the guard of sqlite3, for who shows a token
    GET /STORE/NAME, PUT /STORE/NAME/NUMBER        any number, the counter too, for everybody
    GET /STORE/fence                               the fence's token, 0 if there is none

A handler works in a thread, as many at once as there are requests.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
from typing import Any

import uvicorn

from tenure import fencing
from tenure.fencing.web.field import KEY
from tenure.integrations.asgi import FencingMiddleware, shown

PATIENCE = 20

NUMBERS = "CREATE TABLE IF NOT EXISTS numbers (name TEXT PRIMARY KEY, n INTEGER)"

_kept = threading.local()


def database(store: str) -> sqlite3.Connection:
    """This thread's connection to a database, which is made when it is first wanted."""
    mine: dict[str, sqlite3.Connection] = _kept.__dict__
    if store not in mine:
        db = mine[store] = sqlite3.connect(f"{store}.db", timeout=PATIENCE)
        # The kernel keeps what a killed program has written.
        db.execute("PRAGMA synchronous = OFF")
        db.execute(NUMBERS)
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'tenure_fence'").fetchone():
            db.executescript(fencing.schema("sqlite").replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"))
        db.commit()
    return mine[store]


def number(db: sqlite3.Connection, name: str, written: int | None) -> int:
    """A number, set first if it is to be."""
    if written is not None:
        db.execute("INSERT OR REPLACE INTO numbers VALUES (?, ?)", (name, written))
    row = db.execute("SELECT n FROM numbers WHERE name = ?", (name,)).fetchone()
    return row[0] if row else 0


def handle(scope: Any, store: str, name: str, written: int | None) -> int:
    """One request; what is answered."""
    db = database(store)
    if name == "fenced":
        with fencing.sqlite3(db, shown(scope), resource="orders"):
            return number(db, "counter", written)
    if name == "fence":
        return int(db.execute("SELECT MAX(token) FROM tenure_fence").fetchone()[0] or 0)
    with db:
        return number(db, name, written)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Whatever the middleware lets through."""
    _, store, name, *written = scope["path"].split("/")
    value = await asyncio.to_thread(handle, scope, store, name, int(written[0]) if written else None)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(value).encode()})


fenced = FencingMiddleware(app)


async def service(scope: Any, receive: Any, send: Any) -> None:
    """Only the fenced counter wants a token."""
    if "/fenced" in scope["path"]:
        await fenced(scope, receive, send)
    else:
        await app({**scope, KEY: None}, receive, send)


if __name__ == "__main__":
    uvicorn.run(service, host="127.0.0.1", port=int(sys.argv[1]), lifespan="off", ws="none", log_level="critical")
