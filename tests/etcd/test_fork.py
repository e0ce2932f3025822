"""Forks with a real server: a child holds nothing of its parent's, and says nothing on its parent's connections."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import pytest

from tests.etcd.rig import fresh
from tests.faces.programs import PATIENCE, QUIET, heard, output, program, tell

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
from tests.servers import etcd
from tests.servers.etcd import EtcdServer
from tests.servers.processes import until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.skipif(etcd.missing() is not None, reason=etcd.missing() or ""),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]


FORKS: Final = ("-W", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
def url(server: EtcdServer) -> str:
    return fresh(server.url)


@pytest.mark.parametrize("mailbox", [False, True])
def test_a_child_says_nothing_and_closes_nothing_of_its_parents(url: str, server: EtcdServer, mailbox: bool) -> None:
    arguments = ["with a mailbox"] if mailbox else []
    watches = server.metric("etcd_debugging_mvcc_watcher_total")
    with program(CHILD + QUIET, url, *arguments, options=FORKS) as process:
        assert heard(process) == "ready"
        if mailbox:
            until(lambda: server.metric("etcd_debugging_mvcc_watcher_total") >= watches + 2, "it listens")
        before = server.messages()
        tell(process)
        assert heard(process) == "over"
        assert server.messages() == before
        tell(process)
        # Its watches and requests work as if nothing had been: the child has closed none of them.
        assert heard(process) == "[]"
        assert process.wait(PATIENCE) == 0


def test_a_fork_while_another_thread_waits_for_a_connection(url: str) -> None:
    """The child inherits the stock's lock as it was: taken, by a thread that it does not have."""
    said = output(
        CHILD
        + """
client = Client(url, ttl=60)
client.lock("name").acquire().release()
taken, done = threading.Event(), threading.Event()
def take():
    with client._core.store._ask._wire._changed:
        taken.set()
        done.wait(20)
thread = threading.Thread(target=take)
thread.start()
taken.wait(20)
def child():
    signal.alarm(15)
    with client.lock("child") as lease:
        assert lease.held
    client.close()
try:
    in_a_child(child)
finally:
    done.set()
thread.join()
say("over")
client.close()
""",
        url,
        options=FORKS,
    )
    assert said == ["over"]
