"""Errors and values that travel: they pickle, keep their cause, and say whether asking again is safe."""

from __future__ import annotations

import copy
import pickle

import pytest

import tenure
from tenure import errors
from tenure.model import EXCLUSIVE, Contender, Grant, LossReason, Queue, UtcTime

CONTENDER = Contender(7, EXCLUSIVE, True, "billing", "host", 4711, "nightly", UtcTime(1.7e9))
EXAMPLES: list[errors.TenureError] = [
    errors.TenureError("a"),
    errors.NotHeld("a"),
    errors.AcquireTimeout("a", name="n", waited=1.5, queue=Queue("n", (CONTENDER,), ())),
    errors.StoreUnavailable("a"),
    errors.OutcomeUnknown("a"),
    errors.Overtaken("a"),
    errors.LeaseLost("a", name="n", token=7, reason=LossReason.STOLEN),
    errors.SetupError("a"),
    errors.UsageError("a"),
    errors.WouldDeadlock("a"),
    errors.UnsafeSetup("a"),
    errors.IncompatibleStore("a", in_force=2, spoken=(1,)),
    errors._Refusal("a", resource="r", token=7, fence=9),
    errors.StaleToken("a", resource="r", token=7, fence=9),
    errors.StaleOperation("a", resource="r", token=7, fence=7, seq=2, applied=3),
    errors.NotRaised("a", resource="r", token=7, fence=5),
    errors.FenceRegression("a", resource="r", token=7, fence=9),
    errors.ForeignToken("a", resource="r", token=7, fence=9, authority="redis/a", fenced_by="etcd/a"),
    errors.MissingTable("a"),
    errors.MissingRow("a"),
    errors.Conflict("a", resource="r"),
    errors.MissingToken("a"),
    errors.MalformedToken("a"),
    errors.WrongResource("a"),
]


def classes() -> set[type]:
    return {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.TenureError)}


def test_every_error_has_an_example() -> None:
    assert {type(error) for error in EXAMPLES} == classes()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_pickles_with_all_that_it_tells(error: errors.TenureError, protocol: int) -> None:
    try:
        try:
            raise OSError(5, "the disk")
        except OSError as cause:
            raise error from cause
    except errors.TenureError as raised:
        raised.add_note("a note")
        again = pickle.loads(pickle.dumps(raised, protocol))  # noqa: S301 - our own
    assert type(again) is type(error)
    assert again.args == error.args
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert again.__notes__[-1] == "a note"
    assert isinstance(again.__cause__, OSError)
    assert again.__cause__.args == (5, "the disk")
    assert str(copy.copy(error)) == str(error)


def test_retry_is_safe_only_where_nothing_is_held_and_nothing_was_done() -> None:
    assert {c.__name__ for c in classes() if c.retry} == {"NotHeld", "AcquireTimeout", "StoreUnavailable"}  # type: ignore[attr-defined]


def test_the_branches() -> None:
    assert issubclass(errors.AcquireTimeout, (TimeoutError,))
    assert issubclass(errors.AcquireTimeout, errors.NotHeld)
    assert issubclass(errors.UsageError, ValueError)
    assert issubclass(errors.WouldDeadlock, errors.UsageError)
    for overtaken in (c for c in classes() if issubclass(c, errors.Overtaken)):
        assert not issubclass(overtaken, TimeoutError | OSError), "nobody's retry loop may catch it"
    assert not issubclass(errors.OutcomeUnknown, errors.NotHeld | errors.Overtaken | errors.SetupError)


def test_a_grant_pickles_and_a_lease_refuses() -> None:
    with tenure.Client("memory://errors") as client, client.lock("name") as lease:
        grant = lease.grant
        assert grant == Grant("name", lease.token, lease.floor, grant.authority)
        assert pickle.loads(pickle.dumps(grant)) == grant  # noqa: S301 - our own
        for refused in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="grant"):
                refused(lease)
        with pytest.raises(AttributeError):
            grant.token = 1  # type: ignore[misc]  # that is the point
