"""The object store with the face that tests have for every store: a counter in an object."""

from __future__ import annotations

from functools import cache
from typing import Any
from urllib.parse import urlsplit

from tenure import fencing
from tenure.fencing.objects.bucket import Bucket
from tests.fencing.plain import TRANSACTIONLESS, Apart
from tests.fencing.session import Driver
from tests.servers.s3 import client

KEY = "counter"


class ObjectSession(Apart):
    """A client of a bucket. Those who make their own fence keep it, and what they count, in objects of their own.

    Nobody but the guard may write its object, so the counter is the sum of the two.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        where = urlsplit(url)
        self.bucket = where.path.strip("/")
        self.resource = f"s3://{self.bucket}/{KEY}"
        self.connection = _client(f"{where.scheme}://{where.netloc}")
        self._guarded = self._bare = 0

    async def value(self) -> int:
        # Who is in a block writes there what it has read there, and needs no more: each request takes its time.
        if self.inside:
            self._guarded, self._bare = int(self.inside.read() or 0), 0
        else:
            found = fencing.read_s3(self.connection, bucket=self.bucket, key=KEY)
            self._guarded, self._bare = int(found or 0), self.get("bare")
        return self._guarded + self._bare

    async def write(self, value: int) -> None:
        # The other part is what it was when the counter was read: each path writes to one of them.
        if self.inside:
            self.inside.write(str(value - self._bare).encode())
        else:
            self.put("bare", value - self._guarded)

    async def fence(self) -> int | None:
        found = Bucket(self.connection, self.bucket, KEY).get()
        return None if found is None else found.state.fence.token

    async def prepare(self) -> None:
        self.connection.create_bucket(Bucket=self.bucket)
        for name in ("bare", "beside", "lapse"):
            self.put(name, 0)

    async def open(self, lease: Any, **named: Any) -> None:
        with self.make(lease, **named):
            pass

    async def close(self) -> None:
        """Its client stays for the next one."""

    def make(self, lease: Any, **named: Any) -> Any:
        named.pop("resource", None)  # the object is the resource
        return fencing.s3(self.connection, lease, bucket=self.bucket, key=KEY, **named)

    def get(self, name: str) -> int:
        with self.connection.get_object(Bucket=self.bucket, Key=name)["Body"] as body:
            return int(body.read())

    def put(self, name: str, number: int) -> None:
        self.connection.put_object(Bucket=self.bucket, Key=name, Body=str(number).encode())


_client = cache(client)

DRIVERS = {"s3": Driver("s3", "s3", ObjectSession, "s3", TRANSACTIONLESS, is_stepped=False)}
