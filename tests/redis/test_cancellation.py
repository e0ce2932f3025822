"""A task that is cancelled at any await, once or twice, leaves nothing in the queue of a real server."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tests.cancellation.awaits import (  # noqa: F401
    test_cancelled_at_any_await,
    test_cancelled_at_any_await_of_the_first_use,
    test_cancelled_at_any_await_while_others_hold_it,
    test_positive_control_without_abandon_something_is_left,
)

# What users do, as on the other engines. The counts of turns there are too few to reach a reply from another process;
# here every await is found instead.
from tests.cancellation.test_asyncio import (  # noqa: F401
    test_a_generator_that_is_never_finished,
    test_a_scope_of_anyio_that_is_cancelled_while_a_lease_is_held,
    test_by_a_scope_of_anyio,
    test_by_a_sibling_that_fails,
    test_by_a_timeout,
    test_by_the_teardown_of_the_loop,
    test_by_wait_for,
    test_cancelled_while_it_waits_and_while_the_grant_comes,
    test_cancelling_one_of_many_waiters_disturbs_no_other,
    test_closed_while_it_opens,
)
from tests.servers import redis
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(redis.missing() is not None, reason=redis.missing() or "")

_serial = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(extra=["databases 10000"]) as server:
        yield server


@pytest.fixture
def url(server: RedisServer) -> str:
    """A fresh store."""
    return f"{server.url}/{next(_serial)}"
