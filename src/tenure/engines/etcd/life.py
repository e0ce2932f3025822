"""The life of the store: what changes when a cluster may have lost data, and under which leader it was asked (A2).

Promises: `value` differs from what it was before as soon as any connection of this client has seen another cluster,
another genesis record, or a revision below one that was seen before the request was sent.
Does not promise that data was lost: a client that sees another life looks its claims up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenure.runtimes import native

if TYPE_CHECKING:
    from tenure.engines.etcd.messages import Header


class Life:
    """What one client has seen of the store, over all its connections."""

    def __init__(self) -> None:
        self.genesis = b""
        """The genesis record, byte for byte; empty until it was read."""
        self.id = ""
        """Its random id."""
        self.base = 0
        """What is added to create revisions, so that numbers rise over a restore (D4)."""
        self.revision = 0
        """The largest that a linearizable answer has shown."""
        self.term = 0
        """Raft's, as the last linearizable answer has shown it: one leader at most was elected in it."""
        self._cluster = 0
        self._changes = 0
        self._mutex = native.mutex()

    @property
    def value(self) -> str:
        """Names this life."""
        return f"{self._cluster:x}:{self.id}:{self._changes}"

    def adopt(self, genesis: bytes, store_id: str, base: int) -> None:
        """This is the genesis record in force."""
        self.genesis, self.id, self.base = genesis, store_id, base

    def note(self, header: Header, seen_before: int) -> None:
        """Take note of a linearizable answer.

        Args:
            header: the answer's.
            seen_before: `revision` as it was when the request was sent.
        """
        with self._mutex:
            if self._cluster and header.cluster != self._cluster:
                self._changes += 1
                self.revision = 0
            elif header.revision < seen_before:
                # A linearizable answer is never older than its request: the store has gone back.
                self._changes += 1
                self.revision = header.revision
            self._cluster = header.cluster
            self.revision = max(self.revision, header.revision)
            self.term = header.term
