"""Ownership as a comparison for your own transaction in etcd.

Promises: a transaction of etcd with this comparison takes effect only while the claim stands: ownership and write are
decided in one entry of the log, so that a stale holder writes nothing, however late it comes.
Does not promise anything for data outside of that cluster: there, let the resource compare the token.

Source: `IsOwner` of etcd's `client/v3/concurrency`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tenure.errors import UsageError

if TYPE_CHECKING:
    from tenure.lease import BaseLease


class IsOwner(NamedTuple):
    """Compare the create revision of `key` with `create_revision`, for equality.

    Attributes:
        key: the claim's key.
        create_revision: as it is as long as the claim stands; the token, but for the store's base.
    """

    key: bytes
    create_revision: int


def is_owner(lease: BaseLease) -> IsOwner:
    """The comparison that holds as long as a lease's claim stands in etcd.

    Asks nobody: the lease may be lost already, and then the transaction is refused.

    Raises:
        UsageError: the lease is of another engine.
    """
    from tenure.engines.etcd.engine import EtcdEngine

    core, claim = lease._core, lease._own  # noqa: SLF001 - ours
    if not isinstance(core.engine, EtcdEngine):
        raise UsageError(f"lease: it is held by {core.engine.kind}, and only etcd can compare it")
    key, revision = core.engine.claim_key(claim.ref)
    return IsOwner(key, revision)
