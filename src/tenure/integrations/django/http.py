"""Fencing over HTTP in Django: a middleware that reads tokens and answers for refusals, and a decorator that wants one.

    MIDDLEWARE = [..., "tenure.integrations.django.http.FencingMiddleware"]

    @fenced
    def put(request, id):
        with tenure.fencing.django(connection, request.fencing, resource=f"orders/{id}"): ...

Promises: a view with the decorator is not entered without a good token (428 and 400); what the guard refuses leaves
the view, and every `atomic` around it, as an error, and becomes an answer only outside of them. Does not promise
anything of a view that writes without a guard.

Under ATOMIC_REQUESTS a view has begun its transaction when it is entered, where the guard can only check: take it out
with `transaction.non_atomic_requests`, and let the guard's block be the transaction.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpResponse

from tenure.errors import MalformedToken, MissingToken, UsageError
from tenure.fencing.web.field import NAME, proof_of
from tenure.fencing.web.problems import problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenure.fencing.rule import Proof

V = TypeVar("V", bound="Callable[..., Any]")


class FencingMiddleware:
    """Leaves the proof of each request in `request.fencing`, None if it shows none; blocking and asyncio."""

    sync_capable: ClassVar[bool] = True
    async_capable: ClassVar[bool] = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """Handle one request; what is no good token is answered 400, whatever the view."""
        try:
            # Two fields come as one, with a comma between: a list, which is refused.
            value = request.headers.get(NAME)
            request.fencing = None if value is None else proof_of([value])
        except MalformedToken as error:
            answer = _response(error, None)
            return _later(answer) if iscoroutinefunction(self) else answer
        return self._get_response(request)

    def process_exception(self, request: Any, error: Exception) -> Any:
        """Make an answer of a refusal; outside of the view's transaction, which an error has rolled back."""
        return _response(error, getattr(request, "fencing", None))


def fenced(view: V) -> V:
    """Enter a view, blocking or not, only if the request shows a token.

    Raises, where the view is called:
        MissingToken: which the middleware answers with 428.
        UsageError: the middleware is not there.
    """

    @functools.wraps(view)
    def checked(request: Any, *args: Any, **named: Any) -> Any:
        _demand(request)
        return view(request, *args, **named)

    @functools.wraps(view)
    async def checked_later(request: Any, *args: Any, **named: Any) -> Any:
        _demand(request)
        return await view(request, *args, **named)

    made: Any = checked_later if iscoroutinefunction(view) else checked
    return made  # type: ignore[no-any-return]  # it takes and gives what the view does


def _demand(request: Any) -> None:
    if not hasattr(request, "fencing"):
        raise UsageError("tenure.integrations.django.http.FencingMiddleware is missing in MIDDLEWARE")
    if request.fencing is None:
        raise MissingToken(f"this needs a {NAME}")


async def _later(answer: Any) -> Any:
    return answer


def _response(error: Exception, proof: Proof | None) -> Any:
    answer = problem(error, proof)
    if answer is None:
        return None
    return HttpResponse(answer.body, status=answer.status, headers=dict(answer.headers))
