"""Hand-over between processes by way of etcd: one name, with nothing to do in it."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from benchmarks.etcd.contenders import PEER, asked, makers, serving
from benchmarks.rounds import fleets
from benchmarks.table import Row, Samples

if TYPE_CHECKING:
    from tests.servers.etcd import EtcdServer


def run(quick: bool) -> list[Row]:
    """8 processes."""
    with serving() as server:
        rounds = fleets(
            ("tenure", PEER),
            3 if quick else 7,
            processes=8,
            seconds=2.0,
            make=makers(server),
            meter=lambda: asked(server),
        )
        synced = _synced(server)
    what = "etcd hand-over, 8 processes"
    ours, peer = rounds.samples("tenure", lambda o: o.handovers), rounds.samples(PEER, lambda o: o.handovers)

    def beside(figure: str, name: str, unit: str, scale: float = 1.0) -> Row:
        def samples(who: str) -> Samples:
            return rounds.samples(who, lambda o: scale * getattr(o, figure))

        return Row(f"{what}: {name}", unit, samples("tenure"), samples(PEER))

    return [
        Row(f"{what}: hand-overs", "/s", ours, peer, judge="peer", at_least=5.0),
        Row(f"{what}: Jain index", "", rounds.samples("tenure", lambda o: o.fairness), at_least=0.99),
        beside("p50", "latency p50", "us", 1e6),
        beside("p99", "latency p99", "us", 1e6),
        beside("longest", "longest wait", "ms", 1e3),
        beside("metered", "messages a turn", ""),
        # Each turn is two entries of the log, and each entry is synced before it is answered.
        Row(f"{what}: the disk's sync, mean", "us", Samples("etcd", [synced])),
        Row(
            f"{what}: two holders seen",
            "",
            Samples("tenure", [float(sum(o.overlaps for o in rounds.outcomes["tenure"]))]),
            at_most=0.0,
        ),
    ]


def _synced(server: EtcdServer) -> float:
    """Microseconds of one sync of the log."""
    spent = server.metric("etcd_disk_wal_fsync_duration_seconds_sum")
    times = server.metric("etcd_disk_wal_fsync_duration_seconds_count")
    return statistics.mean([1e6 * spent / times])
