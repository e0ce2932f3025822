"""The guard of object stores where the store does not answer, answers late, or is in doubt."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError

from tenure.errors import Conflict, OutcomeUnknown
from tenure.fencing.rule import Fence
from tests.fencing.buckets import BIG, Place, place, server, shared_client
from tests.servers import s3
from tests.servers.processes import until
from tests.servers.proxy import Proxy

__all__ = ["place", "server", "shared_client"]

BUSY = {"status": 503, "code": "SlowDown"}
AT_WORK = {"status": 409, "code": "ConditionalRequestConflict"}
AT_WORK_IN_CEPH = {"status": 409, "code": "ConcurrentModification"}
DONE = {"status": 500, "code": "InternalError", "after": True}


@pytest.mark.parametrize("fault", [BUSY, AT_WORK, AT_WORK_IN_CEPH, DONE], ids=lambda fault: fault["code"])
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
