"""The mailbox of a client of a cluster: a list in each partition that is waited for, read over a connection each.

BLPOP takes the lists of one slot only, so there is a connection for each partition in which somebody waits: none for
those that are only used, `LISTENED_MOST` at most. Whoever waits in one more looks again and again instead.

Promises: as `mailbox`, for each list; connecting to one, which may be lost, holds up none of the others.
Does not promise that a list which nobody waits for any more is left at once: its connection is kept until the session
that was waited for would have ended.
"""

from __future__ import annotations

import selectors
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from redis.exceptions import ResponseError

from tenure.engines.listening import NEVER, SILENCE_S, SLICE_S, ByThread, Listening, Pauses
from tenure.engines.listening_aio import ByTask
from tenure.engines.redis.cluster import named
from tenure.engines.redis.mailbox import BLPOP_S, mail
from tenure.engines.redis.partitions import partition_of
from tenure.engines.redis.scripts import command
from tenure.errors import OutcomeUnknown, SetupError, StoreUnavailable
from tenure.model import Instant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tenure.engines.listening import Events
    from tenure.engines.redis.cluster import Cluster, Node
    from tenure.engines.redis.partitions import Layout
    from tenure.engines.redis.pipe import Pipe
    from tenure.model import Seconds
    from tenure.ports import Peer, Runtime

LISTENED_MOST: Final = 32
"""Partitions that one client listens to at a time."""

KEEP_S: Final = 1.0
"""Seconds that a list is listened to after the last session that was waited for there is due."""


class Ends:
    """Where a client's lists are."""

    def __init__(
        self, cluster: Cluster, layout: Layout, address: str, opener: Callable[[Node], Callable[[Seconds], Pipe]]
    ) -> None:
        """Know nothing yet.

        Args:
            cluster: who serves which slot.
            layout: the partitions.
            address: the mailbox's part of the keys.
            opener: connects to a node.
        """
        self._cluster = cluster
        self._layout = layout
        self._address = address
        self._opener = opener

    def key(self, index: int) -> str:
        """The list of a partition."""
        return f"{{{self._layout.namespace}:{index}}}:m:{self._address}"

    def open(self, index: int, timeout: Seconds) -> tuple[Pipe, Node]:
        """Connect to the node that has a partition. Blocks.

        Raises:
            StoreUnavailable, UnsafeSetup, IncompatibleStore: it cannot be reached, or nobody has it.
        """
        until = time.monotonic() + timeout
        slot = self._layout.partition(index).slot
        if self._cluster.owner(slot) is None:
            self._cluster.learn(timeout)
        version, node = self._cluster.version, self._cluster.owner(slot)
        if node is None:
            raise StoreUnavailable(f"no master of the {self._cluster.shown} serves slot {slot}")
        try:
            return self._opener(node)(max(0.001, until - time.monotonic())), node
        except StoreUnavailable:
            self._cluster.doubt(version)
            raise

    def is_there(self, index: int, node: Node) -> bool:
        """Whether it still has it, as far as is known."""
        return self._cluster.owner(self._layout.partition(index).slot) in (None, node)

    def refused(self, node: Node, said: str) -> None:
        """A node has broken the connection, or has said that the list is not there."""
        self._cluster.doubt(self._cluster.version, named(said, node) if said.startswith("MOVED ") else None)


class _List:
    """The list of one partition."""

    def __init__(self, index: int, key: str, pauses: Pauses) -> None:
        self.index = index
        self.ask = command(("BLPOP", key, BLPOP_S))
        self.until = Instant(0.0)
        """When nobody waits there any more, as far as is known."""
        self.pipe: Pipe | None = None
        self.node: Node | None = None
        self.silent_at = NEVER
        """When the connection is given up; never while nothing is asked for."""
        self.is_dialling = False
        self.dial_at = Instant(0.0)
        self.pauses = pauses


