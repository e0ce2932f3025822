"""A primary and its standby, which follows it by streaming replication and can be cut off from it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from tests.servers.postgres import STANDBY, USER, PostgresServer
from tests.servers.processes import HOST, until
from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    from tenure.model import Seconds


class Pair:
    """Two servers, started.

    Args:
        synchronous: a commit waits until the standby has it on its disk.
        fsync: wait for the disk.
        behind: seconds by which the standby's clock is behind.

    Attributes:
        url: of both.
        between: the network from the standby to the primary.
    """

    def __init__(self, *, synchronous: bool, fsync: bool = False, behind: Seconds = 0.0) -> None:
        with ExitStack() as made:
            self.primary = made.enter_context(PostgresServer(fsync=fsync))
            self.between = made.enter_context(Proxy((HOST, self.primary.port)))
            self.standby = made.enter_context(
                PostgresServer(standby_of=self.primary, primary_port=self.between.port, clock=behind > 0)
            )
            if behind:
                self.standby.clock.jump(-behind)
            self._is_synchronous = synchronous
            if synchronous:
                self.primary.run(f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'")
                self.primary.run("SELECT pg_reload_conf()")
            self.follows()
            self._made = made.pop_all()
        self.url = f"postgresql://{USER}@{HOST}:{self.primary.port},{HOST}:{self.standby.port}/postgres"

    def follows(self) -> None:
        """Wait until the standby follows."""
        states = [("sync" if self._is_synchronous else "async",)]
        until(lambda: self.primary.run("SELECT sync_state FROM pg_stat_replication") == states, "the standby follows")

    def cut(self) -> None:
        """From now on the standby gets nothing."""
        self.between.refuse()
        self.between.cut()

    def caught_up(self) -> None:
        """Wait until the standby has all that the primary has written."""
        # A commit that is synced brings along those before it that were not.
        self.primary.run("CREATE TABLE IF NOT EXISTS synced ()")
        behind = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_flush_lsn()"
        until(lambda: self.primary.run(behind) == [(1,)], "the standby has caught up")

    def fail_over(self) -> None:
        """The primary dies, and the standby takes its place."""
        self.primary.kill()
        assert self.standby.run("SELECT pg_promote()") == [(True,)]

    def close(self) -> None:
        self._made.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
