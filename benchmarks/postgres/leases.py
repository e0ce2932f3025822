"""10,000 leases held by one client of a PostgreSQL server: what it costs to keep them, and whether any is lost."""

from __future__ import annotations

import math

from benchmarks.leases import hold
from benchmarks.postgres.contenders import serving, written
from benchmarks.table import Row, Samples


def run(quick: bool) -> list[Row]:
    """Hold, sleep, count."""
    seconds = 20.0 if quick else 60.0
    with serving() as server:
        # The server would otherwise write by itself, in the middle of it.
        server.run("ALTER SYSTEM SET autovacuum = off")
        server.run("SELECT pg_reload_conf()")
        # Ten thousand synced commits, one after the other, would take longer than all the rest.
        report = hold(f"{server.url}?synchronous_commit=off", seconds, lambda: written(server))
    beats = report.kept["renewed"] or math.nan

    def row(what: str, unit: str, value: float, at_most: float | None = None) -> Row:
        return Row(f"postgresql, 10,000 leases: {what}", unit, Samples("tenure", [value]), at_most=at_most)

    return [
        row(f"CPU over {seconds:g} s", "%", 100 * report.kept["cpu"] / seconds, 1.0),
        row("lost", "", report.kept["lost"], 0.0),
        row("threads beside the main one", "", report.kept["threads"], 1.0),
        row("writing transactions a heartbeat", "", (report.after - report.before) / beats, 1.0),
        row("heartbeats", "", report.kept["renewed"]),
        row("time to take one", "us", report.begun["each"]),
        row("time to release one", "us", report.ended["each"]),
    ]
