"""A fenced service over HTTP, in each framework, with each sender: who comes late is refused, and nothing is lost."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import requests

import tenure
from tenure import fencing
from tenure.errors import LeaseLost, MalformedToken, MissingToken, StaleToken, WrongResource
from tenure.model import LossReason
from tests.fencing.web_apps import APPS, RESOURCE, Counter
from tests.servers.processes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Send = Callable[..., int]

PLACES = {name: (serve, "/counter") for name, serve in APPS.items()}
"""How to serve the counter, and where it is then."""

PLACES["django-later"] = (APPS["django-asgi"], "/later")


@pytest.fixture(params=PLACES)
def app(request: pytest.FixtureRequest) -> tuple[Any, str]:
    """Each framework in turn."""
    return PLACES[request.param]


def with_httpx(lease: Any, method: str, url: str, **headers: str) -> int:
    sender = fencing.httpx(lease, resource=RESOURCE)
    answer = httpx.request(method, url, auth=sender, headers=headers, timeout=PATIENCE)
    return int(answer.raise_for_status().text)


def with_requests(lease: Any, method: str, url: str, **headers: str) -> int:
    sender = fencing.requests(lease, resource=RESOURCE)
    answer = requests.request(method, url, auth=sender, headers=headers, timeout=PATIENCE)
    answer.raise_for_status()
    return int(answer.text)


def with_async_httpx(lease: Any, method: str, url: str, **headers: str) -> int:
    async def send() -> int:
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            sender = fencing.httpx(lease, resource=RESOURCE)
            answer = await client.request(method, url, auth=sender, headers=headers)
            return int(answer.raise_for_status().text)

    return asyncio.run(send())


def by_hand(lease: Any, method: str, url: str, **headers: str) -> int:
    shown = fencing.header(lease, resource=RESOURCE)
    answer = httpx.request(method, url, headers={**headers, **shown}, timeout=PATIENCE)
    try:
        fencing.raise_for_refusal(answer)
    except StaleToken:
        lease.refused()
        raise
    return int(answer.raise_for_status().text)


SENDERS: dict[str, Send] = {
    "httpx": with_httpx,
    "requests": with_requests,
    "httpx-async": with_async_httpx,
    "by hand": by_hand,
}


class Pair:
    """A holder, and one who takes over from it."""

    def __init__(self, one: tenure.Client, two: tenure.Client) -> None:
        self._two = two
        self.first = one.lock("counters").acquire()

    def take_over(self) -> tenure.Lease:
        self._two.steal("counters", self.first.token)
        self.second = self._two.lock("counters").acquire()
        return self.second


@pytest.fixture
def pair() -> Iterator[Pair]:
    # A third of the ttl is when the first one's keeper would hear of it by itself.
    with tenure.Client("memory://", ttl=600) as one, tenure.Client("memory://", ttl=600) as two:
        made = Pair(one, two)
        yield made
        for lease in (made.first, getattr(made, "second", made.first)):
            with suppress(LeaseLost):
                lease.release()


def overtaken(counter: Counter, url: str, pair: Pair, send: Send) -> list[Any]:
    """A holder's write stands in its handler while another one takes over, reads and writes; what came of it."""
    outcome: list[Any] = []

    def late() -> None:
        try:
            outcome.append(send(pair.first, "PUT", f"{url}/{value + 1}", **{"X-Stop": "1"}))
        except tenure.TenureError as error:
            outcome.append(error)

    value = send(pair.first, "GET", url)
    thread = threading.Thread(target=late)
    thread.start()
    assert counter.has_come.wait(PATIENCE)
    successor = pair.take_over()
    found = send(successor, "GET", url)
    assert send(successor, "PUT", f"{url}/{found + 10}") == 10
    counter.may_go.set()
    thread.join(PATIENCE)
    return outcome


# A server does not know by what was sent.
@pytest.mark.parametrize(
    ("place", "sender"),
    [*((place, "httpx") for place in PLACES), *(("asgi", sender) for sender in SENDERS if sender != "httpx")],
)
def test_a_handler_that_was_overtaken_is_refused_and_nothing_is_lost(
    tmp_path: Path, pair: Pair, place: str, sender: str
) -> None:
    serve, path = PLACES[place]
    counter = Counter(tmp_path, guarded=True)
    with serve(counter) as url:
        [refused] = overtaken(counter, url + path, pair, SENDERS[sender])
    assert isinstance(refused, StaleToken)
    assert (refused.token, refused.resource, refused.fence) == (pair.first.token, RESOURCE, 0)
    assert pair.first.lost is LossReason.REFUSED
    assert counter.value() == 10


def test_a_token_that_is_compared_at_the_door_alone_loses_an_update(
    tmp_path: Path, pair: Pair, app: tuple[Any, str]
) -> None:
    serve, path = app
    counter = Counter(tmp_path, guarded=False)
    with serve(counter) as url:
        assert overtaken(counter, url + path, pair, with_httpx) == [1]
    assert counter.value() == 1, "ten were acknowledged, and are gone"


