"""The sender of requests: an `AuthBase`, for one request or a whole session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from requests.auth import AuthBase

from tenure.fencing.web.field import NAME
from tenure.fencing.web.sender import Sender, refusal_of
from tenure.runtimes.blocking import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from requests import PreparedRequest, Response


class RequestsSender(AuthBase):
    """Shows the token with each request, and raises what the server refuses."""

    def __init__(self, sender: Sender, auth: Callable[[PreparedRequest], PreparedRequest] | None) -> None:
        self._sender = sender
        self._auth = auth

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Prepare one request."""
        request.headers[NAME] = self._sender.field()
        request.register_hook("response", self._hear)  # type: ignore[no-untyped-call]
        return request if self._auth is None else self._auth(request)

    def _hear(self, response: Response, **_: Any) -> None:
        if (error := refusal_of(response)) is not None:
            run(self._sender.hear(error, is_async=False))
