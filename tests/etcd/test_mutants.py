"""The tests of this folder are themselves tested: each protection that is taken out of the engine must be missed."""

# ruff: noqa: E501 - texts of the tree and names of tests stand on one line each

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from tests.mutating import Mutant, dies, live, name
from tests.servers import etcd

pytestmark = [
    pytest.mark.skipif(etcd.missing() is not None, reason=etcd.missing() or ""),
    pytest.mark.skipif("TENURE_SKIP_MUTANTS" in os.environ, reason="TENURE_SKIP_MUTANTS is set"),
]

HERE: Final = Path(__file__).parent
STORE: Final = "engines/etcd/store.py"
REQUESTS: Final = "engines/etcd/requests.py"
LIFE: Final = "engines/etcd/life.py"
WATCHES: Final = "engines/etcd/watches.py"
MAILBOX: Final = "engines/etcd/mailbox.py"
GRPC: Final = "engines/etcd/grpc.py"
FRAMES: Final = "engines/etcd/frames.py"

MUTANTS: Final = (
    Mutant(
        "B1", "a repeat finds the first", "test_steps.py::test_a_repeat_finds_the_first_however_many_have_come_since",
        ((STORE, "            if reply.succeeded:\n                return", "            if True:\n                return"),),
    ),
    Mutant(
        "B1", "a claim enters once", "test_steps.py::test_a_repeat_finds_the_first_however_many_have_come_since",
        ((STORE, "            m.compare(claim, m.CREATE, 0),\n", ""),),
    ),
    Mutant(
        "B1", "tombstones", "test_steps.py::test_a_tombstone_refuses_the_late_enqueue",
        ((STORE, "            m.compare(tombstone, m.CREATE, 0),\n", ""),),
    ),
    Mutant(
        "B5", "a try is not overtaken", "test_steps.py::test_a_try_that_somebody_overtakes_asks_again",
        ((STORE, "            compares.append(m.compare(queue, m.CREATE, sure_below, end=after(queue), result=m.LESS))\n", ""),),
    ),
    Mutant(
        "B6", "all that blocks is seen", "test_steps.py::test_far_behind_in_a_long_queue_all_that_blocks_is_seen",
        ((STORE, "            if others.more and mine[0].mode.kind is not Kind.EXCLUSIVE:\n", "            if False:\n"),),
    ),
    Mutant(
        "B9", "a steal is counted", "test_steps.py::test_a_steal_compares_counts_and_is_final",
        ((STORE, "        count = [\n            m.touch_op(session),\n", "        count = [\n"),),
    ),
    Mutant(
        "B10", "a dead holder's delay", "test_steps.py::test_a_dead_holders_delay_outlasts_its_session_and_a_dead_waiters_does_not",
        ((STORE, "        if mine.delay and not mine.taken and not await self._take_up(mine, until):\n", "        if False:\n"),),
    ),
    Mutant(
        "B10", "an unclean end", "test_steps.py::test_an_unclean_end_keeps_the_name_for_the_delay_and_a_repeat_does_not_prolong_it",
        ((STORE, "[c for c in closings if not c.clean]", "[]"),),
    ),
    Mutant(
        "B12", "genesis is compared", "test_steps.py::test_a_base_is_added_to_every_number",
        ((STORE, "            m.compare(keys.genesis, m.VALUE, self._ask.life.genesis),\n", ""),),
    ),
    Mutant(
        "A1", "a lease that was there before is renewed", "test_steps.py::test_a_session_that_was_opened_before_is_renewed_by_the_repeat",
        ((REQUESTS, "                granted, _ = await self.renew(lease, m.get_op(m.get(self.keys.genesis)), until)\n", "                granted = whole_ttl(ttl)\n"),),
    ),
    Mutant(
        "A1", "only the leader's renewals count", "test_steps.py::test_a_renewal_by_a_leader_that_was_replaced_is_not_counted",
        ((REQUESTS, "            if kept is None or before == kept.term == reply.header.term:\n", "            if True:\n"),),
    ),
    Mutant(
        "A2", "a revision that went back", "test_steps.py::test_a_revision_that_went_back_is_another_life",
        ((LIFE, "elif header.revision < seen_before:", "elif False:"),),
    ),
    Mutant(
        "C4", "who has seen a key before its watch looks again", "test_watches.py::test_who_has_seen_it_before_the_watch_began_looks_again",
        ((WATCHES, "            return list(self._waiters.get(key, ()))\n", "            return []\n"),),
    ),
    Mutant(
        "C4", "who is behind a waiter looks again later", "test_watches.py::test_a_waiter_that_gives_up_between_the_look_and_the_watch_of_the_next_is_not_missed",
        ((MAILBOX, "        if late_at is not None:\n", "        if False:\n"),),
    ),
    Mutant(
        "C4", "who is behind the holder looks again at once", "test_steps.py::test_who_is_behind_a_waiter_says_so_and_who_is_behind_a_holder_does_not",
        ((STORE, "            waits = mine.mode.kind is Kind.EXCLUSIVE and len(ahead) > 1\n", "            waits = True\n"),),
    ),
    Mutant(
        "C4", "so does who joins a watch that began later", "test_watches.py::test_who_has_seen_it_before_the_watch_began_looks_again",
        ((WATCHES, "                late = late or self._since.get(key, 0) > want.revision\n", ""),),
    ),
    Mutant(
        "watches", "no watch stays behind", "test_watches.py::test_who_gives_up_leaves_no_watch_behind",
        ((STORE, "            self._watches.drop(Waiter(closing.ref", "            (Waiter(closing.ref"),),
    ),
    Mutant(
        "watches", "nor does what is gone", "test_watches.py::test_watches_of_what_is_gone_do_not_pile_up",
        ((MAILBOX, "            pipe.http2.cancel(self._stream)\n", ""),),
    ),
    Mutant(
        "grpc", "what was taken is given back", "test_grpc.py::test_the_server_may_go_on_for_ever[False]",
        ((GRPC, "        if taken < WINDOW // 2:\n", "        if True:\n"),),
    ),
    Mutant(
        "grpc", "a server that leaves still answers", "test_grpc.py::test_a_server_that_leaves_answers_what_it_has_begun_with",
        ((GRPC, " if n > last]", "]"),),
    ),
    Mutant(
        "grpc", "only what was not begun is untouched", "test_grpc.py::test_a_server_that_leaves_answers_what_it_has_begun_with",
        ((GRPC, "if n > last]", "if n >= last]"),),
    ),
    Mutant(
        "grpc", "what waits ends with its stream", "test_grpc.py::test_what_waits_for_a_window_is_dropped_with_its_stream",
        ((GRPC, "        self._unsent.pop(stream, None)\n        return", "        return"),),
    ),
    Mutant(
        "grpc", "the connection's window is everybody's", "test_grpc.py::test_the_server_may_go_on_for_ever[True]",
        ((GRPC, "        self._taken = self._gave_back(0, self._taken + one.size)\n        stream = self._stream(one.stream)\n        if stream is None:\n            return\n", "        stream = self._stream(one.stream)\n        if stream is None:\n            return\n        self._taken = self._gave_back(0, self._taken + one.size)\n"),),
    ),
    Mutant(
        "grpc", "what indexes meant is forgotten", "test_frames.py::test_the_same_indexes_may_mean_something_else_later",
        ((GRPC, "            self._known.clear()\n", "            pass\n"),),
    ),
    Mutant(
        "grpc", "an end changes the table too", "test_frames.py::test_headers_of_a_stream_that_is_over_still_change_the_table",
        ((GRPC, "        found = self._decoded(one.payload)\n        stream = self._stream(one.stream)\n        if stream is None:\n            return\n", "        stream = self._stream(one.stream)\n        if stream is None:\n            return\n        found = self._decoded(one.payload)\n"),),
    ),
    Mutant(
        "grpc", "no table for our headers", "test_frames.py::test_a_server_that_wants_another_table_of_headers_is_told_that_it_has_it",
        ((GRPC, "        self._opening = _NO_TABLE\n", "        self._opening = b\"\"\n"),),
    ),
    Mutant(
        "grpc", "windows of open streams follow the settings", "test_grpc.py::test_nothing_is_sent_that_the_server_does_not_take",
        ((GRPC, "                    stream.window = _widened(stream.window, value - self._window_of_streams)\n", "                    pass\n"),),
    ),
    Mutant(
        "frames", "padding counts", "test_frames.py::test_padding_and_priorities_are_taken_off_and_the_size_is_that_on_the_wire",
        ((FRAMES, "            one = Frame(kind, flags, stream, payload, size)\n        if", "            one = Frame(kind, flags, stream, payload, len(payload))\n        if"),),
    ),
)  # fmt: skip


def test_on_an_unchanged_copy_the_tests_pass_and_it_is_the_copy_that_runs(tmp_path: Path) -> None:
    live(tmp_path, HERE, STORE, *sorted({mutant.test for mutant in MUTANTS}))


@pytest.mark.parametrize("mutant", MUTANTS, ids=name)
def test_a_mutant_dies(tmp_path: Path, mutant: Mutant) -> None:
    dies(tmp_path, HERE, mutant, patience=20.0)
