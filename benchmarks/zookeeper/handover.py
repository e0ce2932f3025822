"""Hand-over by way of a ZooKeeper server, which syncs each change: one name, nothing to do in it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from benchmarks.rounds import fleets
from benchmarks.table import Row, Samples
from benchmarks.zookeeper import curator
from benchmarks.zookeeper.contenders import PEER, makers, serving

if TYPE_CHECKING:
    from benchmarks.rounds import Rounds

SECONDS: Final = 2.0
FEW: Final = {"processes": 2, "threads": 4, "seconds": SECONDS}
"""Curator's best mix on two cores, which have no room for eight virtual machines; ours is the same there."""


def run(quick: bool) -> list[Row]:
    """8 processes; and 2 with 4 threads each beside Curator, if it is there."""
    count = 3 if quick else 9
    with serving() as server:
        make = makers(server)
        rounds = fleets(("tenure", PEER), count, processes=8, seconds=SECONDS, make=make, meter=lambda: server.received)
        rows = _rows(rounds, "8 processes", PEER, 1.5)
        if curator.is_there():
            java = {curator.NAME: partial(curator.run, server, **FEW)}
            rounds = fleets(("tenure",), count, **FEW, make=make, meter=lambda: server.received, others=java)
            rows += _rows(rounds, "2 processes x 4 threads", curator.NAME, 1.3)
    return rows


def _rows(rounds: Rounds, who: str, peer: str, at_least: float) -> list[Row]:
    what = f"zookeeper hand-over, {who}"

    def beside(name: str, unit: str, figure: str, scale: float = 1.0) -> Row:
        ours, theirs = (rounds.samples(one, lambda o: scale * getattr(o, figure)) for one in ("tenure", peer))
        return Row(f"{what}: {name}", unit, ours, theirs)

    return [
        replace(beside("hand-overs", "/s", "handovers"), judge="peer", at_least=at_least),
        beside("latency p50", "us", "p50", 1e6),
        beside("longest wait", "ms", "longest", 1e3),
        beside("messages a turn", "", "metered"),
        replace(beside("Jain index", "", "fairness"), at_least=0.99),
        Row(f"{what}: two holders seen", "", Samples("all", [float(rounds.overlaps)]), at_most=0.0),
    ]
