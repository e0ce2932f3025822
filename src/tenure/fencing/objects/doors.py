"""The guard of object stores by its name; boto3's errors are imported when it is first made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tenure.arguments import text
from tenure.errors import MissingRow, UsageError
from tenure.fencing.rule import prove

if TYPE_CHECKING:
    from tenure.fencing.doors import Shown
    from tenure.fencing.objects.guard import ObjectGuard

KEY_BYTES: Final = 300
"""The longest key: errors can name it whole, and those of payloads are longer."""

BUCKET_BYTES: Final = 200
"""The longest name of a bucket, or of an access point."""

LOOKS: Final = 5


def s3(client: Any, lease: Shown, *, bucket: str, key: str, seq: int | None = None) -> ObjectGuard:
    """Guard one object of a store with the S3 API.

    On entering, the fence is raised, by a conditional PUT, if this is the holder's first block; what the block then
    reads is what earlier holders left. At its end, unless an error ended it, what was said by `write` or `delete` is
    done by one more PUT, on the condition that nobody has raised or written since.

    The object at `key` carries the fence and is tenure's alone: never write or delete it by other means, as a deleted
    one has forgotten every holder. Payloads of more than 64 KiB have keys of their own, which begin with `key` and a
    dot, as the probe has.

    Args:
        client: boto3's, `boto3.client("s3")`, with whatever retries.
        lease: who asks.
        bucket: it exists already.
        key: of 1 to 300 bytes.
        seq: the number of this operation, from 1, rising: a delayed duplicate of it is refused. Exclusive leases only.

    Raises, on entering:
        LeaseLost: the lease is lost already; nothing was asked.
        StaleToken: a later holder has been here; nothing was done, and the lease is lost.
        StaleOperation: `seq` was done before.
        ForeignToken, FenceRegression: the tokens cannot be compared, or went backwards. See the operator's page.
        UnsafeSetup: the store ignores conditions. It is asked once in each process.
        IncompatibleStore: there is an object of somebody else's at `key`; it is left as it is.
        Conflict: others, earlier holders even, wrote so often that the fence could not be raised; nothing was done.
        OutcomeUnknown: the store does not answer; the fence is raised or not, and it is safe to enter again.
        UsageError: an argument is wrong.
        botocore's errors: the store refused, or is out of reach; nothing was done.

    Raises, at the end of the block:
        LeaseLost, StaleToken, ForeignToken, FenceRegression: as above; nothing was written.
        Conflict: another worker of the same holder has written since the block began; nothing was written.
        OutcomeUnknown: no answer came, and the store does not tell. It is written, or will be, or never is; a later
            holder's raise settles that.
        MissingRow: the object was deleted by other means; nothing was written.
        botocore's errors: the store refused; nothing was written.

    Cancellation: a block that Ctrl-C ends writes nothing; one that it ends while it writes is as with OutcomeUnknown.
    """
    from tenure.fencing.objects.bucket import Bucket
    from tenure.fencing.objects.guard import ObjectGuard

    place = Bucket(client, *_place(client, bucket, key))
    proof, holder = prove(lease, None, seq, label=place.name)
    return ObjectGuard(place, proof, holder)


def read_s3(client: Any, *, bucket: str, key: str) -> bytes | None:
    """What a fenced object holds, for those who only look: no token is compared, and no fence raised.

    Never write what came of it under a lease: read in a guarded block for that.

    Raises:
        IncompatibleStore: there is an object of somebody else's at `key`.
        MissingRow: a large payload was deleted by other means, or written again each time that it was looked for.
        UsageError: an argument is wrong.
        botocore's errors.
    """
    from tenure.fencing.objects.bucket import Bucket
    from tenure.fencing.objects.state import NONE

    place = Bucket(client, *_place(client, bucket, key))
    for _ in range(LOOKS):
        found = place.get()
        if found is None or found.state.payload == NONE:
            return None
        if not found.state.is_apart:
            return found.state.body
        data = place.load(found.state.payload)
        if data is not None:
            return data
    raise MissingRow(f"the payload of {place.name} is gone")


def _place(client: Any, bucket: str, key: str) -> tuple[str, str]:
    if not hasattr(client, "put_object") or not hasattr(client, "get_object"):
        raise UsageError(f'client: what boto3.client("s3") makes is needed, not {type(client).__name__}')
    return text("bucket", bucket, BUCKET_BYTES, 1), text("key", key, KEY_BYTES, 1)
