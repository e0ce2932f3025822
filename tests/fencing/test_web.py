"""Middleware and senders beside what every framework shares: doors, answers that have begun, other auth, alarms."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import requests
import requests.auth

import tenure
from tenure import fencing
from tenure.errors import FenceRegression, MissingToken, NotRaised, StaleToken, UsageError
from tenure.integrations.asgi import FencingMiddleware as ASGIMiddleware
from tenure.integrations.wsgi import FencingMiddleware as WSGIMiddleware
from tests.fencing.web_apps import Counter, _django
from tests.servers.processes import PATIENCE
from tests.servers.web import serve_asgi, serve_wsgi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tenure.fencing import Proof

    Act = Callable[[Proof], Any]

TOKEN = {"Fencing-Token": '"7";resource="counter"'}


def asgi(act: Act, **named: Any) -> AbstractContextManager[str]:
    """A server whose handler does something with the proof, after its answer has begun if the path says so."""
    from tenure.integrations.asgi import FencingMiddleware, shown

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/begun":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        act(shown(scope))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    if "door" in named:
        door = named.pop("door")

        async def later(proof: Proof) -> None:
            door(proof)

        named["door"] = later
    return serve_asgi(FencingMiddleware(app, **named))


def wsgi(act: Act, **named: Any) -> AbstractContextManager[str]:
    """The same; what it yields is begun by its first part."""
    from tenure.integrations.wsgi import FencingMiddleware, shown

    def app(environ: Any, start: Any) -> Iterator[bytes]:
        start("200 OK", [("X-Of", "the application")])
        if environ["PATH_INFO"] == "/begun":
            yield b"begun"
        act(shown(environ))
        yield b"done"

    return serve_wsgi(FencingMiddleware(app, **named))


@pytest.fixture(params=[asgi, wsgi], ids=["asgi", "wsgi"])
def serve(request: pytest.FixtureRequest) -> Any:
    return request.param


def put(url: str, headers: Any = TOKEN, method: str = "PUT") -> httpx.Response:
    return httpx.request(method, url, headers=headers, timeout=PATIENCE)


def refusing(error: Exception) -> Act:
    def act(proof: Proof) -> None:
        raise error

    return act


# -- middleware --------------------------------------------------------------------------------------------------------


def test_a_door_lets_no_request_start_once_a_later_token_was_seen(serve: Any, tmp_path: Path) -> None:
    counter = Counter(tmp_path, guarded=True)
    seen: list[int] = []

    def door(proof: Proof) -> None:
        with closing(counter.connect()) as db:
            fencing.open(db, proof)

    with serve(lambda proof: seen.append(proof.token), door=door) as url:
        for token, status in ((7, 200), (9, 200), (7, 412), (9, 200)):
            assert put(url, {"Fencing-Token": f'"{token}";resource="counter"'}).status_code == status
        assert put(url, {}).status_code == 428
    assert seen == [7, 9, 9]


@pytest.mark.parametrize("framework", ["asgi", "wsgi"])
def test_a_write_without_a_token_never_reaches_an_application_that_asks_for_none(framework: str) -> None:
    reached: list[str] = []

    async def later(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["method"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    def at_once(environ: Any, start: Any) -> list[bytes]:
        reached.append(environ["REQUEST_METHOD"])
        start("200 OK", [])
        return [b"done"]

    made = serve_asgi(ASGIMiddleware(later)) if framework == "asgi" else serve_wsgi(WSGIMiddleware(at_once))
    with made as url:
        assert put(url, {}).status_code == 428
        assert put(url, {}, "GET").status_code == 200
    assert reached == ["GET"]


def test_reads_need_no_token_unless_said_or_unless_the_handler_wants_it(serve: Any) -> None:
    seen: list[Proof] = []
    with serve(seen.append) as url:
        assert put(url, {}, "GET").status_code == 428, "the handler asked for it"
        assert put(url, method="GET").status_code == 200
    with serve(seen.append, methods={"GET"}) as url:
        assert put(url, {}, "GET").status_code == 428
    assert [proof.token for proof in seen] == [7]


def test_an_answer_that_has_begun_is_not_replaced(serve: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with serve(refusing(StaleToken("stale", token=7))) as url:
        try:
            text = put(f"{url}/begun").text
        except httpx.RemoteProtocolError:
            text = "begun, and cut off"
        assert text.startswith("begun")
        answer = put(url)
        assert answer.status_code == 412
        assert "X-Of" not in answer.headers
    capfd.readouterr()


@pytest.mark.parametrize(
    "error",
    [
        StaleToken("of the handler's own lease of something else", token=8),
        tenure.LeaseLost("the handler's own"),
        MissingToken("of a request that the handler has made itself"),
        tenure.MissingTable("there is no fence"),
    ],
    ids=repr,
)
def test_what_is_not_the_requests_doing_is_an_error_of_the_server(
    serve: Any, error: Exception, capfd: pytest.CaptureFixture[str]
) -> None:
    with serve(refusing(error)) as url:
        assert put(url).status_code == 500
    capfd.readouterr()


def test_what_is_not_http_passes() -> None:
    from tenure.integrations.asgi import FencingMiddleware

    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    scope: dict[str, Any] = {"type": "lifespan"}
    asyncio.run(FencingMiddleware(app)(scope, None, None))  # type: ignore[arg-type]
    assert seen == [scope]


# -- frameworks --------------------------------------------------------------------------------------------------------


def test_fastapi_documents_the_field(tmp_path: Path) -> None:
    from tests.fencing.web_fastapi import make

    document = make(Counter(tmp_path, guarded=True)).openapi()
    [parameter] = [p for p in document["paths"]["/counter"]["get"]["parameters"] if p["in"] == "header"]
    assert parameter["name"] == "Fencing-Token"


def test_django_without_the_middleware_is_the_servers_mistake(tmp_path: Path) -> None:
    from django.http import HttpRequest

    from tenure.integrations.django.http import fenced

    with _django(Counter(tmp_path, guarded=True)), pytest.raises(UsageError, match="MIDDLEWARE"):
        fenced(lambda request: None)(HttpRequest())


def test_django_rolls_back_what_a_refused_view_has_done(tmp_path: Path) -> None:
    """Under ATOMIC_REQUESTS the guard only checks; the refusal leaves the transaction before it becomes an answer."""
    from django.core.handlers.wsgi import WSGIHandler
    from django.db import connections, transaction
    from django.http import HttpResponse
    from django.urls import clear_url_caches

    from tenure.integrations.django.http import fenced
    from tests.fencing.orms import DjangoSession

    counter = Counter(tmp_path, guarded=True)
    alias = DjangoSession(counter.path).alias

    def work(request: Any) -> Any:
        connection = connections[alias]
        try:
            if request.method == "PATCH":
                with connection.cursor() as cursor:
                    cursor.execute("UPDATE counter SET v = 5")
            with fencing.django(connection, request.fencing, resource="counter"), connection.cursor() as cursor:
                cursor.execute("UPDATE counter SET v = v + 1")
        finally:
            if not connection.in_atomic_block:
                connection.close()
        return HttpResponse("done")

    with _django(counter):
        from django.conf import settings
        from django.urls import path

        settings.ROOT_URLCONF.urlpatterns += [
            path("atomic", fenced(work)),
            path("own", transaction.non_atomic_requests(alias)(fenced(work))),
        ]
        clear_url_caches()
        connections.settings[alias]["ATOMIC_REQUESTS"] = True
        try:
            with serve_wsgi(WSGIHandler()) as url:
                refused = put(f"{url}/atomic", method="PATCH")
                assert refused.status_code == 409
                with pytest.raises(NotRaised):
                    fencing.raise_for_refusal(refused)
                assert counter.value() == 0
                assert put(f"{url}/own").status_code == 200
                assert put(f"{url}/atomic").status_code == 200
        finally:
            connections.settings[alias]["ATOMIC_REQUESTS"] = False
            connections[alias].close()
    assert counter.value() == 2


# -- senders -----------------------------------------------------------------------------------------------------------


@contextmanager
def behind_auth() -> Iterator[str]:
    """A server that wants digest authentication, in two round trips, and then refuses the token; that hears all."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        assert b"fencing-token" in headers
        if b"authorization" not in headers:
            challenge = (b"www-authenticate", b'Digest realm="r", nonce="n", qop="auth", algorithm=MD5')
            await send({"type": "http.response.start", "status": 401, "headers": [challenge]})
            await send({"type": "http.response.body", "body": b""})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": headers[b"authorization"]})

    with serve_asgi(app) as url:
        yield url


