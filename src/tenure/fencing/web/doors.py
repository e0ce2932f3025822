"""Fencing over HTTP by the names that users call; libraries are imported when they are first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from httpx import Auth
    from requests import PreparedRequest

    from tenure.fencing.doors import Shown
    from tenure.fencing.rule import Proof
    from tenure.fencing.web.for_httpx import HTTPXSender
    from tenure.fencing.web.for_requests import RequestsSender


def header(lease: Shown, *, resource: str | None = None, seq: int | None = None) -> dict[str, str]:
    """The header that shows a token, to be sent by whatever sends; call it anew for each request.

    Who uses it hears of refusals by `raise_for_refusal`, and tells the lease by `lease.refused()`.

    Args:
        lease: who asks.
        resource: what the server protects, by the server's name for it; the locked name by default.
        seq: the number of this operation, from 1, rising: its delayed duplicate is refused. Exclusive leases only.

    Raises:
        LeaseLost: the lease is lost: stop, and send nothing.
        UsageError: an argument is wrong.
    """
    from tenure.fencing.web.field import NAME
    from tenure.fencing.web.sender import Sender

    return {NAME: Sender(lease, resource, seq).field()}


def httpx(
    lease: Shown, *, resource: str | None = None, seq: int | None = None, auth: Auth | None = None
) -> HTTPXSender:
    """Show the token with requests of httpx: `client.put(url, auth=tenure.fencing.httpx(lease))`.

    Takes blocking clients and asyncio ones.

    Args:
        lease: who asks. Under asyncio either client's; an `AsyncLease` with a blocking client cannot be asked whether
            a refusal is a `FenceRegression`.
        resource: what the server protects, by the server's name for it; the locked name by default.
        seq: the number of this operation, from 1, rising: its delayed duplicate is refused. Exclusive leases only.
        auth: another `httpx.Auth` to use as well.

    Raises, from the request:
        LeaseLost: the lease is lost; nothing was sent.
        StaleToken: the server has seen a later holder. It did nothing, and the lease is lost.
        StaleOperation, NotRaised, ForeignToken, FenceRegression, MissingToken, MalformedToken, WrongResource: the
            server refused for that reason. It did nothing, and the lease is as it was.
        httpx's errors: as ever. Of a request without an answer nobody knows whether it was done.
    """
    from tenure.fencing.web.for_httpx import HTTPXSender
    from tenure.fencing.web.sender import Sender

    return HTTPXSender(Sender(lease, resource, seq), auth)


def requests(
    lease: Shown,
    *,
    resource: str | None = None,
    seq: int | None = None,
    auth: Callable[[PreparedRequest], PreparedRequest] | None = None,
) -> RequestsSender:
    """Show the token with requests of requests: `requests.put(url, auth=tenure.fencing.requests(lease))`.

    Args, and what is raised: as `httpx`; `auth` is an `AuthBase` of requests.
    """
    from tenure.fencing.web.for_requests import RequestsSender
    from tenure.fencing.web.sender import Sender

    return RequestsSender(Sender(lease, resource, seq), auth)


def raise_for_refusal(response: Any) -> None:
    """Raise what a server's answer refuses; return if it refuses nothing that has to do with fencing.

    Args:
        response: of httpx or requests, read to its end.

    Raises:
        StaleToken, StaleOperation, NotRaised, ForeignToken, FenceRegression, MissingToken, MalformedToken,
            WrongResource: the server did nothing, for that reason.
    """
    from tenure.fencing.web.sender import refusal_of

    if (error := refusal_of(response)) is not None:
        raise error


def shown(request: Mapping[str, Any]) -> Proof:
    """Give what a request shows to its handler, whose guard takes it as it takes a lease.

    Args:
        request: ASGI's scope or WSGI's environ, which the `FencingMiddleware` of `tenure.integrations` has seen.

    Raises:
        MissingToken: the request shows none; the middleware answers 428.
        UsageError: no middleware has seen it.
    """
    from tenure.fencing.web.field import shown

    return shown(request)