@pytest.mark.parametrize("sender", SENDERS)
def test_whoever_sends_late_is_refused_and_then_sends_no_more(tmp_path: Path, pair: Pair, sender: str) -> None:
    send = SENDERS[sender]
    counter = Counter(tmp_path, guarded=True)
    with APPS["asgi"](counter) as url:
        assert send(pair.first, "PUT", f"{url}/5") == 5
        assert send(pair.take_over(), "GET", url) == 5
        assert pair.first.held
        with pytest.raises(StaleToken):
            send(pair.first, "PUT", f"{url}/6")
        assert pair.first.lost is LossReason.REFUSED
        entered = counter.entered
        with pytest.raises(LeaseLost):
            send(pair.first, "PUT", f"{url}/6")
        assert counter.entered == entered
    assert counter.value() == 5


def test_a_sender_that_is_cancelled_leaves_its_lease_and_its_next_request_as_they_were(tmp_path: Path) -> None:
    counter = Counter(tmp_path, guarded=True)

    async def body(url: str) -> None:
        async with (
            tenure.AsyncClient("memory://") as client,
            httpx.AsyncClient(timeout=PATIENCE) as web,
            client.lock("counters") as lease,
        ):
            sender = fencing.httpx(lease, resource=RESOURCE)
            sending = asyncio.create_task(web.put(f"{url}/1", auth=sender, headers={"X-Stop": "1"}))
            assert await asyncio.to_thread(counter.has_come.wait, PATIENCE)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            counter.may_go.set()
            assert lease.held
            # Whether the first one was done, nobody knows; the second one comes after it or before it.
            (await web.put(f"{url}/2", auth=sender)).raise_for_status()

    with APPS["asgi"](counter) as url:
        asyncio.run(body(url))
    assert counter.entered == 2


BAD = [
    ("1795372291532495", "an integer"),
    ('"7", "8"', "a list"),
    ('"7";resource="counter";resource="counter"', "twice"),
    ('"7";resource="counter";sequence="1"', "unknown"),
    ('"7";resource=counter', "a token of RFC 9651"),
    ('"7"', "no resource"),
    ('"0";resource="counter"', "zero"),
    ('"9223372036854775808";resource="counter"', "too large"),
    ('"7";floor="8";resource="counter"', "a floor above"),
    ('"7";resource="' + "c" * 7000 + '"', "overlong"),
    ("", "empty"),
]


def test_what_is_missing_or_malformed_never_reaches_the_handler(tmp_path: Path, app: tuple[Any, str]) -> None:
    serve, path = app
    counter = Counter(tmp_path, guarded=True)
    with serve(counter) as url, httpx.Client(timeout=PATIENCE) as client:

        def put(*fields: str) -> httpx.Response:
            return client.put(f"{url}{path}/5", headers=[("Fencing-Token", field) for field in fields])

        missing = put()
        assert missing.status_code == 428
        assert missing.headers["content-type"] == "application/problem+json"
        assert missing.headers["cache-control"] == "no-store"
        assert missing.json()["type"] == "urn:problem-type:tenure:missing-token"
        with pytest.raises(MissingToken):
            fencing.raise_for_refusal(missing)
        for field, why in BAD:
            answer = put(field)
            assert answer.status_code == 400, why
            with pytest.raises(MalformedToken):
                fencing.raise_for_refusal(answer)
        good = '"7";resource="counter"'
        assert put(good, good).status_code == 400
        assert counter.entered == 0
        assert put(good).status_code == 200
        assert put('"6";resource="counter"').json() == {
            "type": "urn:problem-type:tenure:stale-token",
            "title": "A later holder has been here",
            "status": 412,
            "resource": "counter",
            "token": "6",
        }
        assert put('"8";resource="another"').status_code == 400
        assert put('"7";resource="counter";authority="etcd/a"').status_code == 200
    assert counter.entered == 4


def test_the_other_refusals_come_out_as_what_they_are(tmp_path: Path, app: tuple[Any, str]) -> None:
    serve, path = app
    counter = Counter(tmp_path, guarded=True)
    with serve(counter) as url, httpx.Client(timeout=PATIENCE) as client:

        def put(authority: str, token: int, seq: int | None = None, resource: str = RESOURCE) -> None:
            grant = tenure.Grant(resource, token, token, f"{authority}:id/app")
            client.put(f"{url}{path}/5", auth=fencing.httpx(grant, seq=seq)).raise_for_status()

        put("redis", 7, 2)
        with pytest.raises(tenure.StaleOperation) as refused:
            put("redis", 7, 1)
        assert (refused.value.seq, refused.value.applied) == (1, 2)
        with pytest.raises(tenure.ForeignToken):
            put("etcd", 9)
        with pytest.raises(WrongResource):
            put("redis", 9, resource="another")
        put("redis", 9)
