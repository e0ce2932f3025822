"""After a fork the child holds nothing of its parent's and never releases any of it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.faces.programs import output

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/locks.db"


CHILD = """
def in_a_child(do):
    pid = os.fork()
    if pid == 0:
        try:
            do()
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
"""


def test_a_child_sees_forked_reconnects_and_leaves_the_parents_lease_alone(url: str) -> None:
    said = output(
        CHILD
        + """
import gc
client = Client(url, ttl=3)
lock = client.lock("name", wait=0)
lease = lock.__enter__()
other = client.lock("other").acquire()

def child():
    say(lease.lost.name, lease.held, other.state.value)
    for raises in (lease.check, lease.release, other.release):
        try:
            raises()
        except LeaseLost as error:
            say(error.reason.name)
    lock.__exit__(None, None, None)
    say("taken" if client.lock("name").try_acquire() else "busy")
    mine = client.lock("mine").acquire()
    say(mine.held, len(client.inspect("mine").holders), client.inspect("mine").holders[0].pid == os.getpid())
    say(client.inspect("name").holders[0].token == lease.token)
    client.close()

in_a_child(child)
assert lease.held and other.held
first = lease.deadline
while lease.deadline < first + 1.5:
    assert lease.held, lease.lost
    time.sleep(0.05)
say(client.inspect("name").holders[0].token == lease.token, client.names())
other.release()
lock.__exit__(None, None, None)
say(client.names())
client.close()
""",
        url,
        options=("-W", "ignore::DeprecationWarning"),
    )
    assert said == [
        "FORKED False lost",
        "FORKED",
        "FORKED",
        "FORKED",
        "busy",
        "True 1 True",
        "True",
        "True ['name', 'other']",
        "[]",
    ]


def test_a_child_that_collects_closes_or_exits_releases_nothing(url: str) -> None:
    said = output(
        CHILD
        + """
import gc
client = Client(url)
lease = client.lock("name").acquire()
token = lease.token

def collects():
    global lease
    del lease
    gc.collect()
def closes():
    client.close()
def exits():
    import atexit
    atexit._run_exitfuncs()

for child in (collects, closes, exits):
    in_a_child(child)
    assert [c.token for c in client.inspect("name").holders] == [token]
    assert lease.held
lease.release()
client.close()
say("fine")
""",
        url,
        options=("-W", "ignore::DeprecationWarning"),
    )
    assert said == ["fine"]


def test_a_block_that_both_leave_is_released_by_the_parent_alone(url: str) -> None:
    said = output(
        """
client = Client(url)
with client.lock("name") as lease:
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        say("parent", lease.held)
if pid == 0:
    say("child", client.names())
    client.close()
    os._exit(0)
say("parent", client.names())
client.close()
""",
        url,
        options=("-W", "ignore::DeprecationWarning"),
    )
    assert said == ["child ['name']", "parent True", "parent []"]


def test_preloaded_client_and_forked_workers(url: str) -> None:
    """As gunicorn --preload and Celery's prefork do: the client is opened before the workers are forked."""
    said = output(
        """
client = Client(url, ttl=5).open()
client.lock("warm").acquire().release()
read, write = os.pipe()
pids = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        for _ in range(20):
            with client.lock("name", wait=15) as lease:
                os.write(write, b"%d %d\\n" % (lease.token, os.getpid()))
        client.close()
        os._exit(0)
    pids.append(pid)
os.close(write)
with open(read) as lines:
    seen = [tuple(map(int, line.split())) for line in lines]
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
tokens = [token for token, _ in seen]
say(len(seen), tokens == sorted(set(tokens)), {pid for _, pid in seen} == set(pids))
names, lease = client.names(), client.lock("name").acquire()
say(names, lease.token > tokens[-1])
lease.release()
client.close()
""",
        url,
        options=("-W", "ignore::DeprecationWarning"),
    )
    assert said == ["60 True True", "[] True"]


