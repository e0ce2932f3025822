"""Clients that are stopped, past their ttl or for a moment, while they hold and while they wait."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tenure import Client
from tenure.runtimes import native
from tests.faces.programs import heard, program
from tests.faces.watched import Attempt, waits
from tests.postgres.rig import LONG, TTL
from tests.servers import postgres
from tests.servers.processes import until
from tests.timing import SLACK, in_time

pytestmark = pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing()))


def test_a_client_that_is_stopped_past_its_ttl_says_lost_at_its_first_instruction(url: str, witness: Client) -> None:
    code = """
with tenure.Client(url, ttl=1.5) as client:
    lease = client.lock("n").acquire()
    say("held", lease.token)
    in_time = True
    while True:
        before = client._core.now()
        if not lease.held:
            break
        in_time = in_time and before < lease.deadline
    say("lost", lease.lost.name, in_time)
"""
    witness.lock("warm").acquire().release()
    with program(code, url) as process:
        token = int(heard(process).split()[1])
        process.send_signal(signal.SIGSTOP)
        begun = native.now()
        with witness.lock("n", wait=20) as successor:
            assert successor.token > token
            assert native.now() - begun < TTL + SLACK
            process.send_signal(signal.SIGCONT)
            assert heard(process) == "lost DEADLINE True"
            assert successor.held


WAITER = """
with tenure.Client(url, ttl=1.5) as client:
    say("asks")
    with client.lock("n", wait=60) as lease:
        say("held", lease.token, lease.held)
        sys.stdin.readline()
"""


def test_a_waiting_client_that_is_stopped_past_its_ttl_is_passed_over_and_served_behind(
    url: str, witness: Client
) -> None:
    first = witness.lock("n").acquire()
    with Client(url, ttl=LONG) as other, program(WAITER, url) as process:
        assert heard(process) == "asks"
        waits(witness, "n")
        process.send_signal(signal.SIGSTOP)
        struck = native.now()
        behind: Attempt[Any] = Attempt(other.lock("n", wait=60).acquire)
        waits(witness, "n", 2)
        place = witness.inspect("n").waiters[0].token
        until(lambda: native.now() > struck + TTL, "its session is over")
        first.release()
        second = behind.outcome()
        assert second.token > place
        process.send_signal(signal.SIGCONT)
        waits(witness, "n")
        assert second.held
        second.release()
        _, token, held = heard(process).split()
        assert (int(token) > second.token, held) == (True, "True"), "it asked again, under a new session"


def test_a_waiting_client_that_is_stopped_for_a_moment_keeps_its_place(url: str, witness: Client) -> None:
    first = witness.lock("n").acquire()
    with program(WAITER, url) as process:
        assert heard(process) == "asks"
        waits(witness, "n")
        (waiter,) = witness.inspect("n").waiters
        process.send_signal(signal.SIGSTOP)
        first.release()  # which grants it the name, and tells it by mail
        assert [holder.token for holder in witness.inspect("n").holders] == [waiter.token]
        process.send_signal(signal.SIGCONT)
        in_time(heard(process) == f"held {waiter.token} True", "to go on before its session was over")
