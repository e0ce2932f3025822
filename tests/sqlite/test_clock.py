import os
import subprocess
import sys
import time

import pytest

from tenure import errors
from tenure.engines.sqlite.clock import boot_us, clock_id, same_boot, same_namespace

SRC = os.path.dirname(os.path.dirname(errors.__file__))
CODE = "from tenure.engines.sqlite.clock import boot_us, clock_id; print(clock_id(), boot_us())"


def test_two_processes_read_one_clock() -> None:
    before = boot_us()
    answer = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, "PYTHONPATH": SRC},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    other_id, other_us = answer.stdout.split()
    assert before < int(other_us) < boot_us()
    assert other_id == clock_id()
    assert same_boot(other_id, clock_id())
    assert same_namespace(other_id, clock_id())


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="no boot-time clock here")
def test_the_clock_is_the_boot_time_clock_in_microseconds() -> None:
    early = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    read = boot_us()
    assert early <= read <= time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def test_another_boot_and_another_namespace_are_told_apart() -> None:
    assert same_boot("b1/1", "b1/2")
    assert not same_namespace("b1/1", "b1/2")
    assert not same_boot("b1/1", "b2/1")
    assert same_namespace("b1/1", "b2/1")


def test_a_guessed_boot_is_another_only_far_away() -> None:
    assert same_boot("~1795000000/0", "~1795003600/0")
    assert not same_boot("~1795000000/0", "~1795003601/0")
    assert not same_boot("~1795000000/0", "b1/0")
    assert not same_boot("~1795000000/0", "~?/0")
