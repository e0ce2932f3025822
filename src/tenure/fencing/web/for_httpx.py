"""The sender of httpx: an `Auth`, for one request or a whole client, blocking or asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from tenure.fencing.web.field import NAME
from tenure.fencing.web.problems import is_problem
from tenure.fencing.web.sender import Sender, refusal_of
from tenure.runtimes.blocking import run

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator


class HTTPXSender(httpx.Auth):
    """Shows the token with each request, and raises what the server refuses."""

    def __init__(self, sender: Sender, auth: httpx.Auth | None) -> None:
        self._sender = sender
        self._auth = auth or httpx.Auth()

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Each request that the inner `auth` makes of it shows the token as well."""
        request.headers[NAME] = self._sender.field()
        flow = self._auth.sync_auth_flow(request)
        try:
            sent = next(flow)
            while True:
                response = yield sent
                if _may_refuse(response):
                    response.read()
                    if (error := refusal_of(response)) is not None:
                        run(self._sender.hear(error, is_async=False))
                sent = flow.send(response)
        except StopIteration:
            return
        finally:
            flow.close()

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """As `sync_auth_flow`."""
        request.headers[NAME] = self._sender.field()
        flow = self._auth.async_auth_flow(request)
        try:
            sent = await flow.__anext__()
            while True:
                response = yield sent
                if _may_refuse(response):
                    await response.aread()
                    if (error := refusal_of(response)) is not None:
                        await self._sender.hear(error, is_async=True)
                sent = await flow.asend(response)
        except StopAsyncIteration:
            return
        finally:
            await flow.aclose()


def _may_refuse(response: httpx.Response) -> bool:
    # Whatever else comes may be a stream, which is not ours to read.
    headers = response.headers
    return is_problem(response.status_code, headers.get("Content-Type"), headers.get("Content-Length"))
