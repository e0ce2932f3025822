"""The guard of object stores: what every guard does, and what a store with conditions and lost answers adds."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

import tenure
from tenure import fencing
from tenure.errors import (
    Conflict,
    FenceRegression,
    ForeignToken,
    IncompatibleStore,
    LeaseLost,
    MissingRow,
    OutcomeUnknown,
    StaleOperation,
    StaleToken,
    UnsafeSetup,
    UsageError,
)
from tenure.fencing.objects import bucket as bucket_module
from tenure.fencing.objects import guard as guard_module
from tenure.fencing.objects.state import INLINE_BYTES, decode
from tenure.fencing.rule import Fence, Proof
from tenure.model import Grant, LossReason
from tests.servers import s3
from tests.servers.processes import until
from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tenure.fencing.objects.guard import ObjectGuard

BIG = b"x" * (INLINE_BYTES + 1)
KEY = "state/orders.json"


def grant(token: int, floor: int | None = None, authority: str = "") -> Grant:
    return Grant("orders", token, token if floor is None else floor, authority)


class Unasked:
    """A client that nothing may be asked of."""

    def put_object(self, **_: Any) -> None:
        pytest.fail("a request was made")

    get_object = put_object


class Place:
    """One new bucket, and one object in it."""

    made = 0

    def __init__(self, server: s3.S3Server, client: Any) -> None:
        Place.made += 1
        self.server = server
        self.client = client
        self.bucket = f"bucket-{Place.made}"
        client.create_bucket(Bucket=self.bucket)

    def guard(self, lease: Any, client: Any = None, **named: Any) -> ObjectGuard:
        return fencing.s3(client or self.client, lease, bucket=self.bucket, key=KEY, **named)

    def write(self, lease: Any, data: bytes, client: Any = None, **named: Any) -> None:
        with self.guard(lease, client, **named) as stored:
            stored.write(data)

    def read(self) -> bytes | None:
        return fencing.read_s3(self.client, bucket=self.bucket, key=KEY)

    def raw(self, key: str = KEY) -> bytes:
        body: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return body

    def fence(self) -> Fence:
        return decode(self.raw(), "it").fence

    def listed(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return sorted(each["Key"] for each in found)


@pytest.fixture(scope="module")
def server() -> Iterator[s3.S3Server]:
    if reason := s3.missing():
        pytest.skip(reason)
    with s3.S3Server() as made:
        yield made


@pytest.fixture(scope="module")
def shared_client(server: s3.S3Server) -> Iterator[Any]:
    made = s3.client(server.url)
    yield made
    made.close()


@pytest.fixture
def place(server: s3.S3Server, shared_client: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """An empty bucket of a store without faults; nobody pauses."""
    monkeypatch.setattr(guard_module, "_pause", lambda attempt: None)
    yield Place(server, shared_client)
    server.fail()
    server.ignore()


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


# -- no answer, or a doubtful one ------------------------------------------------------------------------------------

BUSY = {"status": 503, "code": "SlowDown"}
AT_WORK = {"status": 409, "code": "ConditionalRequestConflict"}
DONE = {"status": 500, "code": "InternalError", "after": True}


@pytest.mark.parametrize("fault", [BUSY, AT_WORK, DONE], ids=lambda fault: fault["code"])
def test_a_put_without_a_clear_answer_is_done_once(place: Place, fault: dict[str, Any]) -> None:
    place.write(7, b"a")
    place.server.fail(fault, fault)
    place.write(9, b"b")  # the raise, and again; the write
    place.server.fail(fault, fault)
    place.write(9, b"c", seq=1)
    assert place.read() == b"c"
    assert place.fence() == Fence(9, 0, 1, "")


def test_what_boto_puts_twice_is_done_once(place: Place) -> None:
    """Its first PUT lands without an answer; its second one meets the first, and is answered 412."""
    client = s3.client(place.server.url, retries={"total_max_attempts": 2, "mode": "standard"})
    place.write(7, b"a", client)
    for write in (b"b", b"c"):
        place.server.fail(DONE)
        place.write(7, write, client)
        assert place.read() == write
    place.server.fail(DONE)
    place.write(9, b"d", client)
    assert place.read() == b"d"
    client.close()


def test_a_refusal_after_a_put_without_an_answer_is_no_refusal(place: Place) -> None:
    denied = {"status": 403, "code": "AccessDenied"}
    place.write(7, b"a")
    place.server.fail(BUSY, denied)
    with pytest.raises(OutcomeUnknown):
        place.write(7, b"b")
    client = s3.client(place.server.url, retries={"total_max_attempts": 2, "mode": "standard"})
    place.server.fail(DONE, denied)
    place.write(7, b"c", client)
    assert place.read() == b"c"
    client.close()


def test_a_write_that_landed_before_others_wrote_is_done(place: Place) -> None:
    """No answer, and when the writer looks, its successors have been there; the state remembers its nonce."""
    place.write(7, b"a")
    with place.guard(7) as stored:
        stored.write(b"b")
        put = place.client.put_object

        def unheard(**request: Any) -> Any:
            place.client.put_object = put
            put(**request)
            place.write(9, b"c")
            raise BotoCoreError

        place.client.put_object = unheard
    assert place.read() == b"c"


def test_ctrl_c_in_the_block_writes_nothing_and_in_the_write_leaves_it_whole(place: Place) -> None:
    with pytest.raises(KeyboardInterrupt), place.guard(7) as stored:
        stored.write(b"a")
        raise KeyboardInterrupt
    assert place.read() is None
    put = place.client.put_object

    def interrupted(**request: Any) -> Any:
        place.client.put_object = put
        put(**request)
        raise KeyboardInterrupt

    guard = place.guard(7)
    with pytest.raises(KeyboardInterrupt), guard as stored:
        stored.write(BIG)
        place.client.put_object = interrupted
    assert place.read() is None, "the payload is there, and nothing names it"
    with pytest.raises(KeyboardInterrupt), guard as stored:
        stored.write(b"b")
        place.client.put_object = interrupted
    with guard as stored:
        assert stored.read() == b"b"


def test_a_write_of_which_nobody_knows_says_so(place: Place) -> None:
    place.write(7, b"a")
    put = place.client.put_object

    def unheard(**request: Any) -> Any:
        place.client.put_object = put
        for n in range(20):
            place.write(9, str(n).encode())
        raise BotoCoreError

    with pytest.raises(OutcomeUnknown), place.guard(7) as stored:
        stored.write(b"b")
        place.client.put_object = unheard
    assert place.read() == b"19"


def test_a_store_that_stays_busy_is_given_up_with_what_is_known(place: Place) -> None:
    place.write(7, b"a")
    place.server.fail(*[BUSY] * 10)
    with pytest.raises(OutcomeUnknown):
        place.write(7, b"b")
    place.server.fail(*[AT_WORK] * 10)
    with pytest.raises(Conflict):
        place.write(7, b"b")
    assert place.read() == b"a"


def test_a_raise_is_repeated_until_it_is_not_overtaken(place: Place) -> None:
    """The old holder writes between each look and raise of the new one; a raise does not give way."""
    place.write(7, b"0")
    put, count = place.client.put_object, 0

    def busy(**request: Any) -> Any:
        nonlocal count
        count += 1
        place.client.put_object = put
        if count < 30:
            place.write(7, str(count).encode())
            place.client.put_object = busy
        return put(**request)

    place.client.put_object = busy
    with place.guard(9) as stored:
        assert stored.read() == b"29"
    assert place.fence().token == 9


def test_a_lost_reply_on_a_real_network_is_made_up_for(place: Place) -> None:
    with Proxy(("127.0.0.1", place.server.port)) as proxy:
        client = s3.client(f"http://127.0.0.1:{proxy.port}")
        place.write(7, b"a", client)
        with place.guard(7, client) as stored:
            stored.write(b"b")
            proxy.hold("replies")
            cutter = threading.Thread(target=_cut, args=(proxy,))
            cutter.start()
        cutter.join()
        assert place.read() == b"b"
        client.close()


def _cut(proxy: Proxy) -> None:
    until(lambda: proxy.held("replies"), "the store has answered")
    proxy.cut()
    proxy.let_go()


def test_a_put_that_comes_late_changes_nothing(place: Place) -> None:
    """Held in the network until its writer has given up and been overtaken; without a condition, it lands."""
    place.write(7, b"a")
    with Proxy(("127.0.0.1", place.server.port)) as proxy:
        client = s3.client(f"http://127.0.0.1:{proxy.port}", read_timeout=1)
        with pytest.raises(OutcomeUnknown), place.guard(7, client) as stored:
            stored.write(b"late")
            proxy.hold("requests")
            with pytest.raises(BotoCoreError):
                client.put_object(Bucket=place.bucket, Key="naive", Body=b"late")
        place.write(9, b"b")
        place.client.put_object(Bucket=place.bucket, Key="naive", Body=b"b")
        client.close()
        proxy.let_go()
        until(lambda: not proxy.connections, "all that was late has come")
    assert place.read() == b"b"
    assert place.raw("naive") == b"late"