def test_a_fork_while_other_threads_use_the_client(url: str) -> None:
    """A child inherits every mutex as it was, perhaps taken by a thread that it does not have."""
    said = output(
        CHILD
        + """
# A socket that another thread was making, and had not told of yet, is collected in the child.
warnings.simplefilter("ignore", ResourceWarning)
client = Client(url, ttl=30)
going = True
def busy(number):
    while going:
        with client.lock(f"name {number}", wait=60):
            pass
threads = [threading.Thread(target=busy, args=(n % 2,)) for n in range(4)]
for thread in threads:
    thread.start()
def child():
    signal.alarm(60)
    with client.lock("child", wait=50) as lease:
        assert lease.held
    client.close()
for _ in range(8):
    in_a_child(child)
going = False
for thread in threads:
    thread.join()
say(client.names())
client.close()
""",
        url,
        options=("-W", "ignore::DeprecationWarning"),
        seconds=90,
    )
    assert said == ["[]"]


def test_a_fork_while_other_threads_use_an_open_client(url: str) -> None:
    """More of them than there are connections: some wait for one at every fork."""
    said = output(
        CHILD
        + """
# A socket that another thread was making, and had not told of yet, is collected in the child.
warnings.simplefilter("ignore", ResourceWarning)
client = Client(url, ttl=30)
client.lock("warm").acquire().release()
going = True
def busy(number):
    while going:
        with client.lock(f"name {number}", wait=60):
            pass
threads = [threading.Thread(target=busy, args=(n % 2,)) for n in range(12)]
for thread in threads:
    thread.start()
def child():
    signal.alarm(60)
    with client.lock("child", wait=50) as lease:
        assert lease.held
    client.close()
try:
    for _ in range(8):
        in_a_child(child)
finally:
    going = False
for thread in threads:
    thread.join()
say(client.names())
client.close()
""",
        url,
        options=("-W", "ignore::DeprecationWarning"),
        seconds=90,
    )
    assert said == ["[]"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(url: str, method: str, tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(
        """
import multiprocessing, os, sys, tenure

client = tenure.Client(sys.argv[1] if len(sys.argv) > 1 else os.environ["LOCKS"], ttl=5)

def work(number):
    with client.lock("name", wait=15) as lease:
        return lease.token

if __name__ == "__main__":
    os.environ["LOCKS"] = sys.argv[1]
    held = client.lock("held").acquire()
    context = multiprocessing.get_context(sys.argv[2])
    with context.Pool(2) as pool:
        tokens = pool.map(work, range(10))
        pool.close()
        pool.join()
    assert held.held
    assert client.inspect("held").holders[0].token == held.token
    held.release()
    print(len(set(tokens)), client.names(), flush=True)
    client.close()
"""
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(script), url, method],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "10 []\n", "")


def test_asyncio_in_a_child(url: str) -> None:
    said = output(
        CHILD
        + """
import asyncio
client = tenure.AsyncClient(url)
async def first():
    lease = await client.lock("name").acquire()
    def child():
        async def there():
            say(lease.lost.name, await client.lock("name").try_acquire() is None)
            async with client.lock("child") as mine:
                say(mine.held)
            await client.close()
        asyncio._set_running_loop(None)
        asyncio.run(there())
    in_a_child(child)
    say(lease.held)
    await lease.release()
    await client.close()
asyncio.run(first())
""",
        url,
        options=("-W", "ignore::DeprecationWarning"),
    )
    assert said == ["FORKED True", "True", "True"]


def test_a_memory_store_of_a_child_is_its_own() -> None:
    said = output(
        CHILD
        + """
client = Client(url)
lease = client.lock("name").acquire()
def child():
    mine = client.lock("name").try_acquire()
    say(lease.lost.name, mine is not None)
    client.close()
in_a_child(child)
say(lease.held, len(client.inspect("name").holders))
lease.release()
client.close()
""",
        "memory://fork",
        options=("-W", "ignore"),
    )
    assert said == ["FORKED True", "True 1"]