def test_senders_go_with_other_auth() -> None:
    with behind_auth() as url:
        answer = httpx.put(
            url, timeout=PATIENCE, auth=fencing.httpx(7, resource="r", auth=httpx.DigestAuth("me", "secret"))
        )
        assert answer.text.startswith("Digest")

        async def later() -> str:
            async with httpx.AsyncClient(timeout=PATIENCE) as client:
                sender = fencing.httpx(7, resource="r", auth=httpx.DigestAuth("me", "secret"))
                return (await client.put(url, auth=sender)).text

        assert asyncio.run(later()).startswith("Digest")
        for auth in (requests.auth.HTTPBasicAuth("me", "secret"), requests.auth.HTTPDigestAuth("me", "secret")):
            found = requests.put(url, auth=fencing.requests(7, resource="r", auth=auth), timeout=PATIENCE)
            assert found.text.startswith(("Basic", "Digest"))


@pytest.mark.parametrize("sender", ["httpx", "requests", "async"])
def test_a_rightful_holder_that_is_refused_raises_an_alarm_and_keeps_its_lease(sender: str) -> None:
    with serve_fenced_at(2**62) as url:
        if sender == "async":

            async def later() -> None:
                async with tenure.AsyncClient("memory://") as client, httpx.AsyncClient(timeout=PATIENCE) as web:
                    lease = await client.lock("counter").acquire()
                    with pytest.raises(FenceRegression):
                        await web.put(url, auth=fencing.httpx(lease))
                    assert lease.held
                    await lease.release()

            asyncio.run(later())
            return
        with tenure.Client("memory://") as client, client.lock("counter") as lease:
            with pytest.raises(FenceRegression):
                if sender == "httpx":
                    httpx.put(url, timeout=PATIENCE, auth=fencing.httpx(lease))
                else:
                    requests.put(url, auth=fencing.requests(lease), timeout=PATIENCE)
            assert lease.held


