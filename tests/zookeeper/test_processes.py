"""Whole processes on a real server: how they end, are killed, stopped, and what greenlets do."""

from __future__ import annotations

import pytest

# The same programs as on SQLite, but for what its presence files make quicker.
from tests.faces.test_processes import (  # noqa: F401
    test_a_greenlet_that_is_killed_while_it_waits_leaves_the_queue,
    test_a_process_stopped_past_its_ttl_knows_it_at_its_first_instruction,
    test_an_asyncio_body_stopped_past_its_ttl_is_cancelled_within_a_turn,
    test_ctrl_c_in_a_waiting_thread_leaves_nothing_behind,
    test_greenlets_contend_and_interleave,
    test_leaving_the_interpreter_without_close_frees_the_names_at_once,
    test_leaving_with_asyncio_and_without_close,
    test_leaving_with_threads_that_wait_and_hold,
    test_the_keeper_beats_while_greenlets_are_busy,
)
from tests.servers import zookeeper

pytestmark = pytest.mark.skipif(zookeeper.missing() is not None, reason=zookeeper.missing() or "")
