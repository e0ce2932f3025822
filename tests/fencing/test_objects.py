"""The guard of object stores: what every guard does, and what a store with conditions adds."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from botocore.exceptions import ClientError

import tenure
from tenure import fencing
from tenure.errors import (
    Conflict,
    FenceRegression,
    ForeignToken,
    IncompatibleStore,
    LeaseLost,
    MissingRow,
    StaleOperation,
    StaleToken,
    UnsafeSetup,
    UsageError,
)
from tenure.fencing.objects import bucket as bucket_module
from tenure.fencing.rule import Proof
from tenure.model import LossReason
from tests.fencing.buckets import BIG, KEY, Place, grant, place, server, shared_client

__all__ = ["place", "server", "shared_client"]


class Unasked:
    """A client that nothing may be asked of."""

    def put_object(self, **_: Any) -> None:
        pytest.fail("a request was made")

    get_object = put_object


# -- what every guard does -------------------------------------------------------------------------------------------


def test_the_holder_works_and_whoever_came_before_does_not(place: Place) -> None:
    place.write(grant(7), b"a")
    place.write(grant(7), b"b")
    place.write(grant(9), b"c")
    with pytest.raises(StaleToken) as refused:
        place.write(grant(7), b"d")
    assert (refused.value.token, refused.value.fence) == (7, 9)
    assert refused.value.resource == f"s3://{place.bucket}/{KEY}"
    assert place.read() == b"c"


def overtaken(place: Place) -> None:
    """A holder reads, is overtaken, and writes what came of it."""
    with place.guard(grant(7)) as old:
        value = int(old.read() or 0)
        with place.guard(grant(9)) as new:
            new.write(str(int(new.read() or 0) + 10).encode())
        old.write(str(value + 1).encode())


def test_whoever_enters_shuts_its_predecessors_out_before_it_reads(place: Place) -> None:
    with pytest.raises(StaleToken):
        overtaken(place)
    assert place.read() == b"10"


def test_without_the_condition_the_same_write_lands(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = bucket_module.Bucket._put
    place.write(grant(5), b"0")
    monkeypatch.setattr(bucket_module.Bucket, "_put", lambda self, key, body, **_: plain(self, key, body))
    overtaken(place)
    assert place.read() == b"1"


def test_without_the_nonce_a_condition_takes_one_write_for_another(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal contents have equal ETags: a worker writes what was there before, and another one's condition holds."""

    def changed_back() -> None:
        with place.guard(7, seq=1) as slow:
            place.write(7, b"b", seq=None)
            place.write(7, b"a", seq=None)
            slow.write(b"c")

    place.write(7, b"a")
    with pytest.raises(Conflict):
        changed_back()
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
    monkeypatch.setattr("tenure.fencing.objects.state._past", lambda before: ())
    place.write(7, b"a")
    changed_back()
    assert place.read() == b"c"


def test_co_holders_do_not_refuse_each_other(place: Place) -> None:
    place.write(grant(12, 10), b"a")
    place.write(grant(10), b"b")
    place.write(grant(11, 10), b"c")
    assert place.fence().token == 10
    with pytest.raises(StaleToken):
        place.write(grant(9), b"d")
    place.write(grant(13), b"e")
    for token in (10, 12):
        with pytest.raises(StaleToken):
            place.write(grant(token, 10), b"f")


def test_an_error_in_the_block_writes_nothing(place: Place) -> None:
    with pytest.raises(ZeroDivisionError), place.guard(7) as stored:
        stored.write(b"a")
        _ = 1 / 0
    assert place.read() is None
    assert place.fence().token == 7


def test_a_block_that_only_reads_writes_nothing_once_the_fence_is_raised(place: Place) -> None:
    place.write(7, b"a")
    before = place.raw()
    with place.guard(7) as stored:
        assert stored.read() == b"a"
    assert place.raw() == before


def test_a_block_reads_what_it_wrote(place: Place) -> None:
    with place.guard(7) as stored:
        stored.write(b"a")
        assert stored.read() == b"a"
        stored.delete()
        assert stored.read() is None
        stored.write(b"")
    assert place.read() == b""


def test_a_delete_keeps_the_fence(place: Place) -> None:
    place.write(9, b"a")
    with place.guard(9) as stored:
        stored.delete()
    assert place.read() is None
    assert place.listed() == [KEY]
    with pytest.raises(StaleToken):
        place.write(7, b"b")


