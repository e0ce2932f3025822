"""Messages that reach nobody: their grants are found by listing."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from tenure import Client
from tests.sqlite.holders import HOLD, queue_of
from tests.sqlite.rig import LONG, process, sql, until
from tests.timing import Bound

if TYPE_CHECKING:
    from pathlib import Path


MANY = """
client = tenure.Client(url, ttl=12).open()
names = [f"n{index}" for index in range(20)]
count = threading.Semaphore(0)
def wait(name):
    with client.lock(name, wait=30):
        count.release()
threads = [threading.Thread(target=wait, args=(name,)) for name in names]
for thread in threads:
    thread.start()
say("waiting")
for _ in names:
    count.acquire()
say("all")
for thread in threads:
    thread.join()
client.close()
say("closed")
told()
"""


def test_more_grants_than_a_mailbox_holds_are_found_by_listing(path: Path) -> None:
    """A socket holds 11 datagrams; 20 come while the process is stopped."""
    with Client(f"sqlite://{path}", ttl=LONG) as client, process(MANY, str(path)) as waiter:
        leases = [client.lock(f"n{index}").acquire() for index in range(20)]
        waiter.hear()
        until(lambda: sql(path, "SELECT count(*) FROM claims") == [(40,)])
        waiter.stop(path)
        try:
            for lease in leases:
                lease.release()
        finally:
            waiter.go_on()
        began = time.monotonic()
        assert waiter.hear() == ["all"]
        # Listed at once, after five or more messages in one go; the next heartbeat would be up to four seconds away.
        assert time.monotonic() - began < Bound(1.5)
        assert waiter.hear() == ["closed"]


def test_where_the_companion_folder_is_deleted_service_goes_on(path: Path) -> None:
    with Client(f"sqlite://{path}", ttl=3) as client:
        lease = client.lock("n").acquire()
        with process(HOLD + "told()", str(path), "3") as other:
            queue_of(path, 2)
            shutil.rmtree(f"{path}-tenure")
            client.lock("other").acquire().release()
            began = time.monotonic()
            lease.release()
            # No message reaches it any more: its next heartbeat lists the grant.
            assert int(other.hear()[1]) > lease.token
            assert time.monotonic() - began < Bound(3)
            with Client(f"sqlite://{path}", ttl=3) as new:
                assert new.lock("n").try_acquire() is None
                new.lock("third").acquire().release()
