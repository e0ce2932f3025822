"""The mutants: each takes one rule out of the protocol, and the simulation must notice.

Each is (rule, file under src/tenure, text, replacement, mode); the text occurs exactly once in its file. Kept short, so
that edits nearby do not break them; a mutant whose text is gone fails its test and wants a new text, not deletion.
"""

from __future__ import annotations

from typing import Final, NamedTuple

SEEDS: Final = 800
"""A mutant that outlives so many seeds is alive."""


class Mutant(NamedTuple):
    """One rule taken out."""

    rule: str
    what: str
    file: str
    text: str
    replacement: str
    mode: str = "safety"
    faults: str = ""
    also: tuple[str, str] | None = None
    """A second place in the same file."""
    options: tuple[str, ...] = ()
    """More of the simulation's."""
    seed: int = 0
    """One that was seen to find it, and is tried before the others."""


LEDGER: Final = "protocols/ledger.py"
CLAIM: Final = "protocols/claim.py"
WAITERS: Final = "protocols/waiters.py"
LEASE: Final = "protocols/lease.py"
KEEP: Final = "protocols/keep.py"
QUEUE: Final = "engines/queue.py"
MEMORY: Final = "engines/memory.py"
MODEL: Final = "model.py"
RECORDS: Final = "protocols/records.py"
SEVERAL: Final = "protocols/several.py"

TOGETHER: Final = ("--together",)

