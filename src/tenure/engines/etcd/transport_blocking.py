"""Requests of calling threads: a connection each while it lasts, taken from a small stock.

Promises: an exchange that was interrupted, also by Ctrl-C, leaves no connection behind on which a late answer could be
taken for another request's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenure.engines.etcd.mailbox import EtcdMailbox
from tenure.engines.etcd.pipe import Pipe, Refused
from tenure.engines.listening import ByThread
from tenure.engines.stock import Stock
from tenure.errors import OutcomeUnknown

if TYPE_CHECKING:
    from tenure.engines.etcd.dial import Dialer
    from tenure.model import Seconds

CONNECTIONS_MOST: Final = 8
"""Of one client, for its calling threads; more of them wait for each other."""


class BlockingWire(Stock[Pipe]):
    """As `store.Wire`."""

    def __init__(self, dialer: Dialer, most: int = CONNECTIONS_MOST) -> None:
        super().__init__(dialer.dial, most)
        self._dialer = dialer

    async def exchange(self, path: str, message: bytes, timeout: Seconds) -> list[bytes]:
        pipe = self._idle_one()
        if pipe is None:
            pipe, timeout = self._take(timeout)
        try:
            messages = pipe.exchange(path, message, self._dialer.token, timeout)
        except Refused:
            self._give(pipe)
            raise
        except BaseException as error:
            self._drop(pipe)
            if not isinstance(error, OSError):
                raise
            # It may be stopped, or cut off from the others: the next connection leads to another node.
            self._dialer.avoid(pipe.address)
            what = (
                f"did not answer within {timeout:.3g} s" if isinstance(error, TimeoutError) else f"broke off: {error}"
            )
            raise OutcomeUnknown(f"etcd ({pipe.address}) {what}") from error
        self._give(pipe)
        return messages

    def forget(self) -> None:
        for pipe in self._empty():
            self._dialer.avoid(pipe.address)


class BlockingMailbox(ByThread, EtcdMailbox):
    """The mailbox for waiting threads."""