class _Lists(Listening):
    """As `RedisMailbox`, over several lists."""

    def __init__(self, runtime: Runtime, ends: Ends) -> None:
        super().__init__()
        self.hints_only = False
        """As that of `RedisMailbox`."""
        self._runtime = runtime
        self._ends = ends
        self._lists: dict[int, _List] = {}
        self._dialled: deque[tuple[_List, Pipe | None, Node | None]] = deque()

    def watch(self, peers: Sequence[Peer]) -> bool:
        """As `Mailbox.watch`: listen where these sessions are. False where that would be one connection too many."""
        heard = True
        for peer in peers:
            index = partition_of(peer.session)
            is_new = index not in self._lists
            with self._mutex:
                if is_new and len(self._lists) >= LISTENED_MOST:
                    heard = False
                    continue
                found = self._lists.setdefault(index, self._list(index))
                found.until = max(found.until, Instant(peer.due + KEEP_S))
            if is_new:
                self._nudge()
        return heard

    def _list(self, index: int) -> _List:
        return _List(index, self._ends.key(index), Pauses(self._runtime.random))

    async def _turn(self, selector: selectors.BaseSelector, until: Instant | None) -> bool:
        left = self._tend(selector, until)
        return left <= 0 or self._heard(await self._ready(selector, left))

    # -- the connections --------------------------------------------------------------------------------------------

    def _tend(self, selector: selectors.BaseSelector, until: Instant | None) -> Seconds:
        """Connect, ask, and give up, wherever that is due; how long to wait in one go."""
        now = self._runtime.now()
        self._take_dialled(selector)
        # In slices: a timer sleeps through suspend.
        look_at = Instant(now + SLICE_S) if until is None else min(Instant(now + SLICE_S), until)
        for one in list(self._lists.values()):
            if self._is_left(one, now):
                self._drop_list(one)
            elif one.pipe is None:
                if not one.is_dialling and now >= one.dial_at:
                    self._dial_list(one, now)
                elif not one.is_dialling:
                    look_at = min(look_at, one.dial_at)
            elif now >= one.silent_at or (one.node is not None and not self._ends.is_there(one.index, one.node)):
                self._drop_list(one)
                look_at = now
            elif one.silent_at is NEVER and not self._ask_list(one, now):
                look_at = now
        # Somebody who waits always has a turn at the wake-ups, also if something is due again at once.
        return max(look_at - now, 0.001 if until is None or now < until else 0.0)

    def _is_left(self, one: _List, now: Instant) -> bool:
        with self._mutex:
            if now < one.until:
                return False
            self._lists.pop(one.index, None)
            return True

    def _ask_list(self, one: _List, now: Instant) -> bool:
        try:
            if one.pipe is not None:
                one.pipe.send(one.ask)  # so few bytes: the kernel takes them all
        except OSError:
            self._drop_list(one)
            return False
        one.silent_at = Instant(now + BLPOP_S + SILENCE_S)
        return True

    def _dial_list(self, one: _List, now: Instant) -> None:
        """Connect in a thread of its own: a node that is lost must not keep the reader from the others."""
        one.is_dialling = True
        timeout = one.pauses.patience
        one.dial_at = Instant(now + one.pauses.next())
        threading.Thread(target=self._dial_in_thread, args=(one, timeout), daemon=True).start()

    def _dial_in_thread(self, one: _List, timeout: Seconds) -> None:
        pipe, node = None, None
        with suppress(StoreUnavailable, OutcomeUnknown, SetupError):
            pipe, node = self._ends.open(one.index, timeout)
        with self._mutex:
            is_closed = self._is_closed
            if not is_closed:
                self._dialled.append((one, pipe, node))
        if is_closed and pipe is not None:
            pipe.close()
        self._nudge()

    def _take_dialled(self, selector: selectors.BaseSelector) -> None:
        while self._dialled:
            one, pipe, node = self._dialled.popleft()
            one.is_dialling = False
            if pipe is None or node is None:
                continue
            if self._lists.get(one.index) is not one:
                pipe.close()
                continue
            pipe.unblock()
            selector.register(pipe, selectors.EVENT_READ, (one, pipe, node))
            one.pipe, one.node = pipe, node
            # What the last connection may have taken along is listed at the next heartbeat, which is asked for at once.
            self.overflowed = True

    def _heard(self, events: Events) -> bool:
        hint = False
        for key, _ in events:
            if key.fileobj is self._wake:
                hint = self._was_poked() or hint
            elif key.data[0].pipe is key.fileobj:
                hint = self._took_from(*key.data) or hint
        return hint

    def _took_from(self, one: _List, pipe: Pipe, node: Node) -> bool:
        try:
            answers = pipe.take()
        except OSError:
            self._ends.refused(node, "")
            self._drop_list(one)
            return True
        hint = False
        for answer in answers:
            one.silent_at = NEVER
            if isinstance(answer, ResponseError):
                # The slot has moved, is on the move, its master has fallen: asked again where it is then, with pauses.
                self._ends.refused(node, str(answer))
                self._drop_list(one)
                one.dial_at = Instant(self._runtime.now() + one.pauses.next())
                return True
            one.pauses.over()
            if answer is not None:
                if (message := mail(answer[1], hints_only=self.hints_only)) is not None:
                    self._came.append(message)
                hint = True
        return hint

    def _drop_list(self, one: _List) -> None:
        pipe, one.pipe, one.node = one.pipe, None, None
        one.silent_at = NEVER
        if pipe is not None:
            if self._selector is not None:
                with suppress(KeyError, ValueError, OSError):
                    self._selector.unregister(pipe)
            pipe.close()

    def _dispose(self) -> None:
        super()._dispose()
        for one in list(self._lists.values()):
            if one.pipe is not None:
                one.pipe.close()
        while self._dialled:
            pipe = self._dialled.popleft()[1]
            if pipe is not None:
                pipe.close()


class BlockingMailboxes(ByThread, _Lists):
    """The mailbox for waiting threads."""


class AioMailboxes(ByTask, _Lists):
    """The mailbox for waiting tasks."""