MUTANTS: Final = (
    Mutant(
        "A1",
        "deadline from the reply",
        LEDGER,
        "Instant(since + facts.ttl * DRIFT",
        "Instant(now + facts.ttl * DRIFT",
    ),
    Mutant(
        "A1",
        "an enqueue that extends nothing moves the deadline",
        QUEUE,
        "facts = None\n        if seen.until_us is None:",
        "facts = SessionFacts(card.ttl, tables.life, 0)\n        if seen.until_us is None:",
    ),
    Mutant("A1", "no renewal before a stale lease is handed out", CLAIM, "if _is_fresh(claim, now):", "if True:"),
    Mutant(
        "A2",
        "another life or a steal is ignored",
        LEDGER,
        "(facts.life, facts.stolen) != (session.facts.life, session.facts.stolen)",
        "False",
        seed=22,
    ),
    Mutant(
        "A2", "what the store brought back is kept", KEEP, "for ref in orphans:", "for ref in orphans[:0]:", seed=47
    ),
    Mutant("A2", "an unanswered heartbeat reconciles", KEEP, " or not renewal.is_answered", "", "liveness", seed=201),
    Mutant(
        "A3", "a late renewal counts", LEDGER, "elif now >= session.deadline:", "elif False:", faults="pause", seed=10
    ),
    Mutant(
        "A3",
        "a heartbeat revives",
        QUEUE,
        "if row is None or row.ended or row.until_us <= at.now_us:\n            return Beat(",
        "if row is None:\n            return Beat(",
        seed=10,
    ),
    Mutant(
        "A3",
        "death is not latched",
        MEMORY,
        "row.ended = 1\n            row.until_us = min(row.until_us, now_us)",
        "pass",
        "safety",
        "skip",
    ),
    Mutant(
        "A4",
        "a renewal waits past the deadline",
        KEEP,
        "patience = min(session.patience, max(0.001, session.deadline - self.sent))",
        "patience = 9e9",
    ),
    Mutant(
        "A4",
        "the keeper does not look at the clock",
        KEEP,
        "now >= session.deadline and session.claims",
        "False",
        seed=6,
    ),
    Mutant("A5", "max_hold is ignored", LEASE, "claim.hold_until = Instant(claim.granted_at + max_hold)", "pass"),
    Mutant(
        "A5",
        "an idle client's waiter is not renewed",
        CLAIM,
        "if claim.session.next_beat < ledger.next_due:",
        "if False:",
        "liveness",
        seed=13,
    ),
    Mutant("B1", "no tombstones", QUEUE, "if closing.tombstone:", "if False:"),
    Mutant(
        "B1",
        "tombstones for abandoned claims sent once only",
        LEDGER,
        "claim.unanswered or claim.sent_twice, clean",
        "False, clean",
    ),
    Mutant(
        "B2",
        "debts are paid once",
        KEEP,
        "            _postpone(ledger, due)\n            silent.add(due[0].claim.session.part)\n"
        "            if len(silent) >= failures:\n                return silent\n            continue",
        "            pass",
    ),
    Mutant(
        "B2",
        "abandoned claims are not closed",
        LEDGER,
        "if claim.number or claim.unanswered or claim.sent_twice:",
        "if claim.lost is not None and claim.number:",
    ),
    Mutant("B2", "a grant that nobody takes up is kept", KEEP, "if _forsaken(claim, now):", "if False:"),
    Mutant(
        "B2", "a dropped lease is kept", KEEP, "ledger.lose(claim, LossReason.DROPPED", "(claim, LossReason.DROPPED"
    ),
    Mutant(
        "B3",
        "a removal tells nobody",
        QUEUE,
        "self._send(row, row.number, floor)",
        "pass",
        "liveness",
    ),
    Mutant(
        "B3", "a release does not settle", QUEUE, "            self._settle(at, ref.name, ref.number)\n", "", "liveness"
    ),
    Mutant(
        "B3",
        "a waiter that leaves hints nobody",
        QUEUE,
        "if behind is not None and not behind.floor:",
        "if False:",
        "liveness",
        seed=5,
    ),
    Mutant(
        "B4",
        "a message is not bound to its session and number",
        LEDGER,
        "if session.card.id == session_id:",
        "if claim_id in session.claims:",
        faults="pause,stall,cut,storm",
        also=("if message.number and (is_known or", "if message.number and (True or"),
        seed=32,
    ),
    Mutant(
        "B4",
        "a grant that the keeper has heard of does not wake the reader",
        LEDGER,
        "claim.signal is not None or self.waiters.reader is claim",
        "claim.signal is not None",
        "liveness",
    ),
    Mutant(
        "B4",
        "a grant that another has read does not wake the sleeper",
        LEDGER,
        "claim.signal is not None or self.waiters.reader is claim",
        "self.waiters.reader is claim",
        "liveness",
    ),
    Mutant(
        "B4",
        "a reader that leaves leaves the mailbox to nobody",
        WAITERS,
        "return None if heir is None else heir.signal",
        "return None",
        "liveness",
    ),
    Mutant("B4", "grants are not listed", KEEP, "self._ledger.deliver(outcome.granted)", "pass", "liveness"),
    Mutant(
        "B5",
        "the latest limit counts",
        MODEL,
        "limit = min(limit, mode.limit)\n            used += mode.permits",
        "limit = mode.limit\n            used += mode.permits",
    ),
    Mutant(
        "B5",
        "the smallest limit in the whole queue counts",
        MODEL,
        "    prefix: list[C] = []\n",
        "    queue = list(queue)\n    prefix: list[C] = []\n",
        "liveness",
        also=("kind, limit = mode.kind, mode.limit", "kind, limit = mode.kind, min(c.mode.limit for c in queue)"),
    ),
    Mutant(
        "B6",
        "one nearest claim is watched",
        MODEL,
        "            if used > limit:\n                return needed\n    return []",
        "            if used > limit:\n                return needed[:1]\n    return []",
        "liveness",
        "crash",
        seed=329,
    ),
    Mutant(
        "B6",
        "sessions in front are not looked at when due",
        CLAIM,
        "due = min([peer.due for peer in place.peers], default=now) + LOOK_LEAST",
        "due = now + 1e6",
        "liveness",
    ),
    Mutant(
        "B7", "the counter alone draws", MEMORY, "max(self.last + 1, wall_us)\n", "self.last + 1\n", "safety", "forget"
    ),
    Mutant("B7", "the clock alone draws", MEMORY, "max(self.last + 1, wall_us)\n", "wall_us\n", "safety", "wall"),
    Mutant(
        "B8",
        "the floor is the token",
        QUEUE,
        "floor = prefix[0].number\n                self.tables.tell",
        "floor = row.number\n                self.tables.tell",
    ),
    Mutant("B8", "the floor of who enters is its token", QUEUE, "(prefix[0].number if prefix else number)", "number"),
    Mutant("B9", "steal by name", QUEUE, "if c.number == number), None)", "if number), None)", "safety", "steal"),
    Mutant(
        "B10",
        "the delay of a dead session is ignored",
        QUEUE,
        "return row.until_us + row.delay_us",
        "return row.until_us",
        seed=9,
    ),
    Mutant(
        "B10",
        "a lost lease skips the delay",
        QUEUE,
        "if not closing.clean and row.delay_us",
        "if False and row.delay_us",
    ),
    Mutant("B10", "the end of a delay ends the session", QUEUE, "if not row.freed_us:", "if True:"),
    Mutant(
        "B1",
        "a tombstone's record is swept at once",
        MEMORY,
        "if row.until_us <= now_us:",
        "if row.until_us <= now_us or row.ended:",
        faults="stall,cancel,storm",
        seed=22,
    ),
    Mutant(
        "B6",
        "a reader that leaves hints nobody",
        QUEUE,
        "kind is PERMITS or last_gone > last.number",
        "kind is PERMITS",
        "liveness",
        "crash",
        seed=38,
    ),
    Mutant(
        "A2",
        "an answer from before a loss counts",
        CLAIM,
        "if claim.session.epoch != epoch:",
        "if False:",
        faults="steal,starve",
        seed=135,
    ),
    Mutant(
        "B11",
        "names are taken in the order in which they are named",
        SEVERAL,
        "return sorted(asks, key=",
        "return list(asks) or sorted(asks, key=",
        "liveness",
        options=TOGETHER,
    ),
    Mutant(
        "B11",
        "one that is lost leaves the others",
        LEDGER,
        "for other in group:\n            self.lose(",
        "for other in group[:0]:\n            self.lose(",
        faults="steal",
        also=("for other in group:\n            other.lost", "for other in group[:0]:\n            other.lost"),
        options=TOGETHER,
    ),
    Mutant(
        "B11",
        "the deadline of one is not that of the others",
        RECORDS,
        "for other in self.group:",
        "for other in self.group[:0]:",
        options=(*TOGETHER, "--parts", "3"),
        seed=8,
    ),
    Mutant(
        "B11",
        "what was lost meanwhile is handed out",
        SEVERAL,
        "if join(ledger, claims):",
        "if join(ledger, claims) or True:",
        options=TOGETHER,
    ),
    Mutant(
        "B11",
        "what was granted before one was not is kept",
        SEVERAL,
        "                release_later(ledger, claim)\n        # One",
        "                pass\n        # One",
        "liveness",
        options=TOGETHER,
    ),
)
