"""What an error of redis-py, or of a server, leaves known about a request.

Promises: an effect that is possible is never denied. Does not promise to know every error of every server: what it does
not know may have had its effect.
"""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING, Final

from redis import exceptions

from tenure.errors import IncompatibleStore, OutcomeUnknown, StoreUnavailable, UnsafeSetup

if TYPE_CHECKING:
    from tenure.errors import TenureError

_LATER: Final = frozenset(
    {
        "LOADING", "MASTERDOWN", "READONLY", "BUSY", "OOM", "MISCONF", "NOREPLICAS", "NOSCRIPT", "ASK", "TRYAGAIN",
        "CLUSTERDOWN",
    }
)  # fmt: skip
_NEVER: Final = frozenset({"WRONGPASS", "NOAUTH", "NOPERM", "NOPROTO", "MOVED", "CROSSSLOT"})
_NOT_BEGUN: Final = ("max number of clients reached", "Script killed by user")
_AT_THE_FIRST_WRITE: Final = frozenset({"OOM", "MISCONF", "READONLY", "NOREPLICAS"})
_CODE: Final = re.compile(r"[A-Z]{2,}(?= |$)")
_HINTS: Final = {
    "MOVED": "this server is a node of a cluster; use redis+cluster://",
    "CROSSSLOT": "this server is a node of a cluster; use redis+cluster://",
    "READONLY": "this server is no master (any more)",
    "WRONGPASS": "the user's name or password is wrong",
    "NOAUTH": "the server wants a password, and none was given",
}
_FORBIDDEN: Final = re.compile(
    "The user executing the script can't|ACL failure in script|Unknown (Redis )?command called from script"
)
_LACKING: Final = "this user lacks a right that locks need, or the server a command; `tenure doctor` says which"
_SCRIPTLESS: Final = re.compile("ERR unknown command ['`]EVAL")
_NO_SCRIPTS: Final = "this server runs no scripts; if it is a sentinel, use redis+sentinel://"


def without_arguments(text: str) -> str:
    """What a server says of a command that it does not know, without what it was given: that may be a password."""
    return text.partition(", with args beginning with")[0]


def explain(error: BaseException, *, sent: bool = True, at: str = "", repeatable: bool = False) -> TenureError:
    """Say what an error of redis-py leaves known about a request.

    | what came | the request | raised |
    |---|---|---|
    | no connection, or a lost one, or no reply in time, before anything was sent | had no effect | StoreUnavailable |
    | the same after it was sent | perhaps had its effect | OutcomeUnknown |
    | LOADING, MASTERDOWN, BUSY, NOSCRIPT, max number of clients: not begun | had no effect | StoreUnavailable |
    | ASK, TRYAGAIN, CLUSTERDOWN: a cluster on the move, not begun | had no effect | StoreUnavailable |
    | READONLY, OOM, MISCONF, NOREPLICAS, also from within a script | had no effect | StoreUnavailable |
    | a script killed by SCRIPT KILL, which only kills what wrote nothing | had no effect | StoreUnavailable |
    | WRONGPASS, NOAUTH, NOPERM, an unknown command, an untrusted certificate | never will have | UnsafeSetup |
    | MOVED, CROSSSLOT: it is a cluster; only a cluster's client can know better | never will have | UnsafeSetup |
    | not Redis's protocol, when connecting | never will have | IncompatibleStore |
    | a right that a script lacks, if all that it does may be done twice | never will have | UnsafeSetup |
    | any other error of a script: earlier writes stand | perhaps had part of it | OutcomeUnknown |
    | not Redis's protocol, or an unknown error | perhaps had its effect | OutcomeUnknown |

    READONLY, OOM, MISCONF and NOREPLICAS come at a script's first write command or not at all: once one has run, the
    server lets the script finish (`SCRIPT_WRITE_DIRTY` in script.c; seen on 7.0.15). A command that a user may not run
    is different: the script ends there, and what it wrote before stands (ERR "The user executing the script can't").

    Args:
        error: what redis-py raised, an `OSError`, or a server's error whose text begins with its code.
        sent: the request was, or may have been, sent.
        at: the server, for people.
        repeatable: nobody minds if the request is done twice, or had half of its effect.
    """
    code, text = _reply(error)
    is_forbidden = _FORBIDDEN.search(text) is not None
    hint = _LACKING if is_forbidden else _NO_SCRIPTS if _SCRIPTLESS.match(text) else _HINTS.get(code, "")
    message = ": ".join(part for part in (at, hint, text) if part)
    in_script = "@user_script" in text or "Error running script" in text
    if (code in _LATER and (not in_script or code in _AT_THE_FIRST_WRITE)) or any(
        phrase in text for phrase in _NOT_BEGUN
    ):
        return StoreUnavailable(message)
    if is_forbidden and repeatable:
        return UnsafeSetup(message)
    if not in_script and (code in _NEVER or text.startswith("ERR unknown command")):
        return UnsafeSetup(message)
    if isinstance(error, exceptions.AuthenticationError) or _is_untrusted(error):
        return UnsafeSetup(message)
    if code and isinstance(error, exceptions.ConnectionError):
        return StoreUnavailable(message)  # an answer instead of the service, such as "max number of clients reached"
    if sent:
        return OutcomeUnknown(message)
    if isinstance(error, exceptions.InvalidResponse):
        return IncompatibleStore(f"{at}: this is no Redis server: {text}" if at else text)
    return UnsafeSetup(message) if code else StoreUnavailable(message)


def _reply(error: BaseException) -> tuple[str, str]:
    """The code that a server's error begins with, "" for other errors; and the whole text."""
    text = without_arguments(str(error)) or type(error).__name__
    code: str | None = getattr(error, "status_code", None)
    if code is not None:
        return code, f"{code} {text}"  # redis-py cut it off
    found = _CODE.match(text)
    return (found[0] if found else ""), text


def _is_untrusted(error: BaseException) -> bool:
    """redis-py makes a ConnectionError of it, as if trying again could help."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None
