"""A soak by hand: `python -m tests.soak --engine etcd --seconds 300 --seed 7`."""

from __future__ import annotations

import argparse
import json
import sys

from tests.soak.conductor import shown, soak
from tests.soak.places import KINDS


def main() -> int:
    """Run it; 1 if something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--engine", choices=[*KINDS], action="append", help="which; all of them by default")
    parser.add_argument("--seconds", type=float, default=60.0, help="of faults on each engine (60)")
    parser.add_argument("--seed", type=int, default=1, help="draws the faults (1)")
    parser.add_argument("--workers", type=int, default=5, help="processes (5)")
    parser.add_argument("--naive", action="store_true", help="workers that never ask whether their lease is lost")
    options = parser.parse_args()
    found = 0
    for engine in options.engine or [*KINDS]:
        if reason := KINDS[engine].missing():
            print(f"{engine}: not run: {reason}", flush=True)
            continue
        outcome = soak(engine, options.seconds, seed=options.seed, workers=options.workers, naive=options.naive)
        print(f"{engine}, seed {options.seed}: {json.dumps(shown(outcome))}", flush=True)
        for wrong in outcome.wrong:
            print(f"  {wrong}", flush=True)
        found += len(outcome.wrong)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
