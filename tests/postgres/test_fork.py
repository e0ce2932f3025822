"""Forks and gevent with a real server: a child holds nothing of its parent's, and closes none of its connections."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.faces.programs import GREENLETS, QUIET, heard, program, tell

# The same programs as on the other engines.
from tests.faces.test_fork import (  # noqa: F401
    CHILD,
    test_a_block_that_both_leave_is_released_by_the_parent_alone,
    test_a_child_sees_forked_reconnects_and_leaves_the_parents_lease_alone,
    test_a_child_that_collects_closes_or_exits_releases_nothing,
    test_a_fork_while_other_threads_use_the_client,
    test_asyncio_in_a_child,
    test_multiprocessing,
    test_preloaded_client_and_forked_workers,
)
from tests.servers import postgres

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer

pytestmark = [
    pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing())),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]

FORKS: Final = ("-W", "ignore::DeprecationWarning")


def backends(server: PostgresServer) -> set[int]:
    return {pid for (pid,) in server.run("SELECT pid FROM pg_stat_activity WHERE application_name = 'tenure'")}


@pytest.mark.parametrize("mailbox", [False, True])
def test_a_child_says_nothing_and_closes_nothing_of_its_parents(
    server: PostgresServer, url: str, mailbox: bool
) -> None:
    arguments = ["with a mailbox"] if mailbox else []
    with program(CHILD + QUIET, url, *arguments, options=FORKS) as process:
        assert heard(process) == "ready"
        before = backends(server)
        assert len(before) >= 2
        tell(process)
        assert heard(process) == "over"
        assert before <= backends(server)
        tell(process)
        assert heard(process) == "[]"
        assert process.wait(5) == 0


def test_under_gevent_the_keeper_keeps_and_other_greenlets_run(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GREENLETS, url], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("20 True\n", "")
