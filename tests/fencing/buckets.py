"""A bucket for each test of the guard of object stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tenure import fencing
from tenure.fencing.objects import guard as guard_module
from tenure.fencing.objects.state import INLINE_BYTES, decode
from tenure.model import Grant
from tests.servers import s3

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tenure.fencing.objects.guard import ObjectGuard
    from tenure.fencing.rule import Fence

__all__ = ["BIG", "KEY", "Place", "grant", "place", "server", "shared_client"]

BIG = b"x" * (INLINE_BYTES + 1)
KEY = "state/orders.json"


def grant(token: int, floor: int | None = None, authority: str = "") -> Grant:
    return Grant("orders", token, token if floor is None else floor, authority)


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
