"""FastAPI: a dependency that reads the token, and handlers that answer for refusals.

    app = FastAPI()
    add_fencing(app)

    @app.put("/orders/{id}")
    def put(id: int, proof: FencingProof) -> None:
        with tenure.fencing.psycopg(connection, proof, resource=f"orders/{id}") as tx: ...

Promises: a route with `FencingProof` is not entered without a good token (428 and 400), and the field stands in the
OpenAPI document; what the guard refuses becomes the answer that senders understand. Does not promise that a route
without it asks for a token, nor that one which writes without a guard keeps anybody out.
"""

# No "from __future__ import annotations": FastAPI reads the annotations of the dependency.

from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import Depends, Header
from starlette.requests import Request
from starlette.responses import Response

from tenure.fencing.rule import Proof
from tenure.fencing.web.field import FIELD_BYTES, KEY, NAME, proof_of
from tenure.fencing.web.problems import KINDS, problem

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["FencingProof", "add_fencing", "fencing_proof"]

_DESCRIPTION: Final = (
    "The fencing token of the sender's lease: an item of RFC 9651, a string with the parameters floor, resource, "
    f"authority and seq, of at most {FIELD_BYTES} bytes. 428: missing; 400: not readable; 412: stale, stop."
)


async def fencing_proof(
    request: Request, values: Annotated[list[str] | None, Header(alias=NAME, description=_DESCRIPTION)] = None
) -> Proof:
    """Read what the request shows.

    Raises:
        MissingToken, MalformedToken: which `add_fencing` answers for.
    """
    proof = proof_of(values or [])
    request.scope[KEY] = proof
    return proof


FencingProof = Annotated[Proof, Depends(fencing_proof)]
"""What a request shows; a route with a parameter of this type needs a token."""


def add_fencing(app: "FastAPI") -> None:
    """Answer for refusals, wherever they are raised."""
    for kind in KINDS:
        app.add_exception_handler(kind.error, _answer)


async def _answer(request: Request, error: Exception) -> Response:
    proof: Any = request.scope.get(KEY)
    answer = problem(error, proof)
    if answer is None:
        raise error
    return Response(answer.body, answer.status, dict(answer.headers))
