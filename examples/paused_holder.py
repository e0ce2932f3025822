"""A holder is paused past its lease, and the resource refuses what it does afterwards.

Run it: `python examples/paused_holder.py`. The pause is a real SIGSTOP; the writes go to a real database file.
"""

import os
import signal
import sqlite3
import sys
import tempfile
from pathlib import Path

import tenure

TTL = 1.0


def database(folder: str) -> sqlite3.Connection:
    """The resource: a counter, and a fence beside it."""
    db = sqlite3.connect(Path(folder) / "stock.db", isolation_level=None, timeout=5)
    db.execute("CREATE TABLE IF NOT EXISTS stock (item TEXT PRIMARY KEY, left INTEGER, fence INTEGER)")
    db.execute("INSERT OR IGNORE INTO stock VALUES ('chair', 10, 0)")
    return db


def open_fence(db: sqlite3.Connection, token: int) -> int:
    """Raise the fence, committed, and only then read: from here on an older holder's write is refused."""
    db.execute("UPDATE stock SET fence = ? WHERE item = 'chair' AND fence <= ?", (token, token))
    return int(db.execute("SELECT left FROM stock WHERE item = 'chair' AND fence = ?", (token,)).fetchone()[0])


def write(db: sqlite3.Connection, token: int, left: int) -> bool:
    """The check and the write are one statement."""
    done = db.execute("UPDATE stock SET left = ? WHERE item = 'chair' AND fence = ?", (left, token))
    return done.rowcount == 1


def paused(folder: str, ready: int) -> None:
    """Read under the lease, be paused in the middle, and write afterwards without looking at the lease."""
    db = database(folder)
    with tenure.Client(f"sqlite://{folder}/locks.db", ttl=TTL) as client:
        lease = client.lock("stock").acquire()
        left = open_fence(db, lease.token)
        os.write(ready, b"!")
        signal.sigwait([signal.SIGUSR1])  # the parent stops us here, for longer than the lease
        print(f"paused holder: token {lease.token}, held: {lease.held}, lost because {lease.lost}")
        accepted = write(db, lease.token, left - 1)
        print(f"paused holder: my write was {'accepted' if accepted else 'refused'}")
    sys.stdout.flush()
    os._exit(1 if accepted else 0)


def main() -> None:
    """Let two holders meet."""
    with tempfile.TemporaryDirectory() as folder:
        heard, ready = os.pipe()
        child = os.fork()
        if child == 0:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
            paused(folder, ready)
        os.read(heard, 1)
        os.kill(child, signal.SIGSTOP)
        try:
            db = database(folder)
            with (
                tenure.Client(f"sqlite://{folder}/locks.db", ttl=TTL) as client,
                client.lock("stock", wait=10) as lease,
            ):
                left = open_fence(db, lease.token)
                print(f"next holder:   token {lease.token}, sees {left} chairs, sells one")
                write(db, lease.token, left - 1)
        finally:
            os.kill(child, signal.SIGCONT)
            os.kill(child, signal.SIGUSR1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        left = database(folder).execute("SELECT left FROM stock").fetchone()[0]
        print(f"in the end:    {left} chairs, one sale, none lost")
        assert (status, left) == (0, 9)


if __name__ == "__main__":
    main()
