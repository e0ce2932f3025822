"""Hand-over between processes by way of a ZooKeeper server, which syncs each change: one name, nothing to do in it."""

from __future__ import annotations

from functools import partial
from typing import Final

from benchmarks.rounds import fleets
from benchmarks.table import Row, Samples
from benchmarks.zookeeper import curator
from benchmarks.zookeeper.contenders import PEER, makers, serving

SECONDS: Final = 2.0


def run(quick: bool) -> list[Row]:
    """8 processes; of Curator 2 with 4 threads each, for eight virtual machines have no room on two cores."""
    with serving() as server:
        java = {curator.NAME: partial(curator.run, server, processes=2, threads=4, seconds=SECONDS)}
        rounds = fleets(
            ("tenure", PEER),
            3 if quick else 9,
            processes=8,
            seconds=SECONDS,
            make=makers(server),
            meter=lambda: server.received,
            others=java if curator.is_there() else {},
        )
    what = "zookeeper hand-over, 8 processes"
    rows = []
    for peer, at_least in ((PEER, 1.5), (curator.NAME, 1.3)):
        if peer not in rounds.outcomes:
            continue
        for name, unit, figure, scale in (
            ("hand-overs", "/s", "handovers", 1.0),
            ("latency p50", "us", "p50", 1e6),
            ("longest wait", "ms", "longest", 1e3),
            ("messages a turn", "", "metered", 1.0),
        ):
            ours, theirs = (
                rounds.samples(who, lambda o, f=figure, s=scale: s * getattr(o, f)) for who in ("tenure", peer)
            )
            judged = {"judge": "peer", "at_least": at_least} if figure == "handovers" else {}
            rows.append(Row(f"{what}: {name}", unit, ours, theirs, **judged))
    fairness = rounds.samples("tenure", lambda o: o.fairness)
    return [
        *rows,
        Row(f"{what}: Jain index", "", fairness, at_least=0.99),
        Row(f"{what}: two holders seen", "", Samples("all", [float(rounds.overlaps)]), at_most=0.0),
    ]
