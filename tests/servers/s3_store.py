"""A program: moto's object store, in which each request is one atomic step, and which fails on demand.

moto compares a condition and stores in two steps, between which another of its threads can come; S3 does both in one.
So here a request is read, and then answered alone. moto keeps all in memory; what was acknowledged is also kept in a
file of the working directory, and is there again after a kill.

The server around it is the standard library's, and not werkzeug's, which closes the connection after each answer.

`POST /-/faults` takes a JSON list, of which each of the next PUTs (those of "method") takes one:

    {"status": 503, "code": "SlowDown"}      not done, and answered so
    {"status": 500, "code": "InternalError", "after": true}    done, and answered so
    null                                     as ever

`POST /-/ignore` takes a JSON list of header fields that are ignored from then on, such as "If-Match".
"""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from moto.moto_server.werkzeug_app import create_backend_app

KEPT = Path("kept")
"""A line for each request that changed something."""


class Answer(NamedTuple):
    """What a request is answered."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes = b""


class Store:
    """moto's WSGI application of S3, without its dispatcher, which lists a folder for each request."""

    def __init__(self) -> None:
        self._app: Any = create_backend_app("s3")
        self._turn = threading.Lock()
        self._faults: list[dict[str, Any] | None] = []
        self._ignored: list[str] = []
        for environ, body in _put_back():
            assert self._ask(environ, body).status == 200

    def answer(self, environ: dict[str, Any], body: bytes) -> Answer:
        """One request, alone."""
        with self._turn:
            if environ["PATH_INFO"] == "/-/faults":
                self._faults = json.loads(body)
                return Answer(200, [])
            if environ["PATH_INFO"] == "/-/ignore":
                self._ignored = json.loads(body)
                return Answer(200, [])
            for field in self._ignored:
                environ.pop(_variable(field), None)
            fault = self._faults.pop(0) if environ["REQUEST_METHOD"] == "PUT" and self._faults else None
            if fault is None:
                return self._done(environ, body)
            if fault.get("after"):
                self._done(environ, body)
            told = f"<Error><Code>{fault['code']}</Code><Message>by order</Message></Error>"
            return Answer(fault["status"], [("Content-Type", "application/xml")], told.encode())

    def _done(self, environ: dict[str, Any], body: bytes) -> Answer:
        answer = self._ask(environ, body)
        if answer.status < 300 and environ["REQUEST_METHOD"] in ("PUT", "DELETE"):
            _keep(environ, body)
        return answer

    def _ask(self, environ: dict[str, Any], body: bytes) -> Answer:
        said: list[tuple[str, list[tuple[str, str]]]] = []
        parts = self._app({**environ, "wsgi.input": io.BytesIO(body)}, lambda *words: said.append(words[:2]))
        whole = b"".join(parts)
        [(status, fields)] = said
        return Answer(int(status.partition(" ")[0]), fields, whole)


def _put_back() -> list[tuple[dict[str, Any], bytes]]:
    """The last PUT of each path that was not deleted; buckets first, whose paths are shorter."""
    found: dict[str, str] = {}
    for line in KEPT.read_text().splitlines(keepends=True) if KEPT.exists() else ():
        if not line.endswith("\n"):
            break  # A kill has cut it off, so it was not acknowledged.
        method, path, _, _ = json.loads(line)
        found.pop(path, None)
        if method == "PUT":
            found[path] = line
    # No more than that is kept, so that the next start does not take longer.
    new = KEPT.with_name("new")
    new.write_text("".join(found.values()))
    new.rename(KEPT)
    kept = [json.loads(found[path]) for path in sorted(found, key=len)]
    return [({**words, "wsgi.errors": sys.stderr}, base64.b64decode(body)) for _, _, words, body in kept]


def _keep(environ: dict[str, Any], body: bytes) -> None:
    """Note what was done, without its conditions."""
    words = {name: said for name, said in environ.items() if isinstance(said, str) and not name.startswith("HTTP_IF_")}
    path = f"{environ['PATH_INFO']}?{environ['QUERY_STRING']}"
    line = [environ["REQUEST_METHOD"], path, words, base64.b64encode(body).decode()]
    with KEPT.open("a") as kept:
        kept.write(json.dumps(line) + "\n")


def _variable(field: str) -> str:
    name = field.upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"


class Handler(BaseHTTPRequestHandler):
    """Keeps connections, and prints nothing."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    store: Store

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        environ = {
            "REQUEST_METHOD": self.command,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote(path, "latin-1"),
            "QUERY_STRING": query,
            "RAW_URI": self.path,
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": sys.argv[1],
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.url_scheme": "http",
            "wsgi.errors": sys.stderr,
            **{_variable(field): said for field, said in self.headers.items()},
        }
        status, fields, said = self.store.answer(environ, body)
        self.send_response(status)
        for field, value in fields:
            if field.lower() not in ("content-length", "date", "server"):
                self.send_header(field, value)
        # A HEAD is told how long its answer would be; a 204 has none.
        if status != 204:
            told = next((value for field, value in fields if field.lower() == "content-length"), str(len(said)))
            self.send_header("Content-Length", told if self.command == "HEAD" else str(len(said)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815 - what the base class looks for

    def log_message(self, format: str, *args: Any) -> None:
        pass


if __name__ == "__main__":
    Handler.store = Store()
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
