"""Real HTTP servers for tests, in threads of the test's process, so that a test can stop a handler where it likes."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import uvicorn

from tests.servers.processes import HOST, PATIENCE, port_of, reserve_port, until

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def serve_asgi(app: Any) -> Iterator[str]:
    """Uvicorn with an ASGI application; its URL."""
    holder = reserve_port()
    config = uvicorn.Config(app, host=HOST, port=port_of(holder), lifespan="off", ws="none", log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started, "uvicorn serves")
        yield f"http://{HOST}:{port_of(holder)}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        holder.close()


@contextmanager
def serve_wsgi(app: Any) -> Iterator[str]:
    """The standard library's server with a WSGI application, a thread for each request; its URL."""
    server = make_server(HOST, 0, app, server_class=_Server, handler_class=_Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(PATIENCE)
        server.server_close()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass
