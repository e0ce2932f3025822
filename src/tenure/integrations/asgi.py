"""The ASGI middleware of fencing, for Starlette, FastAPI, Litestar, Quart and whatever else speaks ASGI.

Promises: a request that may change something and shows no token is answered 428, one that shows no good one 400, and
neither reaches the application; refusals that the handler raises become the answers that senders understand. Does not
promise that a stale write is kept out: the handler does that, with a guard in its own transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tenure.errors import MissingToken, TenureError
from tenure.fencing.web.doors import shown
from tenure.fencing.web.field import KEY, NAME, proof_of
from tenure.fencing.web.problems import problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, MutableMapping

    from tenure.fencing.rule import Proof
    from tenure.fencing.web.problems import Problem

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

__all__ = ["METHODS", "FencingMiddleware", "shown"]

METHODS: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
"""Those that may change something, and so need a token unless said otherwise."""

_FIELD: Final = NAME.lower().encode()


class FencingMiddleware:
    """Reads the token of each request, and answers for refusals."""

    def __init__(
        self,
        app: Application,
        *,
        methods: Collection[str] = METHODS,
        door: Callable[[Proof], Awaitable[None]] | None = None,
    ) -> None:
        """Wrap an application.

        Args:
            app: whatever is inside.
            methods: those that need a token. A request of another one may show it: a read on which a write will rest
                must, so that its handler can raise the fence before it reads.
            door: awaited with each proof before the application; it raises what it refuses. With a store of fences
                behind it, no request *starts* once a later token was seen; one that is delayed inside of its handler
                still writes.
        """
        self._app = app
        self._methods = frozenset(methods)
        self._door = door

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Handle one connection; those that are not HTTP pass as they are."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_started = False
        proof: Proof | None = None

        async def sending(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            values = [value for name, value in scope["headers"] if name == _FIELD]
            if values:
                proof = proof_of(values)
                if self._door is not None:
                    await self._door(proof)
            elif scope["method"] in self._methods:
                raise MissingToken(f"{scope['method']} needs a {NAME}")
            await self._app({**scope, KEY: proof}, receive, sending)
        except TenureError as error:
            answer = problem(error, proof)
            if answer is None or has_started:
                raise
            await _answer(answer, send)


async def _answer(answer: Problem, send: Send) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
