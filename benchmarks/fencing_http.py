"""What the middleware of fencing costs a request: an ASGI application called with it, and without.

No server and no socket, which would hide it. The field is the same each time, as a holder's is; or another one each
time, as of many holders. Nothing waits, so it is the thread's own time that is taken, whatever else the machine does.
The turns go in batches, A B A B ..., each batch a sample.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from benchmarks.table import Row, Samples
from tenure.fencing import Proof
from tenure.fencing.web.field import field
from tenure.integrations.asgi import FencingMiddleware

if TYPE_CHECKING:
    from collections.abc import Coroutine

WARM_UP = 2


def run(quick: bool) -> list[Row]:
    """Both kinds of field."""
    batches, turns = (10, 1000) if quick else (30, 3000)
    return [_row("the same token", batches, turns, [_scope(1)] * turns), _row("new tokens", batches, turns, None)]


def _row(what: str, batches: int, turns: int, scopes: list[dict[str, Any]] | None) -> Row:
    apps = (FencingMiddleware(_app), _app)
    samples: tuple[list[float], list[float]] = ([], [])
    for batch in range(WARM_UP + batches):
        sent = scopes or [_scope(1 + batch * turns + n) for n in range(turns)]
        for app, found in zip(apps, samples, strict=True):
            taken = _time(app, sent)
            if batch >= WARM_UP:
                found.append(taken)
    fenced, bare = samples
    return Row(
        f"a request through the ASGI middleware, {what}",
        "us",
        Samples("with", fenced),
        bound=Samples("without", bare),
        judge="over",
        at_most=50,
    )


def _scope(token: int) -> dict[str, Any]:
    shown = field(Proof("orders/42", 10**15 + token, 10**15 + token, "redis/app"))
    headers = [(b"host", b"localhost"), (b"accept", b"*/*"), (b"fencing-token", shown.encode())]
    return {"type": "http", "method": "PUT", "path": "/orders/42", "headers": headers}


async def _app(_: Any, __: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def _send(message: Any) -> None:
    """Nobody listens."""


def _time(app: Any, scopes: list[dict[str, Any]]) -> float:
    """Microseconds a request; nothing suspends, so that no loop is needed."""
    begun = time.thread_time()
    for scope in scopes:
        _run(app(scope, None, _send))
    return (time.thread_time() - begun) / len(scopes) * 1e6


def _run(request: Coroutine[Any, Any, None]) -> None:
    try:
        request.send(None)
    except StopIteration:
        return
    raise AssertionError("a request suspended")
