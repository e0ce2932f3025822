"""The object store with the face that tests have for every store: a counter in an object."""

from __future__ import annotations

from functools import cache
from typing import Any
from urllib.parse import urlsplit

from tenure import fencing
from tenure.fencing.objects.bucket import Bucket
from tests.fencing.plain import Plain
from tests.fencing.session import Driver
from tests.servers.s3 import client

KEY = "counter"


class ObjectSession(Plain):
    """A client of a bucket. Those who make their own fence keep it, and their counter, in objects of their own."""

    def __init__(self, url: str) -> None:
        super().__init__()
        where = urlsplit(url)
        self.bucket = where.path.strip("/")
        self.resource = f"s3://{self.bucket}/{KEY}"
        self.connection = _client(f"{where.scheme}://{where.netloc}")

    async def value(self) -> int:
        if self.inside:
            return int(self.inside.read() or 0)
        # One of them stays 0.
        return int(fencing.read_s3(self.connection, bucket=self.bucket, key=KEY) or 0) + self._get("naive")

    async def write(self, value: int) -> None:
        if self.inside:
            self.inside.write(str(value).encode())
        else:
            self._put("naive", value)

    async def fence(self) -> int | None:
        found = Bucket(self.connection, self.bucket, KEY).get()
        return None if found is None else found.state.fence.token

    async def prepare(self) -> None:
        self.connection.create_bucket(Bucket=self.bucket)
        self._put("naive", 0)
        self._put("beside", 0)

    async def beside(self) -> int:
        return self._get("beside")

    async def raise_beside(self, token: int) -> None:
        self._put("beside", token)

    async def write_beside(self, value: int, token: int, *, strict: bool = False) -> bool:
        # One step only because the drill stops nobody within.
        found = await self.beside()
        if found > token or (strict and found != token):
            return False
        await self.raise_beside(token)
        await self.write(value)
        return True

    async def open(self, lease: Any, **named: Any) -> None:
        with self.make(lease, **named):
            pass

    async def close(self) -> None:
        """Its client stays for the next one: boto3 takes a third of a second to make one."""

    def make(self, lease: Any, **named: Any) -> Any:
        named.pop("resource", None)  # the object is the resource
        return fencing.s3(self.connection, lease, bucket=self.bucket, key=KEY, **named)

    def _get(self, key: str) -> int:
        with self.connection.get_object(Bucket=self.bucket, Key=key)["Body"] as body:
            return int(body.read())

    def _put(self, key: str, number: int) -> None:
        self.connection.put_object(Bucket=self.bucket, Key=key, Body=str(number).encode())


_client = cache(client)

OBJECTS = {"s3": Driver("s3", "s3", ObjectSession)}
