"""The mailbox for waiting tasks of one event loop; apart, for importing asyncio takes longer than a short command."""

from __future__ import annotations

from tenure.engines.listening_aio import ByTask
from tenure.engines.sqlite.mailbox import SqliteMailbox


class AioMailbox(ByTask, SqliteMailbox):
    """The mailbox for waiting tasks."""
