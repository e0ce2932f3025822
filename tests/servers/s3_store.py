"""A program: moto's object store, in which each request is one atomic step, and which fails on demand.

moto compares a condition and stores in two steps, between which another of its threads can come; S3 does both in one.
So here a request is read, and then answered alone.

`POST /-/faults` takes a JSON list, of which each of the next PUTs (those of "method") takes one:

    {"status": 503, "code": "SlowDown"}      not done, and answered so
    {"status": 500, "code": "InternalError", "after": true}    done, and answered so
    null                                     as ever

`POST /-/ignore` takes a JSON list of header fields that are ignored from then on, such as "If-Match".
"""

from __future__ import annotations

import io
import json
import sys
import threading
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple


class Store:
    """A WSGI application around moto's."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._turn = threading.Lock()
        self._faults: list[dict[str, Any] | None] = []
        self._ignored: list[str] = []

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        environ["wsgi.input"] = io.BytesIO(body)
        with self._turn:
            return self._answer(environ, start, body)

    def _answer(self, environ: dict[str, Any], start: Any, body: bytes) -> list[bytes]:
        path = environ["PATH_INFO"]
        if path == "/-/faults":
            self._faults = json.loads(body)
            start("200 OK", [])
            return [b""]
        if path == "/-/ignore":
            self._ignored = json.loads(body)
            start("200 OK", [])
            return [b""]
        for field in self._ignored:
            environ.pop("HTTP_" + field.upper().replace("-", "_"), None)
        fault = self._faults.pop(0) if environ["REQUEST_METHOD"] == "PUT" and self._faults else None
        if fault is None:
            return list(self._app(environ, start))
        if fault.get("after"):
            list(self._app(environ, lambda *_: None))
        start(f"{fault['status']} {fault['code']}", [("Content-Type", "application/xml")])
        return [f"<Error><Code>{fault['code']}</Code><Message>by order</Message></Error>".encode()]


class Handler(WSGIRequestHandler):
    """Keeps connections, and prints nothing."""

    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        pass


if __name__ == "__main__":
    run_simple("127.0.0.1", int(sys.argv[1]), Store(), threaded=True, request_handler=Handler)
