"""`tenure ls`, `inspect` and `steal`: what operators look at and do."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from tenure.cli.connect import connect, opened
from tenure.cli.report import contender_fields, queue_fields
from tenure.cli.text import BOLD, DIM, clean, duration, paint, since, who

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from tenure.model import Contender, Queue

NOT_THERE = 1
"""The exit status of a steal that found no such claim."""


def ls(options: argparse.Namespace) -> int:
    """List the names in use."""
    with opened(connect(options)[0]) as client:
        queues = [client.inspect(name) for name in client.names(options.prefix)]
    # A name may have become free between the two questions.
    queues = [queue for queue in queues if queue.holders or queue.waiters]
    if options.json:
        for queue in queues:
            print(json.dumps(queue_fields(queue)))
        return 0
    now = time.time()
    rows = [_row(queue, now) for queue in queues]
    if rows:
        _table(("NAME", "HOLDER", "TOKEN", "FOR", "WAITING"), rows)
    elif not options.quiet:
        print(paint("no names are held", DIM, sys.stdout))
    return 0


def inspect(options: argparse.Namespace) -> int:
    """Show one name's queue."""
    with opened(connect(options)[0]) as client:
        queue = client.inspect(options.name)
    if options.json:
        print(json.dumps(queue_fields(queue)))
        return 0
    now = time.time()
    name = paint(clean(queue.name), BOLD, sys.stdout)
    if not queue.holders and not queue.waiters:
        print(f"{name} is free")
        return 0
    print(f"{name}: {_count(queue.holders, 'holder')}, {_count(queue.waiters, 'waiter')}")
    rows = [_line("holds", contender, now) for contender in queue.holders]
    rows += [_line(f"waits {place}", contender, now) for place, contender in enumerate(queue.waiters, 1)]
    _table(("", "TOKEN", "MODE", "WHO", "SINCE"), rows)
    return 0


def steal(options: argparse.Namespace) -> int:
    """End one claim and say whose it was."""
    with opened(connect(options)[0]) as client:
        queue = client.inspect(options.name)
        removed = client.steal(options.name, options.token)
    found = [c for c in (*queue.holders, *queue.waiters) if c.token == options.token]
    if options.json:
        claim = contender_fields(found[0]) if found and removed else None
        print(json.dumps({"name": options.name, "token": options.token, "removed": removed, "claim": claim}))
    elif not options.quiet:
        print(_verdict(options, found, removed=removed))
    return 0 if removed else NOT_THERE


def _verdict(options: argparse.Namespace, found: Sequence[Contender], *, removed: bool) -> str:
    name = clean(options.name)
    if not removed:
        return f"{name} has no claim with token {options.token}; nothing was changed"
    if not found:
        return f"removed token {options.token} from {name}"
    claim = found[0]
    verb = "held it" if claim.holds else "waited"
    age = duration(time.time() - claim.since)
    return f"removed token {claim.token} from {name}: {who(claim)} {verb} for {age}"


def _row(queue: Queue, now: float) -> tuple[str, ...]:
    if not queue.holders:
        return clean(queue.name), "-", "-", "-", str(len(queue.waiters))
    first = queue.holders[0]
    more = f" and {len(queue.holders) - 1} more" if len(queue.holders) > 1 else ""
    return (
        clean(queue.name),
        who(first) + more,
        str(first.token),
        duration(now - first.since),
        str(len(queue.waiters)),
    )


def _line(role: str, contender: Contender, now: float) -> tuple[str, ...]:
    mode = contender.mode
    kind = f"{mode.permits} of {mode.limit}" if mode.kind == "permits" else str(mode.kind)
    return role, str(contender.token), kind, who(contender), since(contender, now)


def _count(contenders: Sequence[Contender], noun: str) -> str:
    return f"{len(contenders)} {noun}{'' if len(contenders) == 1 else 's'}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

    print(paint(line(head), DIM, sys.stdout))
    for row in rows:
        print(line(row))
