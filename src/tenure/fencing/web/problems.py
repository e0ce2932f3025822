"""Refusals as answers, and answers as refusals: problem details of RFC 9457.

Promises: a refusal raised on the server comes out of the client as the same class. Does not promise all that it told:
the largest token that a resource has seen stays on the server, since whoever knew it could outbid it.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenure.errors import (
    FenceRegression,
    ForeignToken,
    MalformedToken,
    MissingToken,
    NotRaised,
    StaleOperation,
    StaleToken,
    TenureError,
    WrongResource,
)

if TYPE_CHECKING:
    from tenure.fencing.rule import Proof

MEDIA_TYPE: Final = "application/problem+json"

PROBLEM_BYTES: Final = 16 * 1024
"""The longest problem that is read; ours have at most a third of it."""

_PREFIX: Final = "urn:problem-type:tenure:"


class Kind(NamedTuple):
    """One type of problem.

    Attributes:
        error: the class of the refusal.
        name: the end of its type's URI.
        status: of the answer.
        title: what it says to people.
        is_shown: whether it is about the token that the request showed, and names it.
    """

    error: type[TenureError]
    name: str
    status: int
    title: str
    is_shown: bool = True


KINDS: Final = (
    Kind(MissingToken, "missing-token", 428, "This needs a fencing token", is_shown=False),
    Kind(MalformedToken, "malformed-token", 400, "The fencing token cannot be read", is_shown=False),
    Kind(WrongResource, "wrong-resource", 400, "The fencing token is for another resource", is_shown=False),
    Kind(StaleToken, "stale-token", 412, "A later holder has been here"),
    Kind(StaleOperation, "stale-operation", 409, "This operation was done before"),
    Kind(NotRaised, "not-raised", 409, "The fence has not seen this holder yet: read, and only then write"),
    Kind(ForeignToken, "foreign-token", 409, "The fence has tokens of another authority"),
    Kind(FenceRegression, "fence-regression", 409, "The fence is above the tokens of its own authority"),
)

_BY_TYPE: Final = {_PREFIX + kind.name: kind for kind in KINDS}
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,18}")


class Problem(NamedTuple):
    """An answer that refuses.

    Attributes:
        status: of the answer.
        headers: its fields, as pairs.
        body: problem details, in ASCII.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def problem(error: BaseException, proof: Proof | None = None) -> Problem | None:
    """The answer to a request that ended with an error, or None if it is not the request's doing.

    Args:
        error: whatever was raised.
        proof: what the request had shown, if anything. A refusal of another token, which the handler uses on its own
            account, is the server's matter and no answer.
    """
    kind = next((kind for kind in KINDS if isinstance(error, kind.error)), None)
    if kind is None or (kind.is_shown and (proof is None or getattr(error, "token", None) != proof.token)):
        return None
    if kind.error is MissingToken and proof is not None:
        return None
    said: dict[str, Any] = {"type": _PREFIX + kind.name, "title": kind.title, "status": kind.status}
    if kind.is_shown and proof is not None:
        said |= {"resource": proof.resource, "token": str(proof.token)}
    else:
        said["detail"] = str(error)
    if isinstance(error, StaleOperation):
        said |= {"seq": str(error.seq), "applied": str(error.applied)}
    body = json.dumps(said).encode()
    headers = (("Content-Type", MEDIA_TYPE), ("Content-Length", str(len(body))), ("Cache-Control", "no-store"))
    return Problem(kind.status, headers, body)


def is_problem(status: int, content_type: str | None, length: str | None) -> bool:
    """Whether the body of an answer is worth reading: it may be one of ours, and is short."""
    if status not in {kind.status for kind in KINDS} or content_type is None:
        return False
    is_short = length is not None and length.isascii() and length.isdigit() and int(length) <= PROBLEM_BYTES
    return is_short and content_type.partition(";")[0].strip().lower() == MEDIA_TYPE


def refusal_in(status: int, body: bytes) -> TenureError | None:
    """The refusal that an answer says, or None if it says something else."""
    try:
        said = json.loads(body)
    except ValueError:
        return None
    if not isinstance(said, dict) or not isinstance(said.get("type"), str):
        return None
    kind = _BY_TYPE.get(said["type"])
    if kind is None or kind.status != status:
        return None
    if not kind.is_shown:
        return kind.error(str(said.get("detail", kind.title)))
    named: dict[str, Any] = {"resource": str(said.get("resource", "")), "token": _number(said.get("token"))}
    if kind.error is StaleOperation:
        named |= {"seq": _number(said.get("seq")), "applied": _number(said.get("applied"))}
    title = kind.title[0].lower() + kind.title[1:]
    return kind.error(f"{named['resource']!r} refuses token {named['token']}: {title}", **named)


def _number(said: Any) -> int:
    return int(said) if isinstance(said, str) and _NUMBER.fullmatch(said) else 0
