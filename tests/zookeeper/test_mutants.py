"""The tests of this engine are tested: each mutant takes out one rule, and a test must fail."""

# ruff: noqa: E501 - texts of the tree and names of tests stand on one line each

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.mutating import Mutant, dies, live, name
from tests.servers import zookeeper

if TYPE_CHECKING:
    from tests.servers.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.skipif(zookeeper.missing() is not None, reason=zookeeper.missing() or "")

STORE: Final = "engines/zookeeper/store.py"
SESSIONS: Final = "engines/zookeeper/sessions.py"
ASKING: Final = "engines/zookeeper/asking.py"
SEAT: Final = "engines/zookeeper/seat.py"
HUB: Final = "engines/zookeeper/hub.py"
LINK: Final = "engines/zookeeper/link.py"
LAYOUT: Final = "engines/zookeeper/layout.py"

MUTANTS: Final = (
    Mutant(
        "C3", "counted from the last answered write", "test_proof.py::test_a_deadline_counts_from_the_write_two_before_the_last_answered",
        ((SEAT, "max(self.since, self._beats[0])", "max(self.since, self._beats[-1])"),),
    ),
    Mutant(
        "C3", "writes within half a tick count apart", "test_proof.py::test_writes_that_are_close_together_count_as_one",
        ((SEAT, "if not self._beats or sent >= self._beats[-1] + apart:", "if True:"),),
    ),
    Mutant(
        "C3", "a new connection proves nothing", "test_proof.py::test_a_connection_that_was_made_anew_counts_from_its_first_message",
        ((SEAT, "self.since = max(self.since, connected)", "pass"),),
    ),
    Mutant(
        "A1", "what was asked counts", "test_operation.py::test_a_ttl_that_the_server_clamps_counts_as_it_was_granted",
        ((SESSIONS, "ttl = seat.main.link.timeout", "ttl = seat.card.ttl"),),
    ),
    Mutant(
        "A1", "two ticks are enough", "test_operation.py::test_a_server_that_grants_fewer_than_three_ticks_is_refused",
        ((SESSIONS, "if granted < TICKS_LEAST * tick - 0.001:", "if False:"),),
    ),
    Mutant(
        "A3", "a ghost is taken for own", "test_operation.py::test_a_claim_of_another_session_under_our_name_is_not_taken_for_own",
        ((STORE, " or stat.owner != link.session", ""),),
    ),
    Mutant(
        "A4", "a mute server is not left", "../network/test_faults.py::test_a_fault_during_a_heartbeat_is_not_a_lost_lease[zookeeper-half-open]",
        ((LINK, '                self._broken = f"no answer within', '                _ = f"no answer within'), (LINK, "self._is_mute():", "False:"), (LINK, "{self._broken}\")\n        batch.finish", "no answer\")\n        batch.finish")),
    ),
    Mutant(
        "B1", "an enqueue is sent again", "test_faults.py::test_a_create_whose_reply_was_lost_is_found_and_not_sent_again",
        ((STORE, "if entry.again:", "if False:"),),
    ),
    Mutant(
        "B6", "nobody looks when a watch fires", "test_faults.py::test_a_waiter_that_is_cut_off_past_its_ttl_asks_again_at_the_end",
        ((HUB, "            elif own.waits:\n                self._look(own)", ""),),
    ),
    Mutant(
        "B4", "a waiter that gives up grants the next", "test_operation.py::test_who_dies_or_gives_up_in_the_middle_grants_nobody_behind_it",
        ((STORE, "if closing.held and own.mode == EXCLUSIVE:", "if own.mode == EXCLUSIVE:"),),
    ),
    Mutant(
        "B4", "any end in front is a grant", "test_operation.py::test_who_dies_or_gives_up_in_the_middle_grants_nobody_behind_it",
        ((HUB, "if own.waits and released and own.mode == EXCLUSIVE:", "if own.waits and own.mode == EXCLUSIVE:"),),
    ),
    Mutant(
        "B8", "readers need no look for their floor", "test_operation.py::test_readers_behind_a_writer_learn_their_floor",
        ((HUB, "if own.waits and released and own.mode == EXCLUSIVE:", "if own.waits and released:"),),
    ),
    Mutant(
        "B7", "the sequence is the token", "test_operation.py::test_tokens_rise_when_the_parent_was_removed_and_made_anew",
        ((STORE, '        own.node = path.rpartition("/")[2]\n        own.number = stat.czxid + genesis.base', '        own.node = path.rpartition("/")[2]\n        own.number = int(own.node[-10:]) + 1'),),
    ),
    Mutant(
        "B7", "sequences are compared as numbers", "test_proof.py::test_a_wrapped_sequence_is_in_front_of_what_came_after_it",
        ((LAYOUT, "(row.number - zero + _HALF) % _WHOLE", "row.number"),),
    ),
    Mutant(
        "B8", "the floor is the token", "../contract/test_exclusion.py::test_shared_holders_are_the_prefix_before_the_first_exclusive[zookeeper-blocking]",
        ((STORE, "            if first is None:", "            if True:"),),
    ),
    Mutant(
        "B9", "a steal is not counted", "test_operation.py::test_a_steal_is_told_though_the_ttl_is_long_to_one_who_waits",
        ((STORE, "jute.write(self.layout.steals(row.session))", "jute.check(self.layout.steals(row.session))"),),
    ),
    Mutant(
        "B9", "a steal is not asked for", "../contract/test_endings.py::test_a_stolen_lease_is_told_within_a_third_of_its_ttl[zookeeper-blocking]",
        ((SESSIONS, "                parts.append(jute.check(self.layout.steals(seat.card.id), seat.steals))", "                pass"),),
    ),
    Mutant(
        "B10", "an unclean end lets go at once", "../contract/test_endings.py::test_lock_delay_keeps_the_name_closed_after_an_unclean_end_only[zookeeper-blocking]",
        ((STORE, "return not closing.clean and own.told and bool(own.berth.delay)", "return False"),),
    ),
    Mutant(
        "B10", "a lock_delay has no session of its own", "test_operation.py::test_lock_delay_outlasts_a_client_that_is_gone",
        ((HUB, "        if not delay:", "        if True:"),),
    ),
    Mutant(
        "B12", "any format is spoken", "test_operation.py::test_another_format_is_refused_before_anything_is_touched",
        ((ASKING, "found.format not in SPOKEN:", "False:"),),
    ),
    Mutant(
        "D4", "the base is not added", "test_operation.py::test_a_base_is_added_to_every_number",
        ((STORE, '        own.node = path.rpartition("/")[2]\n        own.number = stat.czxid + genesis.base', '        own.node = path.rpartition("/")[2]\n        own.number = stat.czxid'),),
    ),
)  # fmt: skip


HERE: Final = Path(__file__).parent
FAULTS: Final = "test_faults.py"
"""Its tests look at a whole server, so each mutant of theirs has one of its own; the others have a tree in one."""


def test_on_an_unchanged_copy_the_tests_pass_and_it_is_the_copy_that_runs(
    tmp_path: Path, server: ZooKeeperServer
) -> None:
    tests = sorted({mutant.test for mutant in MUTANTS})
    of_faults = [test for test in tests if test.startswith(FAULTS)]
    live(tmp_path / "faults", HERE, STORE, *of_faults)
    live(tmp_path / "others", HERE, STORE, *(set(tests) - set(of_faults)), environment=zookeeper.lent(server))


@pytest.mark.parametrize("mutant", MUTANTS, ids=name)
def test_a_mutant_dies(tmp_path: Path, mutant: Mutant, server: ZooKeeperServer) -> None:
    environment = {} if mutant.test.startswith(FAULTS) else zookeeper.lent(server)
    dies(tmp_path, HERE, mutant, patience=6.0, environment=environment)
