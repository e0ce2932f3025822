"""Wrong arguments are refused before anything is touched, and what is secret stays so.

No server runs for this file, so a test that connected to one would fail.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import pytest

from tenure import UnsafeSetup, UsageError
from tests.contract.conftest import UNCONNECTED
from tests.contract.faces import FACES
from tests.contract.registry import REGISTRY

if TYPE_CHECKING:
    from tests.contract.faces import Face


@pytest.fixture(params=UNCONNECTED, ids=["-".join(pair) for pair in UNCONNECTED])
def face(request: pytest.FixtureRequest) -> Face:
    """Not the one of the other files: no server is started."""
    name, runtime = request.param
    return FACES[runtime](REGISTRY[name], lambda: REGISTRY[name].example)


BAD_NAMES = {
    "empty": "",
    "513 bytes": "x" * 513,
    "514 bytes of UTF-8": "é" * 257,
    "a newline": "a\nb",
    "NUL": "a\0b",
    "delete": "a\x7fb",
    "a C1 control": "a\x85b",
    "a lone surrogate": "a\ud800b",
    "bytes": b"name",
    "a number": 7,
    "nothing": None,
}
BAD_SECONDS: dict[str, Any] = {
    "negative": -1,
    "not a number": math.nan,
    "infinite": math.inf,
    "a string": "30",
    "a bool": True,
    "too long": 1e12,
}


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
async def test_a_bad_name(face: Face, name: Any) -> None:
    client = face.client()
    for make in (client.lock, lambda name: client.semaphore(name, 3)):
        with pytest.raises(UsageError, match="name"):
            make(name)
    for ask in (client.inspect, lambda name: client.steal(name, 1)):
        with pytest.raises(UsageError, match="name"):
            await face(ask, name)
    assert not client._core.is_open


@pytest.mark.parametrize("value", BAD_SECONDS.values(), ids=BAD_SECONDS)
async def test_bad_seconds(face: Face, value: Any) -> None:
    client = face.client()
    for argument in ("wait", "max_hold", "lock_delay"):
        with pytest.raises(UsageError, match=argument):
            client.lock("name", **{argument: value})
        with pytest.raises(UsageError, match=argument):
            client.semaphore("name", 3, **{argument: value})
    for argument in ("ttl", "max_hold", "skew"):
        with pytest.raises(UsageError, match=argument):
            face.make(face.url, **{argument: value})
    with pytest.raises(UsageError, match="wait"):
        await face(client.lock("name").acquire, wait=value)
    assert not client._core.is_open


@pytest.mark.parametrize("ttl", [0, 0.05, 86_401])
async def test_a_ttl_out_of_bounds(face: Face, ttl: float) -> None:
    with pytest.raises(UsageError, match="ttl"):
        face.make(face.url, ttl=ttl)


async def test_a_max_hold_of_nothing(face: Face) -> None:
    with pytest.raises(UsageError, match="max_hold"):
        face.client().lock("name", max_hold=0)


@pytest.mark.parametrize(
    ("limit", "permits", "named"),
    [
        (0, 1, "limit"),
        (-1, 1, "limit"),
        (1.5, 1, "limit"),
        (True, 1, "limit"),
        ("3", 1, "limit"),
        (1_000_001, 1, "limit"),
        (3, 0, "permits"),
        (3, 4, "permits"),
        (3, True, "permits"),
        (3, None, "permits"),
    ],
)
async def test_bad_permits(face: Face, limit: Any, permits: Any, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        face.client().semaphore("name", limit, permits=permits)


async def test_other_bad_arguments(face: Face) -> None:
    client = face.client()
    with pytest.raises(UsageError, match="shared"):
        client.lock("name", shared=1)
    for info in ("i" * 1025, "a\nb", b"i", "\udfff"):
        with pytest.raises(UsageError, match="info"):
            client.lock("name", info=info)
    for prefix in ("x" * 513, "a\0", 5):
        with pytest.raises(UsageError, match="prefix"):
            await face(client.names, prefix)
    for token in (0, -1, "1", 1.0, True, None):
        with pytest.raises(UsageError, match="token"):
            await face(client.steal, "name", token)
    for named in ({"namespace": ""}, {"namespace": "a b"}, {"namespace": "x" * 65}, {"namespace": 5}):
        if named["namespace"] != "":
            with pytest.raises(UsageError, match="namespace"):
                face.make(face.url, **named)
    with pytest.raises(UsageError, match="client"):
        face.make(face.url, client="a\nb")
    assert not client._core.is_open


@pytest.mark.parametrize(
    "url", ["", "nothing", "memory:", "unknown://host", "Memory//x", 5, b"memory://", "://", "memory://a b"]
)
async def test_a_bad_url(face: Face, url: Any) -> None:
    with pytest.raises(UsageError, match="url"):
        face.make(url)


async def test_without_a_url_it_fails_and_says_what_to_do(face: Face) -> None:
    with pytest.raises(UsageError, match=re.escape("TENURE_URL")) as caught:
        face.make()
    assert "sqlite://" in str(caught.value)


async def test_unknown_url_options_are_refused(face: Face) -> None:
    for option in ("colour=red", "ttl=30&colour=red", "ttl", "TTL=3"):
        with pytest.raises(UsageError):
            face.make(face.url_with(option))
    for option in ("ttl=3&ttl=4", "ttl=nan", "ttl=x", "ttl=-1", "require=magic", "namespace=a:b"):
        with pytest.raises(UsageError, match=option.partition("=")[0]):
            face.make(face.url_with(option))


async def test_a_secret_in_a_url_is_never_shown(face: Face) -> None:
    scheme = face.scheme
    seen: list[str] = []
    for url in (
        f"{scheme}://user:hunter2@host/path",
        f"{scheme}s://user:hunter2@host",
        f"{scheme}://user:hunter2@host/path?colour=red",
        f"{scheme}://user:hunter2@host:99999/path",
        f"{scheme}://user:hun%ter2@[::1/path",
        f"{scheme}:user:hunter2@host",
        "user:hunter2@host",
    ):
        try:
            client = face.make(url)
        except UsageError as error:
            seen += [str(error), repr(error)]
        else:
            seen += [repr(client), client.scope]
    assert [text for text in seen if "hunter2" in text or "hun%ter2" in text] == []


async def test_what_is_required_and_not_offered_is_refused_at_once(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = sorted(face.registered.capabilities)
    face.make(face.url, require=offered)
    monkeypatch.setenv("TENURE_REQUIRE", ",".join(offered))
    face.make(face.url)
    monkeypatch.delenv("TENURE_REQUIRE")
    lacking = sorted({"multi_host", "durable_tokens"} - face.registered.capabilities - face.registered.conditional)
    for missing in lacking:
        for named in ({"require": [missing]}, {"require": missing}, {"require": {missing, *offered}}):
            with pytest.raises(UnsafeSetup, match=missing):
                face.make(face.url, **named)
        with pytest.raises(UnsafeSetup, match=missing):
            face.make(face.url_with(f"require={missing}"))
        monkeypatch.setenv("TENURE_REQUIRE", missing)
        with pytest.raises(UnsafeSetup, match=missing):
            face.make(face.url)
        monkeypatch.delenv("TENURE_REQUIRE")
    with pytest.raises(UsageError, match="magic"):
        face.make(face.url, require=["magic"])