def test_a_numbered_operation_is_done_once(place: Place) -> None:
    place.write(7, b"a", seq=1)
    place.write(7, b"b", seq=3)
    for seq in (3, 2):
        with pytest.raises(StaleOperation) as refused:
            place.write(7, b"c", seq=seq)
        assert refused.value.applied == 3
    place.write(7, b"d")
    place.write(9, b"e", seq=1)
    assert place.read() == b"e"


def test_tokens_of_two_authorities_are_not_compared(place: Place) -> None:
    place.write(grant(7, authority="redis:1/app"), b"a")
    place.write(grant(8, authority="redis:2/app"), b"b")
    with pytest.raises(ForeignToken):
        place.write(grant(9, authority="etcd:1/app"), b"c")
    with pytest.raises(StaleToken):
        place.write(7, b"d")


def test_the_largest_token_is_compared_exactly(place: Place) -> None:
    place.write(2**63 - 1, b"a")
    with pytest.raises(StaleToken):
        place.write(2**63 - 2, b"b")
    assert place.fence().token == 2**63 - 1


@pytest.mark.parametrize("token", [0, -1, True, 1.0, "7", None, 2**63], ids=repr)
def test_what_is_no_token_is_refused_before_anything_is_sent(token: Any) -> None:
    class Client:
        put_object = get_object = None

    with pytest.raises(UsageError):
        fencing.s3(Client(), token, bucket="b", key="k")


@pytest.mark.parametrize(
    "wrong",
    [{"bucket": ""}, {"bucket": 7}, {"key": ""}, {"key": "x" * 301}, {"key": "a\nb"}, {"client": None}],
    ids=repr,
)
def test_a_wrong_argument_is_refused_before_anything_is_sent(place: Place, wrong: dict[str, Any]) -> None:
    named = {"client": place.client, "bucket": place.bucket, "key": KEY, **wrong}
    with pytest.raises(UsageError, match=next(iter(wrong))):
        fencing.s3(named.pop("client"), 7, **named)
    with place.guard(7) as stored, pytest.raises(UsageError, match="data"):
        stored.write("text")  # type: ignore[arg-type]


def test_a_guard_is_entered_once_at_a_time(place: Place) -> None:
    guard = place.guard(7)
    with guard, pytest.raises(UsageError, match="entered"), guard:
        pass
    with guard as stored:
        stored.write(b"again")
    assert place.read() == b"again"


def test_the_proof_of_a_request_is_accepted(place: Place) -> None:
    place.write(Proof("orders/42", 9, 9).of("orders/42"), b"a")
    with pytest.raises(StaleToken):
        place.write(Proof("orders/42", 8, 8), b"b")


# -- what the lease learns -------------------------------------------------------------------------------------------


def test_a_refused_token_is_a_lost_lease(place: Place) -> None:
    with tenure.Client("memory://") as client, tenure.Client("memory://") as other:
        lease = client.lock("orders").acquire()
        place.write(lease, b"a")
        other.steal("orders", lease.token)
        with other.lock("orders") as successor:
            place.write(successor, b"b")
        with pytest.raises(StaleToken):
            place.write(lease, b"c")
        assert lease.lost is LossReason.REFUSED


def test_a_lost_lease_asks_for_nothing_and_writes_nothing(place: Place) -> None:
    with tenure.Client("memory://") as client:
        lease = client.lock("orders").acquire()
        with pytest.raises(LeaseLost), place.guard(lease) as stored:
            stored.write(b"a")
            lease.release()
        assert place.read() is None
        with pytest.raises(LeaseLost):
            place.write(lease, b"b", Unasked())


def test_a_rightful_holder_below_the_fence_raises_an_alarm(place: Place) -> None:
    with tenure.Client("memory://") as client, client.lock("orders") as lease:
        place.write(lease.token + 10, b"a")
        with pytest.raises(FenceRegression):
            place.write(lease, b"b")
        assert lease.held


# -- workers of one holder -------------------------------------------------------------------------------------------


def test_of_two_workers_the_slower_is_told_and_nothing_is_lost(place: Place) -> None:
    place.write(7, b"0")
    with pytest.raises(Conflict), place.guard(7) as slow:
        slow.write(b"slow")
        place.write(7, b"1")
    assert place.read() == b"1"
    place.write(7, b"2")


