"""10,000 leases held by one client of a server: what it costs to keep them, and whether any is lost.

The holder is that of `benchmarks.leases`. The server's own count says what was asked of it meanwhile.
"""

from __future__ import annotations

import math
import time

import tenure
from benchmarks.leases import hold
from benchmarks.redis.server import ASKED, calls, serving
from benchmarks.table import Row, Samples


def run(quick: bool) -> list[Row]:
    """Hold, sleep, count."""
    seconds = 20.0 if quick else 60.0
    with serving() as server:
        # A server is told each script once, by whoever first finds it unknown; that is not what a heartbeat costs.
        with tenure.Client(server.url, ttl=0.3) as client, client.lock("warm"):
            time.sleep(0.3)
        report = hold(server.url, seconds, lambda: calls(server))
    before, after = report.before, report.after
    # The first look itself is counted by the second.
    grown = {name: after[name][0] - before.get(name, (0, 0))[0] - (name == "info") for name in after}
    asked = sum(grown.get(name, 0) for name in (*ASKED, "info", "ping", "hello", "client"))
    busy_us = sum(after[name][1] - before.get(name, (0, 0))[1] for name in ("evalsha", "info"))
    beats = report.kept["renewed"] or math.nan

    def row(what: str, unit: str, value: float, at_most: float | None = None) -> Row:
        return Row(f"redis, 10,000 leases: {what}", unit, Samples("tenure", [value]), at_most=at_most)

    return [
        row(f"CPU over {seconds:g} s", "%", 100 * report.kept["cpu"] / seconds, 1.0),
        row("lost", "", report.kept["lost"], 0.0),
        row("threads beside the main one", "", report.kept["threads"], 1.0),
        row("commands a heartbeat", "", asked / beats, 5.0),
        row("the server's time for a heartbeat", "us", busy_us / beats),
        row("heartbeats", "", report.kept["renewed"]),
        row("time to take one", "us", report.begun["each"]),
        row("time to release one", "us", report.ended["each"]),
    ]
