"""What a SQLite file's set-up means for a lock.

Promises: the file is opened as any client opens it, made if it is not there; nothing that a lock could notice changes.
What opening refuses (a network file system, a file of another user or format, a clock set far back) is raised, as ever.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from tenure.engines.sqlite.database import Database, opening
from tenure.engines.sqlite.endpoint import Sender
from tenure.engines.sqlite.files import open_home
from tenure.engines.sqlite.tables import CEILING_US
from tenure.findings import Finding, Grade
from tenure.mounts import mount_of

if TYPE_CHECKING:
    from tenure.engines.queue import At, Steps
    from tenure.engines.sqlite.files import Home
    from tenure.engines.sqlite.tables import SqliteTables
    from tenure.engines.sqlite.url import SqliteUrl

_ASK_MOST: Final = 5.0
"""Seconds that the file may be kept by others."""


class Facts(NamedTuple):
    """What the file says.

    Attributes:
        last: the largest number given; wall_us: the clock at that moment, in microseconds since 1970.
        journal: the journal mode.
    """

    last: int
    wall_us: int
    journal: str


def examine(url: SqliteUrl, scope: str) -> tuple[Finding, ...]:
    """Open the file and ask it; otherwise as `Engine.examine`."""
    with opening:
        home = open_home(url.path, url.shared)
    sender = Sender(home)
    database = Database(home, sender)

    def ask(steps: Steps, at: At) -> Facts:
        tables: SqliteTables = steps.tables  # type: ignore[assignment]  # a database's steps are over its tables
        return Facts(tables.last, at.wall_us, tables.journal())

    try:
        facts = database.step(ask, _ASK_MOST)
    finally:
        database.shut()
        sender.close()
    return (reach(url, scope), file(home), journal(facts), numbers(facts))


def reach(url: SqliteUrl, scope: str) -> Finding:
    """Whom the locks keep apart."""
    users = "Other users and hosts" if url.path is None else "Other hosts"
    means = f"{users} are not kept out, whatever URL they use: each host has its own file."
    return Finding("scope", Grade.INFO, f"locks reach {scope}", means)


def file(home: Home) -> Finding:
    """The file, who may use it, and what it lies on."""
    mode = stat.S_IMODE(os.stat(home.path).st_mode)
    mount = mount_of(home.path)
    return Finding("file", Grade.OK, f"{home.path}, mode {mode:04o}, on {mount.kind if mount else 'an unknown disk'}")


def journal(facts: Facts) -> Finding:
    """The journal mode, which SQLite changes only where the file system lets it."""
    if facts.journal == "wal":
        return Finding("journal", Grade.OK, "journal mode wal")
    return Finding(
        "journal",
        Grade.WARNING,
        f"journal mode {facts.journal}, not wal",
        "Each step waits for the disk, and readers hold up whoever takes or releases a lock.",
        "Put the file on a local file system with shared memory, such as ext4, xfs or tmpfs.",
    )


def numbers(facts: Facts) -> Finding:
    """How far the numbers are ahead of the clock (B7)."""
    ahead_us = facts.last - facts.wall_us
    if ahead_us <= 0:
        return Finding("numbers", Grade.OK, "the largest token is not ahead of the clock")
    found = f"the largest token is {ahead_us / 1e6:.3f} s ahead of this host's clock"
    if ahead_us <= CEILING_US:
        # After a reboot they go on from the ceiling, which is a minute's worth above the last one.
        return Finding("numbers", Grade.INFO, found, "That is usual for a minute after a reboot.")
    return Finding(
        "numbers",
        Grade.WARNING,
        found,
        "Tokens keep rising while the file is there; if it is deleted or restored before the clock has caught up, they "
        "fall.",
        "Set the clock right. Keep the file until then.",
    )