def serve_fenced_at(fence: int) -> AbstractContextManager[str]:
    db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    db.executescript(fencing.schema("sqlite"))
    fencing.open(db, fence, resource="counter")

    def act(proof: Proof) -> None:
        with fencing.sqlite3(db, proof, resource="counter"):
            pass

    return asgi(act)


def test_a_refusal_of_another_token_leaves_the_lease_alone() -> None:
    """A server may pass on what a server of its own has said of its own token."""
    body = b'{"type": "urn:problem-type:tenure:stale-token", "status": 412, "resource": "counter", "token": "8"}'
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 412, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    with serve_asgi(app) as url, tenure.Client("memory://") as client, client.lock("counter") as lease:
        with pytest.raises(StaleToken):
            httpx.put(url, timeout=PATIENCE, auth=fencing.httpx(lease))
        assert lease.held


def test_what_others_answer_is_left_to_the_caller() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"application/problem+json")]
        await send({"type": "http.response.start", "status": 412, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"type": "about:blank"}'})

    with serve_asgi(app) as url:
        with httpx.stream("PUT", url, timeout=PATIENCE, auth=fencing.httpx(7, resource="r")) as answer:
            assert answer.status_code == 412
            assert not answer.is_closed
            assert answer.read() == b'{"type": "about:blank"}'
        found = requests.put(url, auth=fencing.requests(7, resource="r"), timeout=PATIENCE)
        fencing.raise_for_refusal(found)
        assert found.status_code == 412


def test_an_operation_that_is_sent_twice_is_done_once() -> None:
    done: list[int] = []
    db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    db.executescript(fencing.schema("sqlite"))

    def act(proof: Proof) -> None:
        with fencing.sqlite3(db, proof, resource="counter"):
            done.append(proof.seq)

    with asgi(act) as url:
        sender = fencing.httpx(7, resource="counter", seq=1)
        httpx.put(url, timeout=PATIENCE, auth=sender)
        with pytest.raises(tenure.StaleOperation) as refused:
            httpx.put(url, timeout=PATIENCE, auth=sender)
    assert refused.value.applied == 1
    assert done == [1]
