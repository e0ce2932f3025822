"""What workers have said of themselves, judged: who believed to hold what when, and by which tokens.

All of them read one clock, the host's boot-time clock, which no pause stops. A worker reads it *before* it asks its
lease, so that a belief that is noted was true at that instant, and may have been for longer.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


class Belief(NamedTuple):
    """One lease, as its holder saw it.

    Attributes:
        worker: whose, by number and start.
        asked: before the request for it; seconds.
        first: just after it was granted.
        last: the last instant at which it was still held.
        kind: "exclusive", "shared" or "permits".
        limit: of permits; each worker takes one.
    """

    worker: str
    name: str
    token: int
    asked: float
    first: float
    last: float
    kind: str = "exclusive"
    limit: int = 1


class Log(NamedTuple):
    """What the logs of some workers say.

    Attributes:
        served: the names that each worker has held since all faults were mended.
        counts: of what came of their requests.
    """

    beliefs: list[Belief]
    served: dict[str, set[str]]
    counts: dict[str, int]


def read(paths: Iterable[Path]) -> Log:
    """The logs of workers; the last line of one that was killed may be torn."""
    beliefs: list[Belief] = []
    served: dict[str, set[str]] = defaultdict(set)
    counts: dict[str, int] = defaultdict(int)
    for path in paths:
        current: dict[str, Belief] = {}
        for line in path.read_text("utf-8").splitlines():
            try:
                said: dict[str, Any] = json.loads(line)
            except ValueError:
                continue
            what, name = said.pop("what"), said.get("name", "")
            counts[what] += 1
            if what == "granted":
                if name in current:
                    beliefs.append(current[name])
                current[name] = Belief(path.stem, last=said["first"], **said)
            elif what == "held":
                current[name] = current[name]._replace(last=said["at"])
            elif what == "served":
                served[path.stem.partition("-")[0]].add(name)
        beliefs += current.values()
    return Log(beliefs, dict(served), dict(counts))


def overlaps(beliefs: Sequence[Belief]) -> list[str]:
    """Those who believed to hold a name at one instant, and do not go together."""
    found = []
    for name in sorted({belief.name for belief in beliefs}):
        active: list[Belief] = []
        for belief in sorted((b for b in beliefs if b.name == name), key=lambda b: b.first):
            active = [other for other in active if other.last >= belief.first]
            found += [
                f"{name}: {_shown(other)} and {_shown(belief)}"
                for other in active
                if "exclusive" in (belief.kind, other.kind) or belief.kind != other.kind
            ]
            active.append(belief)
            if belief.kind == "permits" and len(active) > belief.limit:
                found.append(f"{name}: {len(active)} of {belief.limit} permits: {', '.join(map(_shown, active))}")
    return found


def disorder(beliefs: Sequence[Belief]) -> list[str]:
    """Tokens that were given twice, or that are not larger than those that were known before they were asked for."""
    found = []
    for name in sorted({belief.name for belief in beliefs}):
        of_name = [belief for belief in beliefs if belief.name == name]
        tokens = [belief.token for belief in of_name]
        found += [f"{name}: token {token} twice" for token in sorted({t for t in tokens if tokens.count(t) > 1})]
        by_asked = sorted(of_name, key=lambda b: b.asked)
        by_first = sorted(of_name, key=lambda b: b.first)
        at, largest = 0, None
        for belief in by_asked:
            while at < len(by_first) and by_first[at].first < belief.asked:
                if largest is None or by_first[at].token > largest.token:
                    largest = by_first[at]
                at += 1
            if largest is not None and belief.token < largest.token:
                found.append(f"{name}: {_shown(largest)} was known when {_shown(belief)} was asked for")
    return found


def _shown(belief: Belief) -> str:
    return f"{belief.worker} token {belief.token} [{belief.first:.6f} .. {belief.last:.6f}]"
