"""The few requests that the guard makes of a bucket, by boto3, and what their answers mean.

Promises: an answer is one of: done; refused, with no effect; none, and then nobody knows. What boto3 repeated by itself
before it was refused is the last of these: the first of two may have been done, and the second one met it. Whoever puts
looks at the nonce. Does not promise anything of a client whose answers hide that it repeats.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import Any, Final, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from tenure.errors import IncompatibleStore, UnsafeSetup
from tenure.fencing.objects.state import INLINE_BYTES, LINE_BYTES, State, decode, encode

_REFUSED: Final = frozenset({409, 412})
"""Statuses of an answer to a condition: another write is at work on the key (each kind of store has a code of its own
for that, such as S3's ConditionalRequestConflict and Ceph's ConcurrentModification), or the condition does not hold."""

_honouring: set[tuple[str, str]] = set()
"""Endpoints and buckets of which this process has seen that they honour conditions."""


class Refused(Exception):
    """The store says that the condition does not hold."""


class Unanswered(Exception):
    """No answer came, or one that does not tell what was done."""


class Found(NamedTuple):
    """A state as it was read, and the ETag that makes a condition of it."""

    state: State
    etag: str


class Bucket:
    """One key of one bucket, and the keys that begin with it and a dot."""

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        self._client = client
        self._bucket = bucket
        self._key = key
        self.name = f"s3://{bucket}/{key}"

    def get(self) -> Found | None:
        """The state, or None if there is no object.

        Raises:
            IncompatibleStore: the object is none of ours.
            botocore's errors.
        """
        answer = self._get(self._key)
        if answer is None:
            return None
        with answer["Body"] as body:
            # A big object of somebody else's is not read to find out that it is none of ours.
            if answer["ContentLength"] > LINE_BYTES + INLINE_BYTES + 1:
                raise IncompatibleStore(f"{self.name} is no state object of tenure, and is left as it is")
            return Found(decode(body.read(), self.name), answer["ETag"])

    def put(self, state: State, before: Found | None) -> Found:
        """Write a state in place of the one before, or where there is none.

        Raises:
            Refused: another one is there.
            Unanswered: nobody knows.
            botocore's errors: refused for another reason.
        """
        condition = {"IfNoneMatch": "*"} if before is None else {"IfMatch": before.etag}
        return Found(state, self._put(self._key, encode(state), **condition))

    def load(self, nonce: str) -> bytes | None:
        """A payload that has an object of its own; None if it is gone."""
        answer = self._get(f"{self._key}.{nonce}")
        if answer is None:
            return None
        with answer["Body"] as body:
            found: bytes = body.read()
            return found

    def save(self, nonce: str, data: bytes) -> None:
        """Give a payload an object of its own, under a key that nothing else uses. No state names it yet.

        Raises:
            botocore's errors.
        """
        try:
            self._put(f"{self._key}.{nonce}", data)
        except Unanswered as error:
            raise error.__cause__ or error from None

    def discard(self, nonce: str) -> None:
        """Delete a payload that no state names; if that fails, it stays for an operator."""
        with suppress(BotoCoreError, ClientError):
            self._client.delete_object(Bucket=self._bucket, Key=f"{self._key}.{nonce}")

    def probe(self) -> None:
        """Find out, once a process for each bucket of each endpoint, whether conditions are honoured.

        Raises:
            UnsafeSetup: they are not. Nothing but the probe was written.
            botocore's errors: the store cannot be asked, or allows no writes.
        """
        which = (self._client.meta.endpoint_url, self._bucket)
        if which in _honouring:
            return
        for is_last in (False, False, True):
            nonce = secrets.token_hex(12)
            try:
                self._probe(f"{self._key}.{nonce}")
                break
            except Refused as error:
                raise UnsafeSetup(f"{self.name}: the store refuses a condition that holds") from error
            except Unanswered as error:
                if is_last:
                    raise error.__cause__ or error from None
            finally:
                self.discard(nonce)
        _honouring.add(which)

    def _probe(self, key: str) -> None:
        first = self._put(key, b"1", IfNoneMatch="*")
        self._refuses("If-None-Match: *", key, IfNoneMatch="*")
        second = self._put(key, b"2", IfMatch=first)
        self._refuses("If-Match", key, IfMatch=first)
        found = self._get(key)
        if found is not None:
            found["Body"].close()
        if found is None or found["ETag"] != second:
            raise UnsafeSetup(f"{self.name}: the store does not give back the ETag of what was just written")

    def _refuses(self, what: str, key: str, **condition: str) -> None:
        try:
            self._put(key, b"3", **condition)
        except Refused:
            return
        raise UnsafeSetup(f"{self.name}: the store ignores {what}, so it cannot keep a late write out")

    def _get(self, key: str) -> Any:
        try:
            return self._client.get_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if _code(error) == "NoSuchKey":
                return None
            raise

    def _put(self, key: str, body: bytes, **condition: str) -> str:
        try:
            answer = self._client.put_object(Bucket=self._bucket, Key=key, Body=body, **condition)
        except ParamValidationError as error:
            if any(name in str(error) for name in condition):
                raise UnsafeSetup("this boto3 knows no conditions; install a newer one") from error
            raise
        except ClientError as error:
            said = error.response["ResponseMetadata"]
            # What boto3 has put before, without an answer, may have been done, or may come yet.
            if said["HTTPStatusCode"] >= 500 or said.get("RetryAttempts"):
                raise Unanswered from error
            # Or the object that was to be replaced is gone.
            if condition and (said["HTTPStatusCode"] in _REFUSED or _code(error) == "NoSuchKey"):
                raise Refused from error
            raise
        except BotoCoreError as error:
            raise Unanswered from error
        etag: str = answer["ETag"]
        return etag


def _code(error: ClientError) -> str:
    code: str = error.response["Error"]["Code"]
    return code
