"""The fence of one object of a bucket, for operators. What it protects is the object: the resource is not asked for."""

from __future__ import annotations

import re
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as EndpointError

from tenure.errors import OutcomeUnknown, SetupError, StoreUnavailable, UsageError
from tenure.fencing.objects.bucket import Bucket, Found, Refused, Unanswered
from tenure.fencing.objects.doors import BUCKET_BYTES, KEY_BYTES, s3
from tenure.fencing.objects.state import Fate, fate, moved

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tenure.fencing.rule import Fence

PATIENCE_S: Final = 10

_LOGIN: Final = re.compile(r"//[^/\s]*@")

_USAGE: Final = (
    "the place of the fence: s3://bucket/key is needed, with ?endpoint_url=http://host:port where the store is not "
    "Amazon's; the login is boto3's own (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...), and no part of it"
)


class ObjectDesk:
    """As `Desk`."""

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        self._client = client
        self._where = (bucket, key)
        self._bucket = Bucket(client, bucket, key)

    def look(self, resource: str) -> Fence | None:  # noqa: ARG002 - the object is the resource
        """As `Desk.look`.

        Raises:
            IncompatibleStore: there is an object of somebody else's; it is left as it is.
        """
        with _reaching():
            found = self._bucket.get()
        return _fence(found)

    def enter(self, resource: str, lease: Any) -> None:  # noqa: ARG002 - the object is the resource
        """As `Desk.enter`."""
        bucket, key = self._where
        with _reaching(), s3(self._client, lease, bucket=bucket, key=key):
            pass

    def move(self, resource: str, found: Fence | None, to: Fence) -> bool:  # noqa: ARG002 - the object is the resource
        """As `Desk.move`. The payload stays.

        Raises:
            UnsafeSetup: the store ignores conditions, so a later change could be undone. Nothing was done.
            OutcomeUnknown: no answer, and the store does not tell.
        """
        with _reaching():
            self._bucket.probe()
            before = self._bucket.get()
            if _fence(before) != found:
                return False
            return self._swap(before, to)

    def _swap(self, before: Found | None, to: Fence) -> bool:
        was = before.state if before else None
        after = moved(was, to, secrets.token_hex(12))
        doubt: Unanswered | None = None
        try:
            self._bucket.put(after, before)
        except Refused:
            # boto3 repeats by itself: what was refused may be the second of two, of which the first was done.
            pass
        except Unanswered as error:
            doubt = error
        else:
            return True
        now = self._bucket.get()
        what = fate(was, after, now.state if now else None)
        if doubt is not None and what in (Fate.PENDING, Fate.UNKNOWN):
            raise OutcomeUnknown(f"no answer to a write of {self._bucket.name}: look again") from doubt
        return what is Fate.LANDED

    def close(self) -> None:
        """As `Desk.close`."""
        self._client.close()


def _fence(found: Found | None) -> Fence | None:
    return None if found is None else found.state.fence


def reach(url: str) -> ObjectDesk:
    """Make a client; nothing is asked yet.

    Raises:
        UsageError: the URL is wrong; it is not repeated, for it may hold a password.
        SetupError: boto3 refuses its own settings.
    """
    place, _, query = url.partition("?")
    bucket, _, key = (unquote(part) for part in place.partition("://")[2].partition("/"))
    options = dict(parse_qsl(query, keep_blank_values=True))
    endpoint = options.pop("endpoint_url", None)
    is_place = 1 <= len(bucket) <= BUCKET_BYTES and 1 <= len(key.encode()) <= KEY_BYTES
    if options or not is_place or "@" in bucket or "#" in bucket:
        raise UsageError(_USAGE)
    if endpoint is not None and (not endpoint.startswith(("http://", "https://")) or "@" in endpoint):
        raise UsageError(_USAGE)
    config = Config(connect_timeout=PATIENCE_S, read_timeout=PATIENCE_S)
    with _reaching():
        try:
            return ObjectDesk(boto3.client("s3", endpoint_url=endpoint, config=config), bucket, key)
        except ValueError as error:
            raise UsageError(_USAGE) from error


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        said = error.response
        status = said["ResponseMetadata"]["HTTPStatusCode"]
        what = f"{error.operation_name}: {said['Error']['Code']}"
        if status >= 500:
            raise StoreUnavailable(f"the bucket's store cannot serve: {what}") from error
        raise SetupError(f"the bucket's store refuses {what}") from error
    except (HTTPClientError, EndpointError) as error:
        raise StoreUnavailable(f"the bucket's store cannot be reached: {_line(error)}") from error
    except BotoCoreError as error:
        raise SetupError(f"boto3: {_line(error)}") from error


def _line(error: Exception) -> str:
    # The environment may name an endpoint with a login, and botocore names the endpoint.
    return _LOGIN.sub("//***@", " ".join(str(error).split()))
