"""10,000 leases held by one client of a ZooKeeper server: what it costs to keep them, and whether any is lost."""

from __future__ import annotations

import math

from benchmarks.leases import hold
from benchmarks.table import Row, Samples
from benchmarks.zookeeper.contenders import serving


def run(quick: bool) -> list[Row]:
    """Hold, sleep, count."""
    seconds = 20.0 if quick else 60.0
    with serving() as server:
        report = hold(server.url, seconds, lambda: server.received)
    # The first question itself is counted by the second.
    asked = report.after - report.before - 1
    beats = report.kept["renewed"] or math.nan

    def row(what: str, unit: str, value: float, at_most: float | None = None) -> Row:
        return Row(f"zookeeper, 10,000 leases: {what}", unit, Samples("tenure", [value]), at_most=at_most)

    return [
        row(f"CPU over {seconds:g} s", "%", 100 * report.kept["cpu"] / seconds, 1.0),
        row("lost", "", report.kept["lost"], 0.0),
        row("threads beside the main one", "", report.kept["threads"], 2.0),
        row("messages a heartbeat", "", asked / beats, 2.0),
        row("heartbeats", "", report.kept["renewed"]),
        row("time to take one", "us", report.begun["each"]),
        row("time to release one", "us", report.ended["each"]),
    ]
