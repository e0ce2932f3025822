"""What a state object says, and how it is written: the fence, and after it the payload or where the payload is.

Promises: values and pure functions; bytes that are no state object are never read as "no fence". The fence is in the
*body*, since an ETag covers the content and not the metadata; and each body has a nonce, so that no two are equal:
equal contents have equal ETags, and a condition would take one for the other.

The form: one line of JSON, then the payload if it is small.

    {"tenure": 1, "token": "1795372291532495", "seq": "0", "authority": "redis/app", "nonce": "8f…", "past": ["…"],
     "payload": "here" | "none" | "<nonce of the write>", "size": 1042}
"""

from __future__ import annotations

import enum
import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenure.errors import IncompatibleStore
from tenure.fencing.rule import TOKEN_MAX, Fence, raised

if TYPE_CHECKING:
    from tenure.fencing.rule import Proof

FORMAT: Final = 1

INLINE_BYTES: Final = 64 * 1024
"""The largest payload that the state object carries itself, and each raise writes again; a larger one has its own."""

PAYLOAD_BYTES: Final = 5 * 1024**3
"""The largest payload: what one PUT can carry."""

LINE_BYTES: Final = 8 * 1024

PAST: Final = 16
"""How many earlier nonces a state remembers, by which a writer without an answer learns what became of its write."""

HERE: Final = "here"
NONE: Final = "none"

_NONCE: Final = re.compile(r"[0-9a-f]{24}")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}")


class State(NamedTuple):
    """The content of a state object.

    Attributes:
        fence: what it has seen.
        nonce: of the write that made it.
        past: the nonces before, the newest first.
        payload: HERE, NONE (never written, or deleted), or the nonce of the write whose payload object it is.
        size: of the payload, in bytes.
        body: the payload, if it is HERE.
    """

    fence: Fence
    nonce: str
    past: tuple[str, ...] = ()
    payload: str = NONE
    size: int = 0
    body: bytes = b""

    @property
    def is_apart(self) -> bool:
        """Whether the payload has an object of its own."""
        return self.payload not in (HERE, NONE)


class Fate(enum.Enum):
    """What became of a write, by what is there now."""

    LANDED = "landed"
    PENDING = "pending"
    """Not yet, and it still could."""
    VOID = "void"
    """It did not, and it never will: its condition can never be true again."""
    UNKNOWN = "unknown"


def fate(before: State | None, after: State, now: State | None) -> Fate:
    """Tell what became of a write of `after` in place of `before`."""
    if now is not None and after.nonce in (now.nonce, *now.past):
        return Fate.LANDED
    if now is None:
        return Fate.PENDING if before is None else Fate.VOID
    if before is not None and now.nonce == before.nonce:
        return Fate.PENDING
    # Whatever is remembered as far back as `before` would show a write that came after it.
    reaches = len(now.past) < PAST if before is None else before.nonce in now.past
    return Fate.VOID if reaches else Fate.UNKNOWN


def lifted(before: State | None, proof: Proof, nonce: str) -> State:
    """The state after a raise: the same payload, a higher fence."""
    return moved(before, raised(before.fence if before else Fence(), proof), nonce)


def moved(before: State | None, fence: Fence, nonce: str) -> State:
    """The state with another fence: the same payload."""
    if before is None:
        return State(fence, nonce)
    return before._replace(fence=fence, nonce=nonce, past=_past(before))


def written(before: State, proof: Proof, nonce: str, data: bytes | None) -> State:
    """The state after a write, or after a delete, which keeps the fence: a fence that is gone lets everybody in."""
    fence = before.fence._replace(seq=proof.seq or before.fence.seq)
    after = State(fence, nonce, _past(before))
    if data is None:
        return after
    if len(data) > INLINE_BYTES:
        return after._replace(payload=nonce, size=len(data))
    return after._replace(payload=HERE, size=len(data), body=data)


def _past(before: State) -> tuple[str, ...]:
    return (before.nonce, *before.past)[:PAST]


def encode(state: State) -> bytes:
    """The body of its object."""
    fence = state.fence
    line = {
        "tenure": FORMAT,
        # Strings: what reads JSON elsewhere may take a number for a double.
        "token": str(fence.token),
        "seq": str(fence.seq),
        "authority": fence.authority,
        "nonce": state.nonce,
        "past": state.past,
        "payload": state.payload,
        "size": state.size,
    }
    return json.dumps(line).encode() + b"\n" + state.body


def decode(body: bytes, what: str) -> State:
    """Read the body of a state object.

    Args:
        body: all of it.
        what: how errors call the object.

    Raises:
        IncompatibleStore: it is none, or of a format that this release does not speak.
    """
    line, newline, rest = body.partition(b"\n")
    try:
        said = json.loads(line) if newline and len(line) <= LINE_BYTES else None
    except ValueError:
        said = None
    if not isinstance(said, dict) or "tenure" not in said:
        raise IncompatibleStore(f"{what} is no state object of tenure, and is left as it is", spoken=(FORMAT,))
    if said["tenure"] != FORMAT:
        raise IncompatibleStore(
            f"{what} has format {said['tenure']!r}, and this release speaks {FORMAT}",
            in_force=said["tenure"] if isinstance(said["tenure"], int) else None,
            spoken=(FORMAT,),
        )
    state = _state(said, rest)
    if state is None:
        raise IncompatibleStore(f"{what} is damaged: its first line is none that tenure writes", spoken=(FORMAT,))
    return state


def _state(said: dict[str, Any], rest: bytes) -> State | None:
    """The state that a line says, or None if tenure never writes such a line."""
    token, seq = _number(said.get("token")), _number(said.get("seq"))
    authority, nonce, past = said.get("authority"), said.get("nonce"), said.get("past")
    payload, size = said.get("payload"), said.get("size")
    if token is None or seq is None or not isinstance(authority, str) or not isinstance(size, int):
        return None
    if not _is_nonce(nonce) or not isinstance(past, list) or not all(map(_is_nonce, past)):
        return None
    if not (payload in (HERE, NONE) or _is_nonce(payload)) or len(rest) != (size if payload == HERE else 0):
        return None
    return State(Fence(token, 0, seq, authority), str(nonce), tuple(past), str(payload), size, rest)


def _number(said: Any) -> int | None:
    if not isinstance(said, str) or not _NUMBER.fullmatch(said):
        return None
    return found if (found := int(said)) <= TOKEN_MAX else None


def _is_nonce(said: Any) -> bool:
    return isinstance(said, str) and _NONCE.fullmatch(said) is not None
