"""Distributed locks that stay safe when the lock itself fails.

A lock over a network is a lease: it can be lost while its holder still works. Every grant therefore carries a fencing
token, larger than that of every earlier grant of the name, with which the resource can refuse whoever comes too late.

Promises: exclusion as long as clocks, pauses and networks behave; a token that rises in any case; a holder that is
told when it lost. Does not promise that two holders never overlap: no lock over a network can.
"""

from __future__ import annotations

from tenure._version import __version__

# Not imported from typing, which costs more than everything else here; type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from tenure import fencing
    from tenure.async_client import AsyncClient, AsyncLock, AsyncLocks
    from tenure.client import Client, Lock, Locks
    from tenure.errors import (
        AcquireTimeout,
        Conflict,
        FenceRegression,
        ForeignToken,
        IncompatibleStore,
        LeaseLost,
        MalformedToken,
        MissingRow,
        MissingTable,
        MissingToken,
        NotHeld,
        NotRaised,
        OutcomeUnknown,
        Overtaken,
        SetupError,
        StaleOperation,
        StaleToken,
        StoreUnavailable,
        TenureError,
        UnsafeSetup,
        UsageError,
        WouldDeadlock,
        WrongResource,
    )
    from tenure.findings import Finding, Grade, Report
    from tenure.lease_aio import AsyncLease, AsyncLeases
    from tenure.lease_blocking import Lease, Leases
    from tenure.model import Contender, Grant, LeaseState, LossReason, Queue

# Loaded on first use: `import tenure` alone costs no engine, no asyncio and no threads.
_HOME = {
    "AsyncClient": "async_client",
    "AsyncLease": "lease_aio",
    "AsyncLeases": "lease_aio",
    "AsyncLock": "async_client",
    "AsyncLocks": "async_client",
    "Client": "client",
    "Lease": "lease_blocking",
    "Leases": "lease_blocking",
    "Lock": "client",
    "Locks": "client",
    "AcquireTimeout": "errors",
    "Conflict": "errors",
    "FenceRegression": "errors",
    "ForeignToken": "errors",
    "IncompatibleStore": "errors",
    "LeaseLost": "errors",
    "MalformedToken": "errors",
    "MissingRow": "errors",
    "MissingTable": "errors",
    "MissingToken": "errors",
    "NotHeld": "errors",
    "NotRaised": "errors",
    "OutcomeUnknown": "errors",
    "Overtaken": "errors",
    "SetupError": "errors",
    "StaleOperation": "errors",
    "StaleToken": "errors",
    "StoreUnavailable": "errors",
    "TenureError": "errors",
    "UnsafeSetup": "errors",
    "UsageError": "errors",
    "WouldDeadlock": "errors",
    "WrongResource": "errors",
    "Finding": "findings",
    "Grade": "findings",
    "Report": "findings",
    "Contender": "model",
    "Grant": "model",
    "LeaseState": "model",
    "LossReason": "model",
    "Queue": "model",
}


def __getattr__(name: str) -> object:
    if name == "fencing":
        # A part of its own, with its own names.
        from importlib import import_module

        return import_module("tenure.fencing")
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'tenure' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"tenure.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "AcquireTimeout",
    "AsyncClient",
    "AsyncLease",
    "AsyncLeases",
    "AsyncLock",
    "AsyncLocks",
    "Client",
    "Conflict",
    "Contender",
    "FenceRegression",
    "Finding",
    "ForeignToken",
    "Grade",
    "Grant",
    "IncompatibleStore",
    "Lease",
    "LeaseLost",
    "LeaseState",
    "Leases",
    "Lock",
    "Locks",
    "LossReason",
    "MalformedToken",
    "MissingRow",
    "MissingTable",
    "MissingToken",
    "NotHeld",
    "NotRaised",
    "OutcomeUnknown",
    "Overtaken",
    "Queue",
    "Report",
    "SetupError",
    "StaleOperation",
    "StaleToken",
    "StoreUnavailable",
    "TenureError",
    "UnsafeSetup",
    "UsageError",
    "WouldDeadlock",
    "WrongResource",
    "__version__",
    "fencing",
]
