"""The life of the store: what changes when a server may have lost data (rule A2).

Promises: `value` differs from what it was before as soon as any connection of this client has seen another server
process, another replication history, an eviction, another genesis record or template, or that a claim has lost its
plain key.
Does not promise that data was lost: a client that sees another life looks its claims up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tenure.engines.redis.scripts import command
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECTIONS: Final = ("server", "replication", "stats")
_FIELDS: Final = (b"run_id", b"master_replid", b"evicted_keys")

FORMAT: Final = 1
PLAIN_FORMAT: Final = 2
SPOKEN: Final = (FORMAT, PLAIN_FORMAT)
"""Beside each queue there is a plain key, which locks of other libraries go by. A release that would not look at it is
kept out by the number."""

QUESTIONS: Final = len(_SECTIONS)
ASK: Final = b"".join(command(("INFO", section)) for section in _SECTIONS)
"""As many commands as `QUESTIONS`: before Redis 7, INFO takes one section at a time."""


class Life:
    """What one client has seen of the store, over all its connections."""

    def __init__(self, told: str = "") -> None:
        """See nothing yet.

        Args:
            told: the template of plain keys that this client must find in force; empty for whatever is.
        """
        self.told = told
        self.id = ""
        """The random id of the genesis record; empty until it was read."""
        self.format = PLAIN_FORMAT if told else FORMAT
        """Of the store, as the genesis record has it."""
        self.template = ""
        """Of the plain keys beside the queues, as the genesis record has it; empty if there are none."""
        self.value = ""
        """Names this life."""
        self._facts: tuple[bytes, ...] | None = None
        self._changes = 0
        self._lost: dict[str, int] = {}
        self._mutex = native.mutex()

    def adopt(self, store_id: str, spoken: int = FORMAT, template: str = "") -> None:
        """The genesis record has this id, this format and this template."""
        with self._mutex:
            if self.id and template != self.template:
                # Where there are none, nobody is told any more that a claim has lost its plain key: look now.
                self._changes += 1
            self.id, self.format, self.template = store_id, spoken, template
            self._name()

    def lost(self, session: str, count: int) -> None:
        """So many claims of a session have lost their plain keys, ever since it began."""
        if count <= self._lost.get(session, 0):
            return  # known, or an answer that was overtaken
        with self._mutex:
            self._lost[session] = count
            self._changes += 1
            self._name()

    def moved(self) -> None:
        """Another server keeps the store from now on; whether with all of it, nobody has said."""
        with self._mutex:
            self._facts = None
            self._changes += 1
            self._name()

    def note(self, answers: Sequence[Any]) -> None:
        """Take note of the answers to `ASK`; one that is an error (this user may not use INFO) says nothing."""
        with self._mutex:
            known = self._facts or (b"",) * len(_FIELDS)
            facts = tuple(_field(answers, field) or old for field, old in zip(_FIELDS, known, strict=True))
            if self._facts is not None and facts != self._facts:
                self._changes += 1
                self._name()
            self._facts = facts

    def _name(self) -> None:
        self.value = f"{self.id}:{self._changes}"


def _field(answers: Sequence[Any], field: bytes) -> bytes:
    mark = b"\r\n" + field + b":"
    for answer in answers:
        if isinstance(answer, bytes) and mark in answer:
            return answer.partition(mark)[2].partition(b"\r\n")[0]
    return b""
