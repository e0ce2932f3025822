"""A task that is cancelled at any await, once or twice, leaves nothing in the queue of a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cancellation.awaits import (  # noqa: F401
    test_cancelled_at_any_await,
    test_cancelled_at_any_await_of_the_first_use,
    test_cancelled_at_any_await_while_others_hold_it,
    test_positive_control_without_abandon_something_is_left,
)

# What users do, as on the other engines, and every await.
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
from tests.servers import pgbouncer, postgres
from tests.servers.pgbouncer import PgBouncer

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing()))


@pytest.fixture(params=["listening", "polling"])
def url(request: pytest.FixtureRequest, server: PostgresServer, schema: str) -> str:
    """A fresh store, directly or through a pooler."""
    if request.param == "listening":
        return f"{server.url}?schema={schema}&create=yes"
    if reason := pgbouncer.missing():
        pytest.skip(reason)
    pooler = request.getfixturevalue("pooler")
    return f"{pooler.url}?schema={schema}&create=yes&poll=0.01"


@pytest.fixture(scope="module")
def pooler(server: PostgresServer) -> object:
    with PgBouncer(server) as pooler:
        yield pooler
