"""The tests of this folder are tested: each mutant takes out one rule of the engine, and a test must fail."""

# ruff: noqa: E501 - texts of the tree and names of tests stand on one line each

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.mutating import Mutant, dies, live, name

DATABASE: Final = "engines/sqlite/database.py"
TABLES: Final = "engines/sqlite/tables.py"
ENDPOINT: Final = "engines/sqlite/endpoint.py"
MAILBOX: Final = "engines/sqlite/mailbox.py"
QUEUE: Final = "engines/queue.py"
MEMORY: Final = "engines/memory.py"


MUTANTS: Final = (
    Mutant(
        "C1", "missing presence is death", "test_lost_mail.py::test_where_the_companion_folder_is_deleted_service_goes_on",
        ((ENDPOINT, "return presence(home, address) is Presence.FREE", "return presence(home, address) is not Presence.HELD"),),
    ),
    Mutant(
        "C1", "an exclusive probe", "test_endpoint.py", ((ENDPOINT, "fcntl.LOCK_SH | fcntl.LOCK_NB", "fcntl.LOCK_EX | fcntl.LOCK_NB"),),
    ),
    Mutant(
        "C1", "nobody listens to pulses", "test_killed.py::test_after_a_kill_the_next_in_the_queue_holds_within_a_second",
        ((MAILBOX, "heard = self._listen(peer) and heard", "pass"),),
    ),
    Mutant(
        "C1", "presence does not hasten", "test_killed.py::test_a_try_finds_the_dead_at_once",
        ((ENDPOINT, "return presence(home, address) is Presence.FREE", "return False"),),
    ),
    Mutant(
        "C1", "a dying neighbour is looked at once", "test_killed.py::test_a_holder_whose_pulse_ends_before_its_presence_costs_no_quarter_of_a_second",
        ((MAILBOX, "DYING_S: Final = 0.002", "DYING_S: Final = 5.0"), (MAILBOX, "DEAF_S: Final = 0.25", "DEAF_S: Final = 5.0")),
    ),
    Mutant(
        "C1", "another file at the path is not noticed", "test_numbers.py::test_a_deleted_file_ends_every_lease_with_a_reason_and_numbers_go_on",
        ((DATABASE, "steps is None or home.inode() != self._inode", "steps is None"),),
    ),
    Mutant(
        "C1", "no guard before the transaction", "test_stopped.py::test_a_process_stopped_in_its_transaction_is_named_and_service_resumes",
        ((DATABASE, "            guard.acquire(timeout)\n            with self.inside", "            with self.inside"),),
    ),
    Mutant(
        "C1", "a busy file is an error at once", "test_database.py::test_a_stranger_that_goes_in_time_is_waited_for",
        ((DATABASE, "if now >= give_up:", "if True:"),),
    ),
    Mutant(
        "C1", "the sessions of another boot live on", "test_numbers.py::test_after_a_reboot_nobody_is_alive",
        ((DATABASE, 'do("DELETE FROM sessions")', "pass"),),
    ),
    Mutant(
        "C1", "a reboot forgets lock_delay", "test_numbers.py::test_after_a_reboot_the_lock_delay_of_a_holder_counts_from_now",
        ((DATABASE, "WHERE delay_us > 0 AND floor > 0", "WHERE 0 * ?"),),
    ),
    Mutant(
        "C1", "another namespace is accepted", "test_numbers.py::test_another_time_namespace_of_the_same_boot_is_refused_while_anybody_may_live",
        ((DATABASE, "(same and Presence.UNKNOWN in seen)", "False"),),
    ),
    Mutant(
        "C1", "a boot id outweighs a held presence", "test_numbers.py::test_a_client_at_work_under_another_boot_id_is_not_taken_for_dead",
        ((DATABASE, "Presence.HELD in seen or", ""),),
    ),
    Mutant(
        "C1", "two guards after the folder is gone", "test_database.py::test_everything_deleted_is_made_anew_behind_one_guard",
        ((DATABASE, "if self._guard.is_stale():", "if False:"),),
    ),
    Mutant(
        "A2", "a restore in place is the same life", "test_database.py::test_a_claim_that_a_restore_in_place_lost_is_a_lost_lease",
        ((DATABASE, "if tables.last < home.seen or home.setbacks != self._setbacks:", "if False:"),),
    ),
    Mutant(
        "A2", "only the connection that sees a restore tells", "test_database.py::test_a_claim_that_a_restore_in_place_lost_is_a_lost_lease",
        ((DATABASE, "if tables.last < home.seen or home.setbacks != self._setbacks:", "if self._setbacks < 0:"),),
    ),
    Mutant(
        "A3", "a glance takes the dead for living", "test_glance.py",
        ((QUEUE, "min(seen.held_us, seen.last_us) > at.now_us", "True"),),
    ),
    Mutant(
        "B3", "a glance takes a head for told", "test_glance.py::test_a_head_that_was_not_told_is_told_by_whoever_enters",
        ((MEMORY, "is ALONE and first.floor and", "is ALONE and"),),
    ),
    Mutant(
        "B10", "a glance forgets lock_delay", "test_glance.py::test_the_file_is_seen_as_the_dictionaries_are",
        ((TABLES, "l.delay_us = 0 AND ", ""),),
    ),
    Mutant(
        "B3", "mail before the commit", "test_database.py::test_mail_is_sent_after_the_commit",
        ((DATABASE, '                    do("COMMIT")\n                    home.seen', '                    for mail in steps.take_mail():\n                        self._sender.send(*mail)\n                    do("COMMIT")\n                    home.seen'),),
    ),
    Mutant(
        "B3", "mail of a step that was rolled back", "test_database.py::test_no_mail_of_a_step_that_was_not_committed_is_ever_sent",
        ((DATABASE, "            steps.take_mail()\n        if connection.in_transaction:", "            pass\n        if connection.in_transaction:"),),
    ),
    Mutant(
        "B3", "no mail", "test_killed.py::test_a_release_wakes_the_next_at_once",
        ((DATABASE, "                    self._sender.send(address, message)", "                    pass"),),
    ),
    Mutant(
        "B4", "an overflow is not listed", "test_lost_mail.py::test_more_grants_than_a_mailbox_holds_are_found_by_listing",
        ((MAILBOX, "            self.overflowed = True", "            pass"),),
    ),
    Mutant(
        "B4", "no mail and no listing", "test_lost_mail.py::test_more_grants_than_a_mailbox_holds_are_found_by_listing",
        ((DATABASE, "                    self._sender.send(address, message)", "                    pass"), (QUEUE, "if not waiting:", "if True:")),
    ),
    Mutant(
        "B7", "no ceiling", "test_numbers.py::test_no_number_is_given_above_the_ceiling_on_the_disk",
        ((TABLES, "if number > self._ceiling:", "if number > NUMBER_MAX:"),),
    ),
    Mutant(
        "B7", "a ceiling that is not synced", "test_numbers.py::test_the_ceiling_is_committed_under_full_synchronisation_and_nothing_else_is",
        ((DATABASE, 'connection.execute("PRAGMA synchronous = FULL")', "pass"),),
    ),
    Mutant(
        "B7", "a power failure takes the ceiling for nothing", "test_numbers.py::test_after_a_power_failure_numbers_are_above_all_that_were_given",
        ((DATABASE, "last = max(last, ceiling)", "last = last"),),
    ),
    Mutant(
        "B7", "the clock alone draws", "test_numbers.py::test_a_wall_clock_set_back_counts_on_from_the_last_number",
        ((TABLES, "max(self.last + 1, wall_us)", "wall_us"),),
    ),
    Mutant(
        "B7", "a number far ahead of the clock is accepted", "test_numbers.py::test_a_last_number_more_than_a_day_ahead_of_the_clock_is_refused_at_open",
        ((DATABASE, "    refuse_future(genesis.last", "    lambda: refuse_future(genesis.last"),),
    ),
    Mutant(
        "B12", "the format is not compared", "test_database.py::test_a_format_that_another_process_raises_stops_the_next_step_and_changes_nothing_else",
        ((TABLES, "WHERE format = ? AND", "WHERE ? > 0 AND"),),
    ),
    Mutant(
        "B12", "the id is not compared", "test_database.py::test_another_id_and_a_missing_genesis_stop_the_next_step",
        ((TABLES, "AND id = ? AND clock", "AND ? > '' AND clock"),),
    ),
    Mutant(
        "B12", "the format is not looked at when opening", "test_database.py::test_a_newer_format_is_refused_at_open_and_the_file_stays_as_it_is",
        ((DATABASE, "if found not in SPOKEN:", "if False:"),),
    ),
)  # fmt: skip


HERE: Final = Path(__file__).parent


def test_on_an_unchanged_copy_the_tests_pass_and_it_is_the_copy_that_runs(tmp_path: Path) -> None:
    live(tmp_path, HERE, DATABASE, *sorted({mutant.test for mutant in MUTANTS} - {"test_endpoint.py"}))


@pytest.mark.parametrize("mutant", MUTANTS, ids=name)
def test_a_mutant_dies(tmp_path: Path, mutant: Mutant) -> None:
    dies(tmp_path, HERE, mutant, patience=2.5)
