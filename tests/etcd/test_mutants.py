"""The tests of this folder are themselves tested: each protection that is taken out of the engine must be missed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import pytest

import tenure
from tests.servers import etcd

TOGETHER: Final = 2
SECONDS: Final = 100


class Mutant(NamedTuple):
    """One change of one module, and the tests of which one must fail."""

    rule: str
    module: str
    old: str
    new: str
    tests: str


STEPS, WATCHES, GRPC = "test_steps.py", "test_watches.py", "test_grpc.py"

MUTANTS: Final = [
    Mutant(
        "B1: a repeat finds the first",
        "store",
        "            if reply.succeeded:\n                return",
        "            if True:\n                return",
        STEPS,
    ),
    Mutant("B1: a claim enters once", "store", "            m.compare(claim, m.CREATE, 0),\n", "", STEPS),
    Mutant("B1: tombstones", "store", "            m.compare(tombstone, m.CREATE, 0),\n", "", STEPS),
    Mutant(
        "B5: a try is not overtaken",
        "store",
        "            compares.append(m.compare(queue, m.CREATE, sure_below, end=after(queue), result=m.LESS))\n",
        "",
        STEPS,
    ),
    Mutant(
        "B6: all that blocks is seen",
        "store",
        "            if others.more and mine[0].mode.kind is not Kind.EXCLUSIVE:\n",
        "            if False:\n",
        STEPS,
    ),
    Mutant(
        "B9: a steal is counted",
        "store",
        "        count = [\n            m.touch_op(session),\n",
        "        count = [\n",
        STEPS,
    ),
    Mutant(
        "B10: a dead holder's delay",
        "store",
        "        if mine.delay and not mine.taken and not await self._take_up(mine, until):\n",
        "        if False:\n",
        STEPS,
    ),
    Mutant("B10: an unclean end", "store", "[c for c in closings if not c.clean]", "[]", STEPS),
    Mutant(
        "B12: genesis is compared",
        "store",
        "            m.compare(keys.genesis, m.VALUE, self._ask.life.genesis),\n",
        "",
        STEPS,
    ),
    Mutant(
        "A1: a lease that was there before is renewed",
        "requests",
        "                granted, _ = await self.renew(lease, m.get_op(m.get(self.keys.genesis)), until)\n",
        "                granted = whole_ttl(ttl)\n",
        STEPS,
    ),
    Mutant(
        "A1: only the leader's renewals count",
        "requests",
        "            if kept is None or before == kept.term == reply.header.term:\n",
        "            if True:\n",
        STEPS,
    ),
    Mutant("A2: a revision that went back", "life", "elif header.revision < seen_before:", "elif False:", STEPS),
    Mutant(
        "C4: who has seen a key before its watch looks again",
        "watches",
        "            return list(self._waiters.get(key, ())) if revision > want.revision else []\n",
        "            return []\n",
        WATCHES,
    ),
    Mutant(
        "C4: so does who joins a watch that began later",
        "watches",
        "                late = late or self._since.get(key, 0) > want.revision\n",
        "",
        WATCHES,
    ),
    Mutant(
        "no watch stays behind",
        "store",
        "            self._watches.drop(Waiter(closing.ref",
        "            (Waiter(closing.ref",
        WATCHES,
    ),
    Mutant(
        "grpc: what was taken is given back",
        "grpc",
        "            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)\n",
        "",
        GRPC,
    ),
    Mutant(
        "grpc: a server that leaves still answers", "grpc", "        self._h2.state_machine = _Draining()\n", "", GRPC
    ),
    Mutant("grpc: only what was not begun is untouched", "grpc", "if n > last]", "if n >= last]", GRPC),
    Mutant(
        "grpc: what waits ends with its stream",
        "grpc",
        "        self._unsent.pop(stream, None)\n        return",
        "        return",
        GRPC,
    ),
    Mutant(
        "grpc: the events come first",
        "grpc",
        "                self._took(event, answers)\n",
        "                self._took(event, answers)\n                self._flush()\n",
        GRPC,
    ),
]


def survives(mutant: Mutant, folder: Path) -> str:
    """What is wrong with a mutant that no test has missed; empty if one has."""
    source = Path(tenure.__file__).parent
    package = folder / "tenure"
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    module = package / "engines" / "etcd" / f"{mutant.module}.py"
    text = module.read_text("utf-8")
    if text.count(mutant.old) != 1:
        return f"{mutant.rule}: the text to change is not there, or not unique"
    module.write_text(text.replace(mutant.old, mutant.new), "utf-8")
    root = Path(__file__).parents[2]
    tests = str(Path(__file__).with_name(mutant.tests))
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", tests],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(root)])},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    return "" if ran.returncode == 1 else f"{mutant.rule}: pytest ended with {ran.returncode}\n{ran.stdout[-500:]}"


@pytest.mark.timeout(900)
@pytest.mark.skipif(etcd.missing() is not None, reason=etcd.missing() or "")
@pytest.mark.skipif("TENURE_SKIP_MUTANTS" in os.environ, reason="TENURE_SKIP_MUTANTS is set")
def test_every_mutant_dies(tmp_path: Path) -> None:
    with ThreadPoolExecutor(TOGETHER) as pool:
        ends = pool.map(lambda pair: survives(pair[1], tmp_path / str(pair[0])), enumerate(MUTANTS))
        assert list(filter(None, ends)) == []
