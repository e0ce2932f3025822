"""`python -m benchmarks [--quick] [--only NAME] [--json FILE]`: run the scenarios and print one table.

Exit status: 0 if every requirement was met, 1 if one was missed, 2 if a scenario could not be run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import cycle, fencing, fencing_http, handover, leases, reaction, startup, table, waiters
from benchmarks.etcd import handover as etcd_handover
from benchmarks.etcd import leases as etcd_leases
from benchmarks.etcd import waiters as etcd_waiters
from benchmarks.postgres import cycle as postgres_cycle
from benchmarks.postgres import handover as postgres_handover
from benchmarks.postgres import leases as postgres_leases
from benchmarks.postgres import waiters as postgres_waiters
from benchmarks.redis import cycle as redis_cycle
from benchmarks.redis import fencing as redis_fencing
from benchmarks.redis import handover as redis_handover
from benchmarks.redis import leases as redis_leases
from benchmarks.redis import tasks as redis_tasks
from benchmarks.redis import waiters as redis_waiters
from benchmarks.zookeeper import handover as zookeeper_handover
from benchmarks.zookeeper import leases as zookeeper_leases
from benchmarks.zookeeper import waiters as zookeeper_waiters

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.table import Row

SCENARIOS: dict[str, Callable[[bool], list[Row]]] = {
    "cycle": cycle.run,
    "handover": handover.run,
    "waiters": waiters.run,
    "startup": startup.run,
    "reaction": reaction.run,
    "leases": leases.run,
    "redis-cycle": redis_cycle.run,
    "redis-handover": redis_handover.run,
    "redis-waiters": redis_waiters.run,
    "redis-tasks": redis_tasks.run,
    "redis-leases": redis_leases.run,
    "fencing": fencing.run,
    "fencing-http": fencing_http.run,
    "fencing-redis": redis_fencing.run,
    "etcd-handover": etcd_handover.run,
    "etcd-waiters": etcd_waiters.run,
    "etcd-leases": etcd_leases.run,
    "zookeeper-handover": zookeeper_handover.run,
    "zookeeper-waiters": zookeeper_waiters.run,
    "zookeeper-leases": zookeeper_leases.run,
    "postgresql-cycle": postgres_cycle.run,
    "postgresql-handover": postgres_handover.run,
    "postgresql-waiters": postgres_waiters.run,
    "postgresql-leases": postgres_leases.run,
}


def main() -> int:
    """Run what was asked for; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter and fewer runs: under 90 s, noisier")
    parser.add_argument(
        "--only",
        action="append",
        choices=list(SCENARIOS),
        metavar="NAME",
        help=f"only this scenario; may be repeated: {', '.join(SCENARIOS)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every sample to this file")
    options = parser.parse_args()
    names: list[str] = options.only or list(SCENARIOS)
    rows: list[Row] = []
    failed = False
    print(f"{machine()}; {'quick' if options.quick else 'full'}\n{table.HEAD}", flush=True)
    for name in names:
        began = time.monotonic()
        try:
            found = SCENARIOS[name](options.quick)
        except Exception:  # noqa: BLE001 - the other scenarios are still worth their time
            failed = True
            traceback.print_exc()
            print(f"| {name} | could not be run |", flush=True)
            continue
        rows += found
        for row in found:
            print(table.line(row), flush=True)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    if options.json is not None:
        options.json.write_text(
            json.dumps({"machine": machine(), "quick": options.quick, "rows": [r.plain() for r in rows]}, indent=1)
        )
    missed = [row.what for row in rows if row.met is False]
    for what in missed:
        print(f"miss: {what}")
    return 2 if failed else int(bool(missed))


def machine() -> str:
    """What it ran on, and how busy that was."""
    load = os.getloadavg()[0]
    return (
        f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, load {load:.1f}, "
        f"Python {platform.python_version()}"
    )


if __name__ == "__main__":
    sys.exit(main())
