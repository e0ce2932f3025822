"""A holder is paused past its lease, and the resource refuses what it does afterwards.

Run it: `python examples/paused_holder.py`. The pause is a real SIGSTOP; the writes go to a real database file.
"""

import contextlib
import os
import signal
import sqlite3
import sys
import tempfile
from pathlib import Path

import tenure

TTL = 1.0


def database(folder: str) -> sqlite3.Connection:
    """The resource."""
    return sqlite3.connect(Path(folder) / "stock.db", timeout=5)


def look(db: sqlite3.Connection, grant: tenure.Grant) -> int:
    """Read. The first block of a holder raises the fence before, committed."""
    with tenure.fencing.sqlite3(db, grant) as tx:
        return int(tx.execute("SELECT left FROM stock WHERE item = 'chair'").fetchone()[0])


def write(db: sqlite3.Connection, grant: tenure.Grant, left: int) -> bool:
    """Write what was decided from an earlier read; the database compares the tokens in the same transaction."""
    try:
        with tenure.fencing.sqlite3(db, grant) as tx:
            tx.execute("UPDATE stock SET left = ? WHERE item = 'chair'", (left,))
    except tenure.StaleToken as refused:
        print(f"database:      {refused}")
        return False
    return True


def paused(folder: str, ready: int) -> None:
    """Read under the lease, be paused in the middle, and write afterwards by the grant, as a job elsewhere would."""
    db = database(folder)
    with tenure.Client(f"sqlite://{folder}/locks.db", ttl=TTL) as client:
        lease = client.lock("stock").acquire()
        left = look(db, lease.grant)
        os.write(ready, b"!")
        signal.sigwait([signal.SIGUSR1])  # the parent stops us here, for longer than the lease
        print(f"paused holder: token {lease.token}, held: {lease.held}, lost because {lease.lost}")
        accepted = write(db, lease.grant, left - 1)
        print(f"paused holder: my write was {'accepted' if accepted else 'refused'}")
    sys.stdout.flush()
    os._exit(1 if accepted else 0)


def main() -> None:
    """Let two holders meet."""
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.closing(database(folder)) as db:
            db.executescript(tenure.fencing.schema("sqlite"))
            db.executescript("CREATE TABLE stock (item TEXT, left INTEGER); INSERT INTO stock VALUES ('chair', 10)")
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
                left = look(db, lease.grant)
                print(f"next holder:   token {lease.token}, sees {left} chairs, sells one")
                write(db, lease.grant, left - 1)
        finally:
            os.kill(child, signal.SIGCONT)
            os.kill(child, signal.SIGUSR1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        left = database(folder).execute("SELECT left FROM stock").fetchone()[0]
        print(f"in the end:    {left} chairs, one sale, none lost")
        assert (status, left) == (0, 9)


if __name__ == "__main__":
    main()