def test_many_workers_of_one_holder_lose_nothing(place: Place) -> None:
    def work() -> None:
        for _ in range(5):
            while True:
                try:
                    with place.guard(7) as stored:
                        stored.write(str(int(stored.read() or 0) + 1).encode())
                    break
                except Conflict:
                    pass

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert place.read() == b"20"


# -- large payloads --------------------------------------------------------------------------------------------------


def test_a_large_payload_has_its_own_object_and_a_raise_leaves_it(place: Place) -> None:
    place.write(7, BIG)
    [_, payload] = place.listed()
    assert payload.startswith(f"{KEY}.")
    assert len(place.raw()) < 1024
    with place.guard(9) as stored:
        assert stored.read() == BIG
    assert place.listed() == [KEY, payload]
    assert place.read() == BIG
    place.write(9, BIG + b"!")
    assert len(place.listed()) == 2, "the payload before is discarded"
    assert payload not in place.listed()
    place.write(9, b"small")
    assert place.listed() == [KEY]


def test_a_refused_write_leaves_no_payload_behind(place: Place) -> None:
    place.write(7, b"a")
    with pytest.raises(StaleToken), place.guard(7) as old:
        old.write(BIG)
        place.write(9, b"b")
    assert place.listed() == [KEY]


def test_whoever_was_overtaken_is_told_when_its_payload_has_gone(place: Place) -> None:
    place.write(7, BIG)
    with pytest.raises(StaleToken), place.guard(7) as old:
        place.write(9, b"b")
        old.read()
    place.write(9, BIG)
    with pytest.raises(Conflict), place.guard(9) as slow:
        place.write(9, b"c")
        slow.read()
    place.write(9, BIG)
    place.client.delete_object(Bucket=place.bucket, Key=place.listed()[1])
    with pytest.raises(MissingRow), place.guard(9) as stored:
        stored.read()
    with pytest.raises(MissingRow):
        place.read()


# -- stores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["If-Match", "If-None-Match"])
def test_a_store_that_ignores_conditions_is_refused(place: Place, field: str) -> None:
    place.server.ignore(field)
    for _ in range(2):
        with pytest.raises(UnsafeSetup, match=field):
            place.write(7, b"a")
    assert place.listed() == []


def test_a_store_is_asked_once(place: Place) -> None:
    place.write(7, b"a")
    place.server.ignore("If-Match")
    place.write(7, b"b")


def test_a_store_that_never_accepts_a_condition_is_refused(place: Place) -> None:
    place.server.fail({"status": 412, "code": "PreconditionFailed"})
    with pytest.raises(UnsafeSetup, match="refuses"):
        place.write(7, b"a")


def test_what_is_not_ours_is_left_as_it_is(place: Place) -> None:
    for body in (b"", b"{}", b"data", b'{"tenure": 2}\n', BIG * 2):
        place.client.put_object(Bucket=place.bucket, Key=KEY, Body=body)
        with pytest.raises(IncompatibleStore):
            place.write(7, b"a")
        with pytest.raises(IncompatibleStore):
            place.read()
        assert place.raw() == body


def test_a_deleted_object_is_reported_at_the_write(place: Place) -> None:
    with pytest.raises(MissingRow, match="deleted"), place.guard(7) as stored:
        stored.write(BIG)
        place.client.delete_object(Bucket=place.bucket, Key=KEY)
    assert place.listed() == []


def test_versions_change_nothing(place: Place) -> None:
    place.client.put_bucket_versioning(Bucket=place.bucket, VersioningConfiguration={"Status": "Enabled"})
    place.write(7, b"a")
    place.write(9, BIG)
    with pytest.raises(StaleToken):
        place.write(7, b"b")
    assert place.read() == BIG


def test_what_the_store_refuses_is_the_drivers_own_error(place: Place) -> None:
    place.write(7, b"a")
    denied = {"status": 403, "code": "AccessDenied"}
    for big in (b"b", BIG):
        place.server.fail(denied)
        with pytest.raises(ClientError, match="AccessDenied"):
            place.write(7, big)
    place.server.fail(denied)
    with pytest.raises(ClientError, match="AccessDenied"):
        place.write(9, b"c")
    assert place.fence().token == 7
    with pytest.raises(ClientError, match="NoSuchBucket"):
        fencing.read_s3(place.client, bucket="nowhere", key=KEY)
