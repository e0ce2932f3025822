"""Points at which a holder can be stopped: before each statement of its connection, and wherever it says so itself.

Promises: a watched connection works as before; each statement that it sends passes a point first, those that its driver
or a guard sends by itself too. To stop there is to send late: for the database there is no difference between a holder
that was paused and a statement that was held up in the network.
Does not promise to see what a driver bundles: of statements that travel together the first one is the point.
"""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from weakref import WeakSet

from tenure.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tenure.fencing.keyspace.wires import ScriptWire

    Reach = Callable[[str], None]

C = TypeVar("C")

SHOWN_MOST: Final = 100
"""Characters of a statement in a timeline."""


class Stepped(Protocol):
    """Whoever can be stopped."""

    def reach(self, place: str) -> None:
        """It comes to a point; may block its thread there."""
        ...


actor: ContextVar[Stepped | None] = ContextVar("actor", default=None)
"""Whose code runs here; a task and a thread of `asyncio.to_thread` inherit it."""


def point(place: str) -> None:
    """Let a drill stop the holder here; does nothing outside of a drill.

    For what has no connection that can be watched: call it before each request, from a hook of your transport or from
    a wrapper. It blocks the thread, under asyncio too: there the whole loop is stopped, as a paused process is.

    Args:
        place: what comes next, for the timeline.
    """
    who = actor.get()
    if who is not None:
        who.reach(place)


def watch(connection: C) -> C:
    """Make each statement of a connection a point of the drill; does nothing outside of one.

    A drill does it with what `connect` returns. Do it yourself, inside of `connect`, for the connection that a pool or
    an ORM keeps to itself.

    Args:
        connection: of sqlite3, psycopg (blocking or asyncio), PyMySQL, Django; a `Connection` or `Session` of
            SQLAlchemy (blocking or asyncio); a client of redis-py (blocking or asyncio).

    Returns:
        The connection itself.

    Raises:
        UsageError: nobody knows how to watch it; use `point`.
    """
    who = actor.get()
    if who is None:
        return connection
    if not try_watch(connection, who.reach):
        raise UsageError(
            f"connection: nobody knows how to watch {type(connection).__name__}; there are {', '.join(WATCHERS)}. "
            "Call tenure.testing.point() before each request instead"
        )
    return connection


def try_watch(connection: Any, reach: Reach) -> bool:
    """Watch a connection, if its kind is known."""
    for root in (kind.__module__.partition(".")[0] for kind in type(connection).__mro__):
        if root in WATCHERS:
            WATCHERS[root](connection, reach)
            return True
    return False


def shown(statement: Any) -> str:
    """A statement in one line."""
    text = statement.decode("utf-8", "replace") if isinstance(statement, bytes) else str(statement)
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_MOST else text[: SHOWN_MOST - 3] + "..."


def _sqlite3(connection: Any, reach: Reach) -> None:
    def begins(statement: str) -> None:
        # Called before SQLite takes a lock for it; what a trigger does is part of its statement.
        if not statement.startswith("--"):
            reach(shown(statement))

    connection.set_trace_callback(begins)


def _psycopg(connection: Any, reach: Reach) -> None:
    # All that a connection sends, it sends in a generator that is handed to this method.
    wait = connection.wait

    def stepped(gen: Any, *args: Any, **named: Any) -> Any:
        reach(_of_generator(gen))
        return wait(gen, *args, **named)

    async def stepped_async(gen: Any, *args: Any, **named: Any) -> Any:
        reach(_of_generator(gen))
        return await wait(gen, *args, **named)

    connection.wait = stepped_async if inspect.iscoroutinefunction(wait) else stepped


def _of_generator(gen: Any) -> str:
    """What a generator of psycopg is about to send: for the timeline alone, so that anything may be missing."""
    frame = getattr(gen, "gi_frame", None)
    known = {} if frame is None else frame.f_locals
    statement = known.get("query") or known.get("statement")
    if statement is None:
        return {"_enter_gen": "BEGIN", "_exit_gen": "end of the transaction"}.get(
            getattr(gen, "__name__", ""), getattr(gen, "__name__", "?").strip("_").removesuffix("_gen").upper()
        )
    return shown(statement)


def _pymysql(connection: Any, reach: Reach) -> None:
    execute = connection._execute_command  # noqa: SLF001 - the one place through which every command goes

    def stepped(command: Any, sql: Any) -> Any:
        # A ping carries nothing and changes nothing.
        if sql:
            reach(shown(sql))
        return execute(command, sql)

    connection._execute_command = stepped  # noqa: SLF001


def _redis(client: Any, reach: Reach) -> None:
    # Under asyncio these return awaitables, which are sent a little later; the point comes before that all the same.
    def stepped(owner: Any, method: str, name: str = "") -> None:
        call = getattr(owner, method)

        def reached(*args: Any, **named: Any) -> Any:
            reach(name or shown(" ".join(str(part) for part in args)))
            return call(*args, **named)

        setattr(owner, method, reached)

    pipeline = client.pipeline

    def stepped_pipeline(*args: Any, **named: Any) -> Any:
        made = pipeline(*args, **named)
        stepped(made, "immediate_execute_command")
        stepped(made, "execute", "EXEC")
        return made

    stepped(client, "execute_command")
    client.pipeline = stepped_pipeline
    _step_guards_of_redis()


@lru_cache(maxsize=1)
def _step_guards_of_redis() -> None:
    """Those take the client's connections and pass it by; so, as with SQLAlchemy, whoever runs is asked."""
    from tenure.fencing.keyspace.wires import ScriptWire

    run = ScriptWire.run

    async def stepped(self: ScriptWire, script: Any, keys: Sequence[Any], values: Sequence[Any]) -> Any:
        words = (part.decode("utf-8", "replace") if isinstance(part, bytes) else str(part) for part in (*keys, *values))
        point(shown(" ".join(("EVALSHA", *words))))
        return await run(self, script, keys, values)

    ScriptWire.run = stepped  # type: ignore[method-assign]


def _django(connection: Any, reach: Reach) -> None:
    connection.ensure_connection()
    # Behind it is the driver's own.
    raw = connection.connection
    if not try_watch(raw, reach):
        raise UsageError(f"connection: nobody knows how to watch {type(raw).__name__}, which Django uses here")


def _sqlalchemy(connection: Any, reach: Reach) -> None:  # noqa: ARG001 - engines are shared: whoever runs is asked
    from sqlalchemy import event

    # A session makes its connection when it first needs one, so the engine is listened to.
    engine = connection.get_bind() if hasattr(connection, "get_bind") else connection.engine
    engine = getattr(engine, "sync_engine", getattr(engine, "engine", engine))
    if engine in _listened:
        return
    _listened.add(engine)
    event.listen(engine, "before_cursor_execute", lambda _conn, _cursor, statement, *_: point(shown(statement)))
    event.listen(engine, "commit", lambda _conn: point("COMMIT"))
    event.listen(engine, "rollback", lambda _conn: point("ROLLBACK"))


_listened: Final[WeakSet[Any]] = WeakSet()


WATCHERS: Final[dict[str, Callable[[Any, Reach], None]]] = {
    "sqlite3": _sqlite3,
    "psycopg": _psycopg,
    "pymysql": _pymysql,
    "redis": _redis,
    "django": _django,
    "sqlalchemy": _sqlalchemy,
}
"""By the root of the module of the connection's class."""
