"""`tenure fence show|advance|adopt`: fences for operators. Whatever is changed leaves an audit line first.

Why a line, and not a table: the fence's own store has no room that every store has, and a table more would be the
user's to make. The line goes to stderr, which whoever runs the command keeps, to the logger, and with `--audit` to the
end of a file, synced, before anything is changed; if it cannot be written there, nothing is.
"""

from __future__ import annotations

import getpass
import json
import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tenure.cli import exits
from tenure.cli.connect import connect, opened
from tenure.cli.fence_place import reached
from tenure.cli.text import clean, complain, duration
from tenure.errors import SetupError, UsageError
from tenure.fencing.rule import Fence, Verdict, judge, prove, raised, refusal
from tenure.model import Grant
from tenure.observe.log import logger, silence

if TYPE_CHECKING:
    import argparse

    from tenure.client import Lease
    from tenure.fencing.desks import Desk

NOT_THERE: Final = 1
DAY_US: Final = 86_400_000_000

NUMBERS_PATIENCE_S: Final = 60.0
"""How long `advance` waits for an engine's clock to pass a fence, unless --wait says otherwise."""


def show(options: argparse.Namespace) -> int:
    """Print one fence."""
    with reached(options) as (desk, where):
        found = desk.look(options.subject)
    if options.json:
        print(json.dumps({"resource": options.subject, "at": where, "fence": _fields(found)}))
    elif found is None:
        print(f"{_what(options, where)}: no fence; nobody has raised it yet")
    else:
        intent = f", {found.intent} announced" if found.intent > found.token else ""
        seq = f", operation {found.seq} done" if found.seq else ""
        print(
            f"{_what(options, where)}: token {found.token}{intent}{seq}, of {clean(found.authority) or 'nobody known'}"
        )
    return 0 if found is not None else NOT_THERE


def advance(options: argparse.Namespace) -> int:
    """Enter the name anew, and raise the fence with the token that comes of it, if that is larger."""
    with reached(options) as (desk, where):
        found = desk.look(options.subject)
        if found is None:
            complain(f"{_what(options, where)}: no fence; nothing to be passed")
            return NOT_THERE
        top = max(found.token, found.intent)
        ahead = top - time.time_ns() // 1000
        if ahead > DAY_US:
            raise SetupError(
                f"{_what(options, where)}: its token {top} is more than a day ahead of this host's clock, where no "
                "engine's numbers come; it was raised by something else. See `tenure fence adopt`"
            )
        name = options.name or options.subject
        if not name:
            raise UsageError("--name: the name whose holders write there is needed")
        client, _ = connect(options)
        _confirm(options, f"Enter {clean(name)}, and raise the fence of {_what(options, where)} above {top}?")
        patience = NUMBERS_PATIENCE_S if options.wait is None else options.wait
        with opened(client):
            while True:
                with client.lock(name, wait=options.wait) as lease:
                    if lease.token > top:
                        _raise(options, desk, where, found, lease)
                        break
                # A number of the clock tells by how much that clock is behind the fence.
                behind = (top - lease.token) / 1e6
                if abs(lease.token - time.time_ns() // 1000) > DAY_US or behind > patience:
                    complain(_behind(name, lease.token, top))
                    return exits.BUSY
                time.sleep(behind)
                patience -= behind
    _say(options, f"{_what(options, where)}: raised from {top} to {lease.floor}; later holders have larger tokens")
    return 0


def _raise(options: argparse.Namespace, desk: Desk, where: str, found: Fence, lease: Lease) -> None:
    proof, _ = prove(lease.grant, options.subject)
    if judge(found, proof) is Verdict.FOREIGN:
        raise refusal(Verdict.FOREIGN, found, proof)
    _audit(options, "fence-advance", where, found, raised(found, proof))
    desk.enter(options.subject, lease)


def adopt(options: argparse.Namespace) -> int:
    """Give a fence to the tokens of another authority."""
    # A grant's has the store's own id too, which is not compared.
    authority = prove(Grant("any", 1, 1, options.authority))[0].authority
    kind, _, namespace = authority.partition("/")
    if not kind or not namespace:
        raise UsageError("--authority: KIND/NAMESPACE is needed, as `tenure fence show` prints it: etcd/app")
    to = Fence(options.token, options.token, 0, authority)
    with reached(options) as (desk, where):
        found = desk.look(options.subject)
        if found is not None and found.authority == to.authority:
            raise UsageError(
                f"{_what(options, where)} is fenced by {clean(to.authority)} already; to lower it would let its stale "
                "holders in. See `tenure fence advance`"
            )
        _confirm(
            options,
            f"Give the fence of {_what(options, where)}, {_brief(found)}, to {clean(to.authority)} with token "
            f"{to.token}? Stop every holder of the old one first.",
        )
        _audit(options, "fence-adopt", where, found, to)
        if not desk.move(options.subject, found, to):
            raise SetupError(f"{_what(options, where)}: the fence has changed meanwhile; nothing was done. Look again")
    _say(options, f"{_what(options, where)}: moved from {_brief(found)} to {_brief(to)}")
    return 0


def _behind(name: str, token: int, top: int) -> str:
    """Why entering anew was no remedy."""
    later = (
        "its engine's numbers follow no clock, and stay below: stop its clients, raise the `base` of its genesis "
        f"record by {top} (the engine's page says where it lies), and try again"
    )
    if abs(token - time.time_ns() // 1000) <= DAY_US:
        later = f"its engine's numbers follow a clock, and pass it in {duration((top - token) / 1e6)}: try again then"
    return f"{clean(name)}: its new token {token} is not above {top}; {later}. Nothing was changed"


def _what(options: argparse.Namespace, where: str) -> str:
    return f"{clean(options.subject)} at {where}" if options.subject else where


def _fields(fence: Fence | None) -> dict[str, object] | None:
    return None if fence is None else fence._asdict()


def _brief(fence: Fence | None) -> str:
    return "no fence" if fence is None else f"token {fence.token} of {clean(fence.authority) or 'nobody known'}"


def _confirm(options: argparse.Namespace, question: str) -> None:
    """Ask, where there is somebody.

    Raises:
        UsageError: nobody answers, or not with yes. Nothing was changed.
    """
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("this changes a fence: confirm it with --yes")
    print(f"tenure: {question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("not confirmed; nothing was changed")


def _audit(options: argparse.Namespace, event: str, where: str, found: Fence | None, to: Fence) -> None:
    """Say who changes what, before it is changed.

    Raises:
        SetupError: the line cannot be written to the file of --audit; nothing was changed.
    """
    line = json.dumps(
        {
            "event": event,
            "time": round(time.time(), 3),
            "at": where,
            "resource": options.subject,
            "from": _fields(found),
            "to": _fields(to),
            "user": _user(),
            "host": os.uname().nodename,
            "pid": os.getpid(),
        }
    )
    path = options.audit or os.environ.get("TENURE_AUDIT")
    if path:
        try:
            _append(path, line)
        except OSError as error:
            raise SetupError(f"the audit line cannot be written, so nothing was changed: {error}") from error
    silence()
    logger().warning("%s", line)
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def _append(path: str, line: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        os.write(descriptor, (line + "\n").encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def _say(options: argparse.Namespace, message: str) -> None:
    if not options.quiet:
        print(message)
