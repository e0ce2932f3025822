"""Which tests of a run of several workers (pytest-xdist) go to one of them together: those that share servers.

Dealt out one by one, each worker would start nearly every server there is and keep it to the end; and ZooKeeper, etcd
and Redis's sentinels cost time while nobody asks them anything.
"""

from __future__ import annotations

import re
from typing import Final

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # it ships no types

ENGINE: Final = re.compile(r"^tests/contract/.*?\[(.+?)-(?:blocking|asyncio)\b")
"""The contract's tests of one engine, of all its files."""


class TogetherScheduling(LoadScopeScheduling):  # type: ignore[misc]  # as above
    """Gives a worker an engine's contract, a file, or one mutant: a mutant starts whatever it needs by itself."""

    def _split_scope(self, nodeid: str) -> str:
        if engine := ENGINE.match(nodeid):
            return engine[1]
        return nodeid if is_mutant(nodeid) else nodeid.partition("::")[0]


def is_mutant(nodeid: str) -> bool:
    """Whether it is of a file of mutants: some of these run for minutes, and none should begin last."""
    return "/test_mutants.py::" in nodeid
