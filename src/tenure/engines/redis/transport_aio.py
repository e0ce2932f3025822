"""Requests of the tasks of one loop, over one connection: many are under way, and replies come in order.

Promises: requests of one turn of the loop go out in one write; a cancelled request leaves the connection in order, for
its reply is taken and thrown away.
"""

from __future__ import annotations

from collections import deque
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from tenure.engines.connecting_aio import Connecting
from tenure.engines.listening_aio import ByTask
from tenure.engines.redis.mailbox import RedisMailbox
from tenure.errors import OutcomeUnknown
from tenure.model import Seconds

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from tenure.engines.redis.pipe import Pipe


Request = tuple["asyncio.Future[list[Any]]", int, float, Seconds]
"""Who waits, for how many replies, until when on the loop's clock, and how long that is in all."""

NEVER: Final = float("inf")

BURST: Final = 8
"""Requests after which a write does not wait for the end of the turn, so that the server has something to do."""


class AioWire(Connecting["Pipe"]):
    """As `store.Wire`. Belongs to one loop; made in any thread."""

    def __init__(self, open_pipe: Callable[[Seconds], Pipe], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._open = open_pipe
        self._requests: deque[Request] = deque()
        """Those that are under way, also of callers that were cancelled, for their replies come all the same."""
        self._answers: list[Any] = []
        """The replies to the first of them that have come."""
        self._out: list[bytes] = []
        self._is_due = False
        """A write is due at the end of this turn of the loop."""
        self._is_full = False
        """The loop watches for when the kernel takes more."""
        self._watchdog: asyncio.TimerHandle | None = None
        """One timer for all requests: one for each would cost as much as the request."""
        self._watches_until = NEVER

    def _dial(self, timeout: Seconds) -> Pipe:
        return self._open(timeout)

    def exchange(self, payload: bytes, replies: int, timeout: Seconds) -> Awaitable[list[Any]]:
        """As `Wire.exchange`.

        Cancellation: safe; the request may still have its effect.
        """
        if self._pipe is None:
            return self._connect_and_exchange(payload, replies, timeout)
        loop = self._loop
        future: asyncio.Future[list[Any]] = loop.create_future()
        until = loop.time() + timeout
        self._requests.append((future, replies, until, timeout))
        if until < self._watches_until:
            self._watch(until)
        self._out.append(payload)
        if len(self._out) >= BURST or len(self._requests) == 1:
            # The server works on these while the other tasks of this turn make theirs.
            self._write()
        elif not self._is_due:
            self._is_due = True
            loop.call_soon(self._write_due)
        return future

    async def _connect_and_exchange(self, payload: bytes, replies: int, timeout: Seconds) -> list[Any]:
        await self._connect(timeout)
        return await self.exchange(payload, replies, timeout)

    # -- bytes out, replies in --------------------------------------------------------------------------------------

    def _write_due(self) -> None:
        self._is_due = False
        self._write()

    def _write(self) -> None:
        """Send what there is, as far as the kernel takes it; the loop sends the rest."""
        pipe, out = self._pipe, self._out
        if pipe is None or not out or self._is_full:
            return
        try:
            rest = pipe.send(out[0] if len(out) == 1 else b"".join(out))
        except OSError as error:
            self._break(error)
            return
        out.clear()
        if rest:
            out.append(rest)
            self._is_full = True
            self._loop.add_writer(pipe.fileno(), self._write_rest)

    def _write_rest(self) -> None:
        if self._pipe is not None:
            self._is_full = False
            self._loop.remove_writer(self._pipe.fileno())
            self._write()

    def _read(self) -> None:
        if self._pipe is None:
            return
        try:
            came = self._pipe.take()
        except OSError as error:
            self._break(error)
            return
        requests, answers = self._requests, self._answers
        for answer in came:
            answers.append(answer)
            future, replies, _, _ = requests[0]
            if len(answers) == replies:
                requests.popleft()
                if not future.done():
                    future.set_result(answers)
                answers = self._answers = []

    # -- time -------------------------------------------------------------------------------------------------------

    def _watch(self, until: float) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._watches_until = until
        self._watchdog = None if until == NEVER else self._loop.call_at(until, self._look)

    def _look(self) -> None:
        """Give the connection up if a reply is overdue; else look again when the next will be."""
        awaited = (request for request in self._requests if not request[0].done())
        _, _, until, timeout = min(awaited, key=itemgetter(2), default=(None, 0, NEVER, NEVER))
        if until > self._loop.time():
            self._watch(until)
        else:
            # All behind it wait for the same server; what it answers after this must not be taken for a new request's.
            self._fail(OutcomeUnknown(f"Redis did not answer within {timeout:.3g} s"))

    # -- the end of a connection ------------------------------------------------------------------------------------

    def _break(self, error: OSError) -> None:
        self._fail(OutcomeUnknown(f"the connection to Redis broke during a request: {error}"))

    def _fail(self, error: OutcomeUnknown) -> None:
        """Give the connection up: whatever was under way may or may not have had its effect."""
        self._hang_up()
        self._watch(NEVER)
        requests, self._requests, self._answers, self._out = self._requests, deque(), [], []
        self._is_full = False
        for future, *_ in requests:
            if not future.done():
                # One for each: they are raised in different tasks, and each adds its own traceback.
                future.set_exception(OutcomeUnknown(*error.args))

    def forget(self) -> None:
        self._fail(OutcomeUnknown("the server is no master any more"))


class AioMailbox(ByTask, RedisMailbox):
    """The mailbox for waiting tasks."""
