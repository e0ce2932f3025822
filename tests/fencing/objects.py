"""The object store among the stores of the drill: a counter in an object, and ways to add one to it.

Each path is as those of `paths`. What looks right and is not keeps its token and its counter in an object of its own.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from tenure import fencing
from tenure.errors import StaleToken
from tests.fencing.stores import Driver
from tests.servers.s3 import client

if TYPE_CHECKING:
    from tests.fencing.paths import Pause

KEY = "counter"
NAIVE_KEY = "naive"


class ObjectSession:
    """One client of a bucket."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self.bucket = where.path.strip("/")
        self.client = _client(f"{where.scheme}://{where.netloc}")

    def guard(self, lease: Any, **named: Any) -> Any:
        return fencing.s3(self.client, lease, bucket=self.bucket, key=KEY, **named)

    def get(self) -> tuple[int, int, str]:
        """The token, the value and the ETag of those that are not ours."""
        answer = self.client.get_object(Bucket=self.bucket, Key=NAIVE_KEY)
        with answer["Body"] as body:
            said = json.loads(body.read())
        return said["token"], said["v"], answer["ETag"]

    def put(self, token: int, value: int, **condition: str) -> None:
        body = json.dumps({"token": token, "v": value}).encode()
        try:
            self.client.put_object(Bucket=self.bucket, Key=NAIVE_KEY, Body=body, **condition)
        except ClientError as error:
            raise StaleToken("another one was faster") from error

    async def value(self) -> int:
        return int(fencing.read_s3(self.client, bucket=self.bucket, key=KEY) or 0) + self.get()[1]

    async def prepare(self) -> None:
        self.client.create_bucket(Bucket=self.bucket)
        self.put(0, 0)

    async def close(self) -> None:
        """Its client stays for the next one: boto3 takes a third of a second to make one."""


_client = cache(client)


async def guarded(session: ObjectSession, lease: Any, pause: Pause) -> None:
    """One guarded block."""
    await pause("granted")
    with session.guard(lease) as stored:
        value = int(stored.read() or 0)
        await pause("read")
        stored.write(str(value + 1).encode())
        await pause("written")


async def guarded_twice(session: ObjectSession, lease: Any, pause: Pause) -> None:
    """One guarded block reads, another one writes what came of it."""
    await pause("granted")
    with session.guard(lease) as stored:
        value = int(stored.read() or 0)
    await pause("read")
    with session.guard(lease) as stored:
        stored.write(str(value + 1).encode())
        await pause("written")


async def unfenced(session: ObjectSession, lease: Any, pause: Pause) -> None:
    """The lock alone."""
    await pause("granted")
    _, value, _ = session.get()
    await pause("read")
    session.put(lease.token, value + 1)
    await pause("written")


async def read_before_raise(session: ObjectSession, lease: Any, pause: Pause) -> None:
    """Our own guard, with the read before it."""
    await pause("granted")
    value = int(fencing.read_s3(session.client, bucket=session.bucket, key=KEY) or 0)
    await pause("read")
    with session.guard(lease) as stored:
        stored.write(str(value + 1).encode())
        await pause("written")


async def unconditional(session: ObjectSession, lease: Any, pause: Pause) -> None:
    """Raise, read, compare and put, each right by itself, without a condition."""
    await pause("granted")
    token, value, _ = session.get()
    if token > lease.token:
        raise StaleToken("stale")
    session.put(lease.token, value)
    await pause("read")
    token, value, _ = session.get()
    if token > lease.token:
        raise StaleToken("stale")
    await pause("written")
    session.put(lease.token, value + 1)


async def write_without_raise(session: ObjectSession, lease: Any, pause: Pause) -> None:
    """Token and condition at the write, and nothing at the read."""
    await pause("granted")
    _, value, _ = session.get()
    await pause("read")
    token, _, etag = session.get()
    if token > lease.token:
        raise StaleToken("stale")
    session.put(lease.token, value + 1, IfMatch=etag)
    await pause("written")


async def strict(session: ObjectSession, lease: Any, pause: Pause) -> None:
    """As it should be, but a token counts once only."""
    await pause("granted")
    token, value, etag = session.get()
    if token >= lease.token:
        raise StaleToken("stale")
    session.put(lease.token, value, IfMatch=etag)
    token, value, etag = session.get()
    await pause("read")
    session.put(lease.token, value + 1, IfMatch=etag)
    await pause("written")


OBJECT_DRIVERS = {"boto3": Driver("boto3", "s3", ObjectSession)}

OBJECT_PATHS: dict[str, Any] = {"object guarded": guarded, "object guarded twice": guarded_twice}
"""Must lose nothing and deny nobody."""

OBJECT_NAIVE: dict[str, Any] = {
    "object unfenced": unfenced,
    "object read before raise": read_before_raise,
    "object no condition": unconditional,
    "object no raise": write_without_raise,
    "object strict": strict,
}
"""Must be found out."""
