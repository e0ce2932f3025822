"""`python -m benchmarks.postgres.bloat [--cycles N]`: what many cycles leave in tables and indexes.

A million cycles take from ten minutes to an hour, and are therefore no scenario: commits are not synced, and the server
does not wait for its disk. Autovacuum is as the server's defaults and our tables' settings have it, but looks each ten
seconds, so that a run that is quicker than life sees it too. The sizes are printed ten times, with how many updates
stayed within their page (HOT), which is what keeps indexes from growing.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Final

import tenure
from tests.servers.postgres import PostgresServer

NAMES: Final = 100

SIZES: Final = """
    SELECT relname, pg_table_size(relid), pg_indexes_size(relid), n_dead_tup,
           CASE WHEN n_tup_upd > 0 THEN 100.0 * n_tup_hot_upd / n_tup_upd END
      FROM pg_stat_user_tables WHERE schemaname = 'tenure' AND relname IN ('claims', 'names', 'sessions') ORDER BY 1
"""


def main() -> int:
    """Run the cycles, ten times a tenth of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.postgres.bloat", description=__doc__)
    parser.add_argument("--cycles", type=int, default=1_000_000, metavar="N", help="1,000,000 by default")
    cycles = parser.parse_args().cycles
    with PostgresServer(extra=["autovacuum_naptime=10s"]) as server:
        tenure.Client(server.url).migrate()
        with tenure.Client(f"{server.url}?synchronous_commit=off", ttl=1.0) as client:
            locks = [client.lock(f"name/{number}") for number in range(NAMES)]
            begun = time.monotonic()
            for tenth in range(1, 11):
                for number in range(cycles // 10):
                    with locks[number % NAMES]:
                        pass
                print(f"{tenth * cycles // 10} cycles, {time.monotonic() - begun:.0f} s", flush=True)
                for table, size, indexes, dead, hot in server.run(SIZES):
                    stayed = "none" if hot is None else f"{hot:.1f} %"
                    print(
                        f"  {table}: {size // 1024} kB and {indexes // 1024} kB of indexes, {dead} dead rows, "
                        f"HOT updates {stayed}",
                        flush=True,
                    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
