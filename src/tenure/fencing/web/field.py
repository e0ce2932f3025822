"""The field `Fencing-Token`: an item of RFC 9651, a string with parameters.

Promises: what one side writes the other reads, whatever characters a resource has. Everything else is `MalformedToken`:
a second field, a list, a number where there should be a string (integers of RFC 9651 end at 15 digits, and tokens have
16), a parameter that is not known or is there twice. What a server does not understand may be what protects it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from http_sf import DisplayString, StructuredFieldError, parse, ser

from tenure.arguments import text
from tenure.errors import MalformedToken, MissingToken, UsageError
from tenure.fencing.rule import RESOURCE_BYTES, TOKEN_MAX, Proof

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAME: Final = "Fencing-Token"

FIELD_BYTES: Final = 6144
"""The longest value: every resource and authority fits, with each byte escaped."""

KEY: Final = "tenure.fencing"
"""Where middleware leaves the proof of a request: in ASGI's scope, in WSGI's environ."""

_NUMBER: Final = re.compile(r"[1-9][0-9]{0,18}")
_KNOWN: Final = frozenset({"floor", "resource", "authority", "seq"})


def field(proof: Proof) -> str:
    """What a sender shows."""
    parameters: dict[str, Any] = {"floor": str(proof.floor), "resource": _said(proof.resource)}
    if proof.authority:
        parameters["authority"] = _said(proof.authority)
    if proof.seq:
        parameters["seq"] = str(proof.seq)
    return ser((str(proof.token), parameters))


def _said(words: str) -> str | DisplayString:
    """A string of RFC 9651 has ASCII only; the others are display strings."""
    return words if words.isascii() else DisplayString(words)


def proof_of(values: Sequence[str | bytes]) -> Proof:
    """Read what a request shows.

    Args:
        values: of all its fields of this name, each as it was sent.

    Raises:
        MissingToken: there is none.
        MalformedToken: it is none of ours.
    """
    if not values:
        raise MissingToken(f"the request has no {NAME}")
    if len(values) > 1:
        raise MalformedToken(f"the request has {len(values)} fields {NAME}, and one token is all that can be compared")
    [value] = values
    if isinstance(value, str):
        try:
            value = value.encode("latin-1")
        except UnicodeEncodeError:
            raise MalformedToken(f"{NAME}: only ASCII is allowed") from None
    return _read(value)


def shown(request: Mapping[str, Any]) -> Proof:
    """What the middleware has found in a request.

    Args:
        request: ASGI's scope, or WSGI's environ.

    Raises:
        MissingToken: the request shows none.
        UsageError: no middleware has looked.
    """
    if KEY not in request:
        raise UsageError("no FencingMiddleware has seen this request")
    proof = request[KEY]
    if not isinstance(proof, Proof):
        raise MissingToken(f"the request has no {NAME}")
    return proof


# A holder shows the same field again and again.
@lru_cache(maxsize=256)
def _read(value: bytes) -> Proof:
    if len(value) > FIELD_BYTES:
        raise MalformedToken(f"{NAME}: {len(value)} bytes are more than {FIELD_BYTES}")
    try:
        item = parse(value, tltype="item", on_duplicate_key=_refuse_twice)
    except StructuredFieldError as error:
        raise MalformedToken(f"{NAME}: {error}") from error
    # A type of RFC 9651 each: an item is its value and its parameters.
    bare, parameters = item if isinstance(item, tuple) else (item, {})
    if not isinstance(parameters, dict):
        raise MalformedToken(f"{NAME}: an item is needed")
    if unknown := parameters.keys() - _KNOWN:
        raise MalformedToken(f"{NAME}: unknown parameters: {', '.join(sorted(unknown))}")
    token = _number("token", bare)
    floor = _number("floor", parameters["floor"]) if "floor" in parameters else token
    seq = _number("seq", parameters["seq"]) if "seq" in parameters else 0
    if floor > token:
        raise MalformedToken(f"{NAME}: the floor is above the token")
    if seq and floor != token:
        raise MalformedToken(f"{NAME}: operations can be numbered under an exclusive lease only")
    resource = _words("resource", parameters.get("resource"), RESOURCE_BYTES, 1)
    authority = _words("authority", parameters.get("authority", ""), 2 * RESOURCE_BYTES)
    return Proof(resource, token, floor, authority, seq)


def _refuse_twice(key: str, what: str) -> None:
    raise StructuredFieldError(f"the {what} {key} is there twice")


def _number(what: str, said: Any) -> int:
    if not isinstance(said, str) or not _NUMBER.fullmatch(said) or int(said) > TOKEN_MAX:
        raise MalformedToken(f"{NAME}: {what}: a string of a whole number from 1 to {TOKEN_MAX} is needed")
    return int(said)


def _words(what: str, said: Any, most: int, least: int = 0) -> str:
    if not isinstance(said, str | DisplayString):
        raise MalformedToken(f"{NAME}: {what}: a string is needed")
    try:
        return text(what, str(said), most, least)
    except UsageError as error:
        raise MalformedToken(f"{NAME}: {error}") from None
