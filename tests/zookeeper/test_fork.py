"""Forks with a real server: a child holds nothing of its parent's, and says nothing on its parent's connections."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import pytest

from tests.faces.programs import PATIENCE, QUIET, heard, program, tell

# The same programs as on SQLite.
from tests.faces.test_fork import (  # noqa: F401
    CHILD,
    test_a_block_that_both_leave_is_released_by_the_parent_alone,
    test_a_child_sees_forked_reconnects_and_leaves_the_parents_lease_alone,
    test_a_child_that_collects_closes_or_exits_releases_nothing,
    test_a_fork_while_other_threads_use_an_open_client,
    test_a_fork_while_other_threads_use_the_client,
    test_asyncio_in_a_child,
    test_multiprocessing,
    test_preloaded_client_and_forked_workers,
)
from tests.servers import zookeeper
from tests.servers.processes import until
from tests.servers.zookeeper import ZooKeeperServer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.skipif(zookeeper.missing() is not None, reason=zookeeper.missing() or ""),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]

FORKS: Final = ("-W", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def alone() -> Iterator[ZooKeeperServer]:
    with ZooKeeperServer() as server:
        yield server


def sessions(server: ZooKeeperServer) -> dict[str, str]:
    """The sessions that are connected, and how much each has sent."""
    found = {}
    for line in server.word("cons").splitlines():
        if "sid=0x" in line:
            found[line.split("sid=")[1].split(",")[0]] = line.split("recved=")[1].split(",")[0]
    return found


def test_a_child_says_nothing_and_closes_nothing_of_its_parents(alone: ZooKeeperServer) -> None:
    with program(CHILD + QUIET, f"{alone.url}?{alone.options}", "with a mailbox", options=FORKS) as process:
        assert heard(process) == "ready"
        # Two clients' own and one for a lock_delay; those for questions leave after a second.
        before = until(lambda: len(found := sessions(alone)) == 3 and found, "three sessions are there")
        tell(process)
        assert heard(process) == "over"
        after = sessions(alone)
        assert after.keys() == before.keys()
        # A heartbeat is due each ten seconds: nothing was sent meanwhile, or one.
        assert all(int(after[sid]) - int(before[sid]) <= 1 for sid in before)
        tell(process)
        assert heard(process) == "[]"
        assert process.wait(PATIENCE) == 0


def test_a_child_that_uses_the_client_has_a_session_of_its_own(alone: ZooKeeperServer) -> None:
    code = """
client = Client(url, ttl=60)
lease = client.lock("name").acquire()
say("ready")
def child():
    mine = client.lock("mine").acquire()
    say("child")
    sys.stdin.readline()
    mine.release()
    client.close()
in_a_child(child)
assert lease.held
lease.release()
say(client.names())
client.close()
"""
    with program(CHILD + code, f"{alone.url}?{alone.options}", options=FORKS) as process:
        assert heard(process) == "ready"
        before = sessions(alone)
        assert heard(process) == "child"
        assert before.keys() < sessions(alone).keys()
        tell(process)
        assert heard(process) == "[]"
