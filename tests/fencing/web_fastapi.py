"""The counter of `web_apps` in FastAPI, which reads the annotations of its routes."""

from typing import TYPE_CHECKING, Annotated

from fastapi import FastAPI, Header

from tenure.integrations.fastapi import FencingProof, add_fencing

if TYPE_CHECKING:
    from tests.fencing.web_apps import Counter


def make(counter: "Counter") -> FastAPI:
    """The application."""
    app = FastAPI()
    add_fencing(app)

    @app.get("/counter")
    def read(proof: FencingProof) -> int:
        return counter.handle(proof, "GET", 0, stop=False)

    @app.put("/counter/{number}")
    def write(number: int, proof: FencingProof, x_stop: Annotated[str | None, Header()] = None) -> int:
        return counter.handle(proof, "PUT", number, stop=x_stop is not None)

    return app
