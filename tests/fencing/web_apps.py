"""One application, a fenced counter, in each framework: `GET /counter` reads it, `PUT /counter/NUMBER` writes it.

A request that says `X-Stop: 1` stands still in its handler until the test lets it go on. `guarded` handlers work under
the guard of sqlite3, with the proof of the request. Those that are not compare the token at the door, raise the fence
there, committed, and then work: what looks right and is not.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from tenure import fencing
from tests.servers.processes import PATIENCE
from tests.servers.web import serve_asgi, serve_wsgi

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tenure.fencing import Proof

RESOURCE = "counter"


class Counter:
    """The work of the handlers, and a way to stop one."""

    def __init__(self, folder: Path, *, guarded: bool) -> None:
        self.path = str(folder / "counter.db")
        self.guarded = guarded
        self.has_come = threading.Event()
        self.may_go = threading.Event()
        self.entered = 0
        with closing(self.connect()) as db:
            db.executescript(fencing.schema("sqlite"))
            db.executescript("CREATE TABLE counter (v INTEGER); INSERT INTO counter VALUES (0)")

    def connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=PATIENCE)

    def value(self) -> int:
        with closing(self.connect()) as db:
            [value] = db.execute("SELECT v FROM counter").fetchone()
        return int(value)

    def handle(self, proof: Proof, method: str, number: int, *, stop: bool) -> int:
        """What a handler does with a request; the counter."""
        self.entered += 1
        with closing(self.connect()) as db:
            if not self.guarded:
                fencing.open(db, proof, resource=RESOURCE)
            if stop:
                self.has_come.set()
                assert self.may_go.wait(PATIENCE)
            if self.guarded:
                with fencing.sqlite3(db, proof, resource=RESOURCE):
                    return self._work(db, method, number)
            with db:
                return self._work(db, method, number)

    def _work(self, db: sqlite3.Connection, method: str, number: int) -> int:
        if method == "PUT":
            db.execute("UPDATE counter SET v = ?", (number,))
        [value] = db.execute("SELECT v FROM counter").fetchone()
        return int(value)


def number_in(path: str) -> int:
    last = path.rpartition("/")[2]
    return int(last) if last.isdigit() else 0


def asgi(counter: Counter) -> AbstractContextManager[str]:
    from tenure.integrations.asgi import FencingMiddleware, shown

    async def app(scope: Any, receive: Any, send: Any) -> None:
        stop = any(name == b"x-stop" for name, _ in scope["headers"])
        number = number_in(scope["path"])
        value = await asyncio.to_thread(counter.handle, shown(scope), scope["method"], number, stop=stop)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(value).encode()})

    return serve_asgi(FencingMiddleware(app))


def wsgi(counter: Counter) -> AbstractContextManager[str]:
    from tenure.integrations.wsgi import FencingMiddleware, shown

    def app(environ: Any, start: Any) -> list[bytes]:
        number = number_in(environ["PATH_INFO"])
        value = counter.handle(shown(environ), environ["REQUEST_METHOD"], number, stop="HTTP_X_STOP" in environ)
        start("200 OK", [])
        return [str(value).encode()]

    return serve_wsgi(FencingMiddleware(app))


def fastapi(counter: Counter) -> AbstractContextManager[str]:
    from tests.fencing.web_fastapi import make

    return serve_asgi(make(counter))


@contextmanager
def django_wsgi(counter: Counter) -> Iterator[str]:
    with _django(counter):
        from django.core.handlers.wsgi import WSGIHandler

        with serve_wsgi(WSGIHandler()) as url:
            yield url


@contextmanager
def django_asgi(counter: Counter) -> Iterator[str]:
    with _django(counter):
        from django.core.handlers.asgi import ASGIHandler

        with serve_asgi(ASGIHandler()) as url:
            yield url


@contextmanager
def _django(counter: Counter) -> Iterator[None]:
    """A Django project of two views, one blocking and one not, for as long as the block lasts."""
    from types import ModuleType

    from django.http import HttpResponse
    from django.test import override_settings
    from django.urls import path

    from tenure.integrations.django.http import fenced
    from tests.fencing.orms import DjangoSession

    DjangoSession.set_up()

    @fenced
    def view(request: Any, number: int = 0) -> Any:
        stop = "X-Stop" in request.headers
        return HttpResponse(str(counter.handle(request.fencing, request.method, number, stop=stop)))

    @fenced
    async def later(request: Any, number: int = 0) -> Any:
        stop = "X-Stop" in request.headers
        return HttpResponse(
            str(await asyncio.to_thread(counter.handle, request.fencing, request.method, number, stop=stop))
        )

    urls: Any = ModuleType("urls")
    urls.urlpatterns = [
        path("counter", view),
        path("counter/<int:number>", view),
        path("later", later),
        path("later/<int:number>", later),
    ]
    with override_settings(
        ROOT_URLCONF=urls,
        ALLOWED_HOSTS=["127.0.0.1"],
        MIDDLEWARE=["tenure.integrations.django.http.FencingMiddleware"],
    ):
        yield


APPS: dict[str, Any] = {
    "asgi": asgi,
    "wsgi": wsgi,
    "fastapi": fastapi,
    "django-wsgi": django_wsgi,
    "django-asgi": django_asgi,
}
