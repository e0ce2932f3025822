"""The WSGI middleware of fencing, for applications that let their errors out.

Promises, and does not: as `tenure.integrations.asgi`. A framework that makes an answer of every error by itself, as
Flask does, needs an error handler that calls `problem`.
"""

from __future__ import annotations

import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from tenure.errors import MissingToken, TenureError
from tenure.fencing.web.doors import shown
from tenure.fencing.web.field import KEY, NAME, proof_of
from tenure.fencing.web.problems import problem
from tenure.integrations.asgi import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from tenure.fencing.rule import Proof

    Environ = dict[str, Any]
    Application = Callable[[Environ, Any], Iterable[bytes]]

__all__ = ["METHODS", "FencingMiddleware", "problem", "shown"]

_FIELD = "HTTP_" + NAME.upper().replace("-", "_")


def _nothing() -> None:
    """What an iterable without `close` has to do at its end."""


class FencingMiddleware:
    """Reads the token of each request, and answers for refusals."""

    def __init__(
        self, app: Application, *, methods: Collection[str] = METHODS, door: Callable[[Proof], None] | None = None
    ) -> None:
        """Wrap an application.

        Args:
            app: whatever is inside.
            methods: those that need a token, as with ASGI.
            door: called with each proof before the application, as with ASGI; it promises as little.
        """
        self._app = app
        self._methods = frozenset(methods)
        self._door = door

    def __call__(self, environ: Environ, start_response: Any) -> Iterator[bytes]:
        """Handle one request."""
        is_started = has_sent = False
        proof: Proof | None = None

        def starting(*said: Any) -> Any:
            nonlocal is_started
            is_started = True
            return start_response(*said)

        try:
            proof = self._proof(environ)
            if proof is not None and self._door is not None:
                self._door(proof)
            body = self._app(environ | {KEY: proof}, starting)
            try:
                for part in body:
                    has_sent = has_sent or bool(part)
                    yield part
            finally:
                getattr(body, "close", _nothing)()
        except TenureError as error:
            answer = problem(error, proof)
            if answer is None or has_sent:
                raise
            status = f"{answer.status} {HTTPStatus(answer.status).phrase}"
            # What was started and not sent is replaced, which a server wants to be told of by the error.
            start_response(status, list(answer.headers), *([sys.exc_info()] if is_started else []))
            yield answer.body

    def _proof(self, environ: Environ) -> Proof | None:
        # Two fields come as one, with a comma between: a list, which is refused.
        value = environ.get(_FIELD)
        if value is None:
            if environ["REQUEST_METHOD"] in self._methods:
                raise MissingToken(f"{environ['REQUEST_METHOD']} needs a {NAME}")
            return None
        return proof_of([value])
