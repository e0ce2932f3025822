"""What tenure brings to pytest: the fixtures `fence_drill` and `virtual_clock`.

Promises: pytest loads this in each run of each user who has tenure installed, so it imports nothing of tenure's but
this: engines, asyncio and threads come with the first test that uses a fixture. Does not promise anything of runs
without pytest: call `tenure.testing.drill`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenure.testing.clock import VirtualClock
    from tenure.testing.drilling import Drilled


@pytest.fixture
def fence_drill() -> Callable[..., Drilled]:
    """`tenure.testing.drill`: overtakes a write path of yours at each of its moments; see there."""
    from tenure.testing.drilling import drill

    return drill


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """A `tenure.testing.VirtualClock`: clients whose time passes when the test says so."""
    from tenure.testing.clock import VirtualClock

    return VirtualClock()
