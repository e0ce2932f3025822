"""The drill is tested: guards with one rule taken out, each of which it must find out.

A mutant is one text replaced, which occurs exactly once in its file; the holders make the change before they live. The
mutants of the rule itself are in `test_rule.py`.
"""

# ruff: noqa: E501 - texts of the tree stand on one line each

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.fencing.drill import Drill, prepare
from tests.fencing.drivers import find
from tests.fencing.mutating import Change
from tests.fencing.servers import missing

if TYPE_CHECKING:
    from tests.fencing.servers import Servers

ROUNDS = 40
TIMES = 10


class Mutant(NamedTuple):
    """One rule taken out of a guard.

    Attributes:
        lost: whether updates are lost; otherwise rightful holders are denied.
    """

    rule: str
    what: str
    file: str
    text: str
    replacement: str
    driver: str
    path: str
    lost: bool = True


MUTANTS = (
    Mutant("D1", "the check does not keep the fence", "sql/fence/postgresql.sql", "FOR SHARE OF fence", "", "psycopg", "guarded"),
    Mutant("D1", "the check does not keep the fence", "sql/fence/postgresql.sql", "FOR SHARE OF fence", "", "psycopg-async", "opened"),
    Mutant("D1", "a transaction that has begun is not checked", "fencing/database/guard.py", "            verdict, fence = await self._check()\n        else:", "            verdict, fence = ACCEPTED, Fence()\n        else:", "psycopg", "opened"),
    Mutant("D1", "a transaction of ours is not checked", "fencing/database/guard.py", "            verdict, fence = await self._check()\n        except", "            verdict, fence = ACCEPTED, Fence()\n        except", "psycopg", "guarded twice"),
    Mutant("D1", "a check is in no transaction", "sql/drivers/psycopg_opening.py", "    pgconn.send_query_prepared(BEGIN, None)\n", "", "psycopg", "guarded"),
    Mutant("D1", "a check is in no transaction", "sql/drivers/psycopg_opening.py", "    pgconn.send_query_prepared(BEGIN, None)\n", "", "psycopg-async", "guarded"),
    Mutant("D1", "the raise is not committed", "fencing/database/guard.py", "            await self._database.end(None)\n", "            await self._database.end(_Refused())\n", "psycopg", "guarded", lost=False),
    Mutant("D1", "nobody raises", "fencing/database/guard.py", "                await self._raise()\n                verdict, fence = await self._begin()\n", "                pass\n", "sqlite3", "guarded", lost=False),
    Mutant("D1", "who has not raised works", "fencing/rule.py", "if fence.token < proof.floor:\n        return Verdict.NOT_RAISED", "if False:\n        return Verdict.NOT_RAISED", "sqlite3", "guarded twice"),
    Mutant("B8", "a stale step is done", "fencing/keyspace/lua/check.lua", "if stale or below(token, ARGV[2])", "if foreign", "redis", "guarded"),
    Mutant("D1", "nobody raises", "fencing/keyspace/section.py", "if not self._is_raised or self._proof.seq:", "if False:", "redis", "guarded", lost=False),
    Mutant("D1", "the replacement is not checked", "fencing/files/guard.py", "if verdict is Verdict.ACCEPTED:", "if True:", "file", "guarded"),
    Mutant("B8", "equal tokens are stale", "fencing/rule.py", "fence.intent) > proof.token", "fence.intent) >= proof.token", "sqlite3", "guarded", lost=False),
    Mutant("B8", "a late PUT lands", "fencing/objects/bucket.py", 'condition = {"IfNoneMatch": "*"} if before is None else {"IfMatch": before.etag}', "condition = {}", "s3", "guarded"),
    Mutant("D1", "who has not raised works", "fencing/objects/guard.py", "if found is not None and verdict is Verdict.ACCEPTED:", "if found is not None and verdict in (Verdict.ACCEPTED, Verdict.NOT_RAISED):", "s3", "guarded twice"),
    Mutant("B8", "numbers are not sent", "fencing/web/sender.py", "prove(lease, resource, seq)", "prove(lease, resource, None)", "httpx", "numbered"),
)  # fmt: skip


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", MUTANTS, ids=[f"{m.rule}-{m.what}-{m.path}" for m in MUTANTS])
def test_the_drill_finds_out_a_guard_without(mutant: Mutant, servers: Servers) -> None:
    if reason := missing(find(mutant.driver).store):
        pytest.skip(reason)
    url, server = servers.new(find(mutant.driver).store)
    asyncio.run(prepare(mutant.driver, url))
    change = Change(mutant.file, mutant.text, mutant.replacement)
    with Drill(mutant.driver, url, server=server, change=change) as drill:
        # Where a guard is wrong for a moment only, not each of these meets it.
        tallies = (drill.run(mutant.path, ROUNDS) for _ in range(TIMES))
        assert any(tally.lost if mutant.lost else tally.denied for tally in tallies)
