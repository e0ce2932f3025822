"""10,000 leases held by one client of etcd: what it costs to keep them, and whether any is lost."""

from __future__ import annotations

import math

from benchmarks.etcd.contenders import asked, serving
from benchmarks.leases import hold
from benchmarks.table import Row, Samples


def run(quick: bool) -> list[Row]:
    """Hold, sleep, count."""
    seconds = 20.0 if quick else 60.0
    with serving() as server:
        report = hold(server.url, seconds, lambda: asked(server))
    beats = report.kept["renewed"] or math.nan

    def row(what: str, unit: str, value: float, at_most: float | None = None) -> Row:
        return Row(f"etcd, 10,000 leases: {what}", unit, Samples("tenure", [value]), at_most=at_most)

    return [
        row(f"CPU over {seconds:g} s", "%", 100 * report.kept["cpu"] / seconds, 1.0),
        row("lost", "", report.kept["lost"], 0.0),
        row("threads beside the main one", "", report.kept["threads"], 1.0),
        # A keep-alive and the read that proves it, there and back.
        row("messages a heartbeat", "", (report.after - report.before) / beats, 4.5),
        row("heartbeats", "", report.kept["renewed"]),
        row("time to take one", "us", report.begun["each"]),
        row("time to release one", "us", report.ended["each"]),
    ]
